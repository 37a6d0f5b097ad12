import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlcicd_assets.ml import metrics
from mlcicd_assets.ml.target import compare_paired, metric_intervals, target_of

BINARY = target_of("binary")

NAN = float("nan")
CANNOT_BE_JUDGED = {
    "no rows": ([], []),
    "no positive": ([0, 0], [0.1, 0.2]),
    "no negative": ([1, 1], [0.1, 0.2]),
    "undefined score": ([0, 1], [0.1, NAN]),
    "infinite score": ([0, 1], [0.1, math.inf]),
    "undefined label": ([1, NAN], [0.1, 0.2]),
    "another label": ([1, 2], [0.1, 0.2]),
}


@st.composite
def judged_rows(draw):
    """Labels of both classes, scores with many ties, weights with zeros for each row."""
    rows = draw(st.integers(2, 60))
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    labels[0], labels[1] = 0, 1
    grid = draw(st.sampled_from([2, 5, 1000]))
    scores = draw(st.lists(st.integers(0, grid), min_size=rows, max_size=rows))
    weights = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    return np.array(labels), np.array(scores) / grid, np.array(weights)


def sample(rows=2_000, seed=0, signal=1.5):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.1).astype(int)
    return labels, 1 / (1 + np.exp(2 - signal * labels - rng.normal(size=rows)))


@settings(max_examples=150, deadline=None)
@given(judged_rows())
def test_weighted_ranking_metrics_equal_scikit_learn(rows):
    labels, scores, weights = rows
    got = {k: v[0] for k, v in metrics._weighted_metrics(labels, scores, [weights]).items()}
    expected = {"roc_auc": NAN, "average_precision": NAN}
    kept = labels[weights > 0]
    if kept.any():
        expected["average_precision"] = sk.average_precision_score(
            labels, scores, sample_weight=weights
        )
    if len(set(kept)) == 2:
        expected["roc_auc"] = sk.roc_auc_score(labels, scores, sample_weight=weights)
    assert got == pytest.approx(expected, rel=0, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(judged_rows(), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
def test_standard_metrics_equal_scikit_learn(rows, threshold):
    labels, scores, _ = rows
    alerts = scores >= threshold
    got = metrics.classification_metrics(labels, scores, threshold=threshold)
    expected = {
        "roc_auc": sk.roc_auc_score(labels, scores),
        "average_precision": sk.average_precision_score(labels, scores),
        "brier": sk.brier_score_loss(labels, scores),
        "log_loss": sk.log_loss(labels, scores),
        "ece": metrics.calibration_error(metrics.calibration_curve(labels, scores)),
        "precision": sk.precision_score(labels, alerts, zero_division=np.nan),
        "recall": sk.recall_score(labels, alerts),
        "alert_rate": alerts.mean(),
        "positives": labels.sum(),
        "rows": len(labels),
    }
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12, nan_ok=True)
    assert all(type(value) is float for value in got.values())


@pytest.mark.parametrize("case", CANNOT_BE_JUDGED)
def test_what_cannot_be_judged_is_nan(case):
    labels, scores = (np.array(part, dtype=float) for part in CANNOT_BE_JUDGED[case])
    got = metrics.classification_metrics(labels, scores, threshold=0.5)
    assert {name for name, value in got.items() if not math.isnan(value)} == {"rows", "positives"}
    assert len(got) == 10
    assert (got["rows"], got["positives"]) == (len(labels), np.sum(labels == 1))
    intervals = metric_intervals(BINARY, labels, scores, resamples=50, seed=0)
    assert np.isnan([bound for pair in intervals.values() for bound in pair]).all()
    assert metrics.calibration_curve(labels, scores) == ()
    ones = np.ones(len(labels))
    assert math.isnan(metrics.entity_precision(ones, ones, labels, scores, k=1))


@pytest.mark.parametrize("case", CANNOT_BE_JUDGED)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_comparison_with_one_unjudged_side_is_undefined(case, swapped):
    labels, bad = (np.array(part, dtype=float) for part in CANNOT_BE_JUDGED[case])
    good = np.linspace(0.1, 0.9, len(labels))
    pair = (good, bad) if swapped else (bad, good)
    got = compare_paired(BINARY, labels, *pair, metric="roc_auc", resamples=50, seed=0)
    assert np.isnan([got.difference, got.lower_90, got.upper_95]).all()
    assert (got.rows, got.positives) == (len(labels), np.sum(labels == 1))


def test_without_any_alert_precision_is_nan_and_recall_zero():
    got = metrics.classification_metrics(np.array([0, 1]), np.array([0.1, 0.2]), threshold=0.5)
    assert math.isnan(got["precision"])
    assert (got["recall"], got["alert_rate"]) == (0, 0)


def test_an_interval_is_the_middle_95_percent_of_the_resamples():
    labels, scores = sample(300)
    rng = np.random.default_rng(5)
    draws = [
        sk.roc_auc_score(labels, scores, sample_weight=rng.poisson(1.0, 300)) for _ in range(100)
    ]
    got = metric_intervals(BINARY, labels, scores, resamples=100, seed=5)
    assert got["roc_auc"] == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("metric", "score"),
    [("roc_auc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)],
)
def test_the_comparison_gives_both_models_the_same_weights(metric, score):
    labels, champion = sample(300)
    candidate = sample(300, signal=2.5)[1]
    rng = np.random.default_rng(5)
    draws = [
        score(labels, candidate, sample_weight=w) - score(labels, champion, sample_weight=w)
        for w in (rng.poisson(1.0, 300) for _ in range(100))
    ]
    got = compare_paired(BINARY, labels, candidate, champion, metric=metric, resamples=100, seed=5)
    assert (got.lower_90, got.upper_95) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert got.candidate == pytest.approx(score(labels, candidate))
    assert got.champion == pytest.approx(score(labels, champion))
    assert got.difference == pytest.approx(got.candidate - got.champion)
    assert (got.metric, got.rows, got.positives) == (metric, 300, labels.sum())


def test_a_comparison_reads_well():
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    got = compare_paired(BINARY, labels, scores, -scores, metric="roc_auc", resamples=50, seed=3)
    assert str(got).startswith("roc_auc 1.0000 against 0.0000, difference +1.0000, 90 % interval [")
    assert str(got).endswith("4 rows with 2 positives")


def test_resamples_without_a_positive_leave_no_bounds():
    labels, scores = np.array([0, 0, 0, 1]), np.array([0.1, 0.2, 0.3, 0.4])
    got = compare_paired(
        BINARY, labels, scores, scores, metric="average_precision", resamples=100, seed=0
    )
    assert (got.candidate, got.champion) == (1, 1)
    assert np.isnan([got.lower_90, got.upper_95]).all()


def handbook_card_precision(days, entities, labels, scores, k):
    """The Handbook's card_precision_top_k, in plain Python (scores without ties)."""
    found, shares = set(), []
    for day in sorted(set(days)):
        best, fraud = {}, {}
        for d, entity, label, score in zip(days, entities, labels, scores, strict=True):
            if d == day and entity not in found:
                best[entity] = max(best.get(entity, -1), score)
                fraud[entity] = max(fraud.get(entity, 0), label)
        top = sorted(best, key=best.__getitem__, reverse=True)[:k]
        hits = [entity for entity in top if fraud[entity] == 1]
        shares.append(len(hits) / k)
        found.update(hits)
    return sum(shares) / len(shares)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80), st.integers(1, 8))
