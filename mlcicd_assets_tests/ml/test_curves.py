"""The numbers behind the pictures, against scikit-learn and against the metrics of the gates."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics

from mlcicd_assets.ml import curves
from mlcicd_assets.ml.costs import row_costs
from mlcicd_assets.ml.curves import Chart, Line, charts
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets.ml.target import target_of
from mlcicd_assets_tests.ml.scoreds import DAY, HOLDOUT, scored, spec_of

COSTS = {"false_positive": 10, "false_negative": "amount", "true_positive": 10}
IMPORTANCE = {"x": (0.3, 0.2), "shop": (0.1, None), "gone": (None, 0.05)}
RNG = np.random.default_rng(5)


def by_name(drawn: tuple[Chart, ...] | list[Chart]) -> dict[str, Chart]:
    return {chart.name: chart for chart in drawn}


def line(chart: Chart, name: str = "candidate") -> Line:
    (found,) = [one for one in chart.lines if one.name == name]
    return found


def with_champion(since: int) -> tuple[Scored, Scored]:
    """A candidate, and a weaker champion that was trained on the holdout's first `since` days."""
    ours = scored(spec_of(costs=COSTS))
    noise = np.clip(ours.scores + RNG.normal(0, 0.1, len(ours.scores)), 0, 1)
    split = replace(ours.split, train_until=HOLDOUT + since * DAY)
    return ours, replace(ours, scores=noise, threshold=0.3, split=split)


def test_a_binary_model_is_drawn_as_the_metrics_say() -> None:
    ours = scored(spec_of(costs=COSTS))
    drawn = by_name(charts(ours, None, IMPORTANCE))
    assert list(drawn) == ["precision_recall", "roc", "calibration", "money", "importance"]
    roc, precision = line(drawn["roc"]), line(drawn["precision_recall"])
    area = np.trapezoid(np.append(0, roc.y), np.append(0, roc.x))
    assert area == pytest.approx(metrics.roc_auc_score(ours.labels, ours.scores), abs=0.002)
    average = np.sum(np.diff(precision.x, prepend=0) * precision.y)
    expected = metrics.average_precision_score(ours.labels, ours.scores)
    assert average == pytest.approx(expected, abs=0.005)
    told = ours.target.metrics(ours.labels, ours.scores, ours.threshold)
    assert precision.mark == pytest.approx((told["recall"], told["precision"]))
    assert len(roc.x) < len(ours.labels) / 2, "points that nobody can tell apart are drawn"
    assert drawn["roc"].diagonal


def test_money_is_the_metric_saving_at_every_threshold() -> None:
    ours = scored(spec_of(costs=COSTS))
    costs = row_costs(ours.split.holdout, ours.spec.gates.costs)
    money = line(by_name(charts(ours, None, IMPORTANCE))["money"])
    assert money.mark is not None
    assert money.mark[1] == pytest.approx(costs.saving(ours.decisions))
    for threshold, saving in list(zip(money.x, money.y, strict=True))[::40]:
        found = max(costs.saving(ours.scores >= threshold), curves.LEAST_SAVING)
        assert saving == pytest.approx(found)


def test_both_models_are_drawn_on_the_rows_that_the_champion_never_saw() -> None:
    ours, theirs = with_champion(20)
    unseen = (ours.split.holdout["at"] >= HOLDOUT + 20 * DAY).to_numpy()
    assert 0 < unseen.sum() < len(unseen)
    drawn = by_name(charts(ours, theirs, IMPORTANCE))
    for name, one in (("candidate", ours), ("champion", theirs)):
        told = ours.target.metrics(ours.labels[unseen], one.scores[unseen], one.threshold)
        assert line(drawn["precision_recall"], name).mark == pytest.approx(
            (told["recall"], told["precision"])
        )
    assert len(line(drawn["importance"], "champion").x) == 3


def test_without_judgeable_new_rows_the_candidate_is_drawn_alone_on_all() -> None:
    ours, theirs = with_champion(31)
    drawn = by_name(charts(ours, theirs, IMPORTANCE))
    assert [one.name for one in drawn["roc"].lines] == ["candidate"]
    assert line(drawn["roc"]).mark == line(by_name(charts(ours, None, {}))["roc"]).mark


