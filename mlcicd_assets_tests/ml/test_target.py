"""The three targets against scikit-learn, under weights, and where nothing can be judged."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from mlcicd_assets.ml.scoring import decide, largest_difference
from mlcicd_assets.ml.target import compare_paired, metric_intervals, target_of

NAN = float("nan")
Y3 = np.array([0, 1, 2, 0, 1, 2], dtype=np.int16)
P3 = np.eye(3)[Y3] * 0.4 + 0.2
Y1, S1 = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 3.0])
BINARY, NUMBER = target_of("binary"), target_of("regression")
CLASSES = target_of("multiclass", ("fine", "worn", "broken"))
METRICS = {
    "roc_auc": lambda y, p, w: np.mean(  # scikit-learn's own wants rows that sum to one exactly
        [sk.roc_auc_score(y == k, p[:, k], sample_weight=w) for k in range(3)]
    ),
    "accuracy": lambda y, p, w: sk.accuracy_score(y, p.argmax(axis=1), sample_weight=w),
    "balanced_accuracy": lambda y, p, w: sk.balanced_accuracy_score(
        y, p.argmax(axis=1), sample_weight=w
    ),
    "r2": lambda y, p, w: sk.r2_score(y, p, sample_weight=w),
}


def sample(target: Any, seed: int = 0, rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels of their own for each number of rows, scores with ties."""
    rng, drawn = np.random.default_rng(seed), np.random.default_rng(rows)
    if target is NUMBER:
        labels = drawn.integers(-9, 9, rows).astype(float)
        return labels, labels + rng.integers(-9, 9, rows)
    labels = np.array([0, 1, 2, *drawn.integers(0, 3, rows - 3)], dtype=np.int16)
    raw = rng.integers(1, 5, (rows, 3)) + np.eye(3)[labels]
    return labels, raw / raw.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rows", range(4, 60))
def test_metrics_equal_scikit_learn(rows: int) -> None:
    labels, scores = sample(CLASSES, rows=rows)
    taken, best = scores.argmax(axis=1), scores.max(axis=1)
    place = np.searchsorted(np.quantile(best, np.arange(1, 10) / 10), best)
    off = [abs(np.sum(((taken == labels) - best)[place == one])) for one in np.unique(place)]
    expected = {name: METRICS[name](labels, scores, None) for name in CLASSES.compared}
    expected |= {
        "macro_f1": sk.f1_score(labels, taken, average="macro"),
        "log_loss": sk.log_loss(labels, scores),
        "ece": sum(off) / rows,
        "rows": rows,
    }
    got = CLASSES.metrics(labels, scores, None)
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)
    labels, scores = sample(NUMBER, rows=rows)
    expected = {
        "r2": sk.r2_score(labels, scores),
        "rmse": sk.root_mean_squared_error(labels, scores),
        "mae": sk.mean_absolute_error(labels, scores),
        "bias": np.mean(scores) - np.mean(labels),
        "rows": rows,
    }
    more = NUMBER.metrics(labels, scores, None)
    assert more == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert {type(value) for value in (*got.values(), *more.values())} == {float}


COMPARED = [(target, name) for target in (CLASSES, NUMBER) for name in target.compared]


@pytest.mark.parametrize(("target", "name"), COMPARED)
def test_resamples_and_comparisons_are_weighted_as_scikit_learn_does(
    target: Any, name: str
) -> None:
    labels, ours = sample(target)
    theirs, rng = sample(target, seed=1)[1], np.random.default_rng(5)
    weights = [np.ones(200), *(rng.poisson(1.0, 200) for _ in range(60))]
    one, two = ([METRICS[name](labels, s, w) for w in weights] for s in (ours, theirs))
    got = target.resampled(labels, ours, 60, 5)
    assert set(got) == set(target.compared)
    assert got[name] == pytest.approx(one, rel=1e-12)
    bounds = metric_intervals(target, labels, ours, resamples=60, seed=5)[name]
    assert bounds == pytest.approx(tuple(np.quantile(one[1:], [0.025, 0.975])))
    pair = compare_paired(target, labels, ours, theirs, metric=name, resamples=60, seed=5)
    drawn = np.quantile(np.subtract(one, two)[1:], [0.05, 0.95])
    assert (pair.candidate, pair.champion) == pytest.approx((one[0], two[0]))
    assert (pair.lower_90, pair.upper_95) == pytest.approx(tuple(drawn))
    assert (pair.rows, pair.positives) == (200, target.judged(labels))
    same = compare_paired(target, labels, ours, ours, metric=name, resamples=60, seed=5)
    assert (same.difference, same.lower_90, same.upper_95) == (0, 0, 0)