def test_entity_precision_equals_the_handbooks(seed, rows, k):
    rng = np.random.default_rng(seed)
    days, entities = rng.integers(0, 4, rows), rng.integers(0, 12, rows)
    labels, scores = (rng.random(rows) < 0.3).astype(int), rng.permutation(rows) / rows
    labels[:2] = 0, 1
    got = metrics.entity_precision(days, entities, labels, scores, k=k)
    assert got == pytest.approx(handbook_card_precision(days, entities, labels, scores, k))


def test_entity_precision_takes_names_and_breaks_ties_whatever_the_row_order():
    days = np.array([0, 0, 0, 0, 0, 1])
    entities = np.array([*"dcaeb", "f"], dtype=object)
    labels, scores = np.array([1, 1, 0, 1, 1, 1]), np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.2])
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 5, 0, 4, 2, 1]):
        parts = (part[order] for part in (days, entities, labels, scores))
        assert metrics.entity_precision(*parts, k=1) == 0.5


def test_calibration_is_judged_in_ten_bins_of_equal_mass():
    labels, scores = sample(2_000)
    curve = metrics.calibration_curve(labels, scores)
    assert [one.rows for one in curve] == [200] * 10
    parts = np.array_split(np.argsort(scores), 10)
    assert [one.mean_score for one in curve] == pytest.approx([scores[p].mean() for p in parts])
    assert [one.mean_label for one in curve] == pytest.approx([labels[p].mean() for p in parts])
    off = np.mean([abs(scores[part].mean() - labels[part].mean()) for part in parts])
    assert metrics.calibration_error(curve) == pytest.approx(off)


@pytest.mark.parametrize("reverse", [False, True])
def test_tied_scores_share_a_bin_whatever_the_order_of_the_rows(reverse):
    labels, scores = np.array([0, 1] * 50 + [1] * 10), np.array([0.25] * 100 + [1.0] * 10)
    order = slice(None, None, -1 if reverse else 1)
    curve = metrics.calibration_curve(labels[order], scores[order])
    bins = [(one.mean_score, one.mean_label, one.rows) for one in curve]
    assert bins == [(0.25, 0.5, 100), (1.0, 1.0, 10)]
    assert metrics.calibration_error(curve) == pytest.approx(0.25 * 100 / 110)


@settings(max_examples=100, deadline=None)
@given(judged_rows())
def test_an_auc_by_ranks_equals_scikit_learns(rows):
    labels, scores, _ = rows
    assert metrics.rank_auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
    ends = np.where(scores == scores.min(), -math.inf, scores)
    assert metrics.rank_auc(labels, ends) == metrics.rank_auc(labels, scores)


@pytest.mark.parametrize(
    ("labels", "values"), [([], []), ([1, 1], [1, 2]), ([0, 0], [1, 2]), ([0, 1], [1, NAN])]
)
def test_an_auc_by_ranks_of_what_cannot_be_judged_is_nan(labels, values):
    assert math.isnan(metrics.rank_auc(np.array(labels), np.array(values, dtype=float)))