@pytest.mark.parametrize("bad", ["scores", "champion", "labels"])
def test_what_cannot_be_judged_is_not_drawn(bad: str) -> None:
    ours, theirs = with_champion(0)
    broken = np.where(np.arange(len(ours.scores)) == 7, np.nan, ours.scores)
    if bad == "scores":
        ours = replace(ours, scores=broken)
    elif bad == "champion":
        theirs = replace(theirs, scores=broken)
    else:
        ours = replace(ours, labels=np.zeros_like(ours.labels))
    assert list(by_name(charts(ours, theirs, IMPORTANCE))) == ["importance"]


def test_a_threshold_above_every_score_has_no_mark() -> None:
    ours = scored(threshold=2.0)
    assert line(by_name(charts(ours, None, IMPORTANCE))["roc"]).mark is None


def test_each_class_is_drawn_against_the_rest() -> None:
    names = ["a", "b", "c", "d", "e"]
    labels = RNG.choice(5, 2_000, p=[0.3, 0.1, 0.25, 0.15, 0.2])
    scores = RNG.dirichlet(np.ones(5), 2_000) + np.eye(5)[labels] * 0.3
    scores /= scores.sum(axis=1, keepdims=True)
    even = np.full_like(scores, 0.2)
    models = {"candidate": (scores, None), "champion": (even, None)}
    drawn = by_name(curves._classes(labels, models, target_of("multiclass", names)))
    lines = drawn["roc"].lines
    shown = ["a", "c", "e", "d"]
    assert [one.name for one in lines[::2]] == [f"class {of}, candidate" for of in shown]
    assert [one.dashed for one in lines] == [False, True] * 4
    for of, one in zip(shown, lines[::2], strict=True):
        place = names.index(of)
        area = np.trapezoid(np.append(0, one.y), np.append(0, one.x))
        truth = metrics.roc_auc_score(labels == place, scores[:, place])
        assert area == pytest.approx(truth, abs=0.003)
    assert drawn["confusion"].names == tuple(names)
    confusion = drawn["confusion"].matrix
    assert np.array_equal(confusion, metrics.confusion_matrix(labels, scores.argmax(axis=1)))
    sure = line(drawn["calibration"])
    assert sure.y.mean() == pytest.approx((scores.argmax(axis=1) == labels).mean(), abs=0.01)


def test_a_number_is_drawn_beside_what_was_observed() -> None:
    labels = RNG.gamma(3, 100, 1_000)
    scores = labels + RNG.normal(20, 10, 1_000)
    models = {"candidate": (scores, None), "champion": (labels, None)}
    drawn = by_name(curves._numbers(labels, models))
    points = line(drawn["predicted"])
    assert len(points.x) == curves.FINEST
    assert np.all(np.isin(points.x, scores))
    assert np.all(np.isin(points.y, labels))
    errors = line(drawn["errors"])
    assert errors.y.sum() == 1_000
    assert np.average(errors.x, weights=errors.y) == pytest.approx(20, abs=4)
    tenths = line(drawn["calibration"])
    assert len(tenths.x) == 10
    assert (tenths.x - tenths.y).mean() == pytest.approx(20, abs=1)


def test_rare_events_are_calibrated_on_a_log_scale() -> None:
    expected = 10.0 ** RNG.uniform(-5, -0.5, 2_000)
    happened = (RNG.random(2_000) < expected).astype(int)
    assert curves._calibration({"candidate": (happened, expected)}).is_log
    assert not curves._calibration({"candidate": (happened, 0.5 + expected)}).is_log


def test_importance_starts_with_the_strongest_and_knows_whose_an_input_is() -> None:
    many = {f"f{n}": (1 / (n + 1), None) for n in range(30)}
    chart = by_name(charts(scored(), None, many))["importance"]
    assert chart.names == tuple(f"f{n}" for n in range(curves.MOST_BARS))
    assert [one.name for one in chart.lines] == ["candidate"]
    assert list(chart.lines[0].y[:2]) == [0, -1]
    mixed = by_name(charts(scored(), None, IMPORTANCE))["importance"]
    assert np.isnan(line(mixed, "champion").x).tolist() == [False, True, False]