@pytest.mark.parametrize(
    ("target", "labels", "scores"),
    [
        (CLASSES, Y3[:0], P3[:0]),
        (CLASSES, Y3[:1], P3[:1]),
        (CLASSES, np.array([0, 1, 0]), P3[:3]),  # no third class
        (CLASSES, Y3, np.where(P3 > 0.5, NAN, P3)),
        (CLASSES, Y3, np.where(P3 > 0.5, math.inf, P3)),
        (NUMBER, Y1[:0], S1[:0]),
        (NUMBER, np.ones(3), S1),
        (NUMBER, Y1, np.array([1.0, NAN, 3.0])),
        (NUMBER, np.array([1.0, NAN, 3.0]), S1),
        (NUMBER, Y1, np.array([1.0, math.inf, 3.0])),
    ],
)
def test_what_cannot_be_judged_is_nan(target: Any, labels: np.ndarray, scores: np.ndarray) -> None:
    got = target.metrics(labels, scores, None)
    assert [name for name, value in got.items() if not math.isnan(value)] == ["rows"]
    assert got.keys() == target.metrics(*((Y3, P3) if target is CLASSES else (Y1, S1)), None).keys()
    good = np.full(scores.shape, 1 / 3)
    for pair in ((good, scores), (scores, good)):
        found = compare_paired(
            target, labels, *pair, metric=target.compared[0], resamples=50, seed=0
        )
        assert np.isnan([found.difference, found.lower_90, found.upper_95]).all()
    assert len(target.truths(labels)) == len(target.rankings(scores))


def test_resamples_without_a_class_leave_no_bounds() -> None:
    pair = compare_paired(CLASSES, Y3[:3], P3[:3], P3[:3], metric="accuracy", resamples=99, seed=0)
    assert (pair.difference, pair.positives) == (0, 1)
    got = CLASSES.resampled(Y3[:3], P3[:3], 99, 0)
    for name in ("roc_auc", "balanced_accuracy"):
        assert got[name][0] == 1
        assert np.isnan(got[name][1:]).any()


def test_what_is_missing_is_named() -> None:
    assert CLASSES.missing(np.array([0, 2, 2], dtype=np.int16)).startswith("no row of class worn;")
    assert CLASSES.missing(Y3[:0]).startswith("no row of class fine, worn, broken;")
    assert CLASSES.missing(Y3) == NUMBER.missing(Y1) == BINARY.missing(np.array([0, 1])) == ""
    assert NUMBER.missing(np.ones(2)) == NUMBER.missing(Y1[:0]) == "the same number everywhere"
    assert BINARY.missing(np.ones(2)) == "2 positives; both classes are needed"
    judged = (CLASSES.judged(Y3[:5]), NUMBER.judged(Y1), BINARY.judged(np.array([0, 1, 0])))
    assert judged == (1, 3, 1)


def test_questions_and_their_rankings_stand_in_the_order_of_the_classes() -> None:
    truths, rankings = CLASSES.truths(Y3), CLASSES.rankings(P3)
    assert list(truths) == ["class fine", "class worn", "class broken"]
    for number, (truth, ranking) in enumerate(zip(truths.values(), rankings, strict=True)):
        assert (truth == (Y3 == number)).all()
        assert (ranking == P3[:, number]).all()
    for labels, above in (([1, 2, 3, 4], [0, 0, 1, 1]), ([0, 0, 0, 5], [0, 0, 0, 1])):
        (truth,) = NUMBER.truths(np.array(labels, dtype=float)).values()
        assert truth.tolist() == [bool(one) for one in above]
    (capped,) = NUMBER.truths(np.array([5.0, 1, 5, 5])).values()  # most are the highest
    assert capped.tolist() == [True, False, True, True]
    assert (NUMBER.rankings(S1)[0] == S1).all()


def test_decisions_changes_claims_and_the_quality_of_groups() -> None:
    tied = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])
    assert decide(tied, None).tolist() == [0, 1]
    assert decide(np.array([0.49, 0.5]), 0.5).tolist() == [False, True]
    assert (decide(S1, None) == S1).all()
    before = np.array([0, 1, 2])
    for target in (BINARY, CLASSES):
        assert target.changed(Y3, before, np.array([0, 2, 2])).tolist() == [False, True, False]
    unit = np.array([-1.0, 1.0])  # sd 1: a tenth is the same decision
    moved = NUMBER.changed(unit, np.zeros(4), np.array([0.1, -0.11, 0.11, NAN]))
    assert moved.tolist() == [False, True, True, True]
    happened, expected = CLASSES.claims(np.array([0, 2]), tied)
    assert (happened.tolist(), expected.tolist()) == ([1, 0], [0.4, 0.4])
    happened, expected = NUMBER.claims(10 + 2 * unit, np.array([12.0, 6.0]))
    assert (happened.tolist(), expected.tolist()) == ([-1, 1], [1, -2])
    assert CLASSES.groups_quality(Y3[:3], np.array([0, 2, 2]), "accuracy").tolist() == [1, 0, 1]
    assert NUMBER.groups_quality(Y1, S1, "mae").tolist() == [0, 1, 1]
    alerts = np.array([True, True, False])
    recall = BINARY.groups_quality(np.array([1, 0, 1]), alerts, "recall")
    assert np.array_equal(recall, [1, NAN, 0], equal_nan=True)
    rate = BINARY.groups_quality(np.array([1, 0, 1]), alerts, "alert_rate")
    assert rate.tolist() == [1, 1, 0]
    assert math.isnan(largest_difference(S1, np.ones((3, 3)) * S1))  # of another shape, no match
