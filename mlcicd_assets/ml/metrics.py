"""Metrics of a binary classifier, their intervals, and the paired comparison of two models."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlcicd_assets.ml.errors import DataError

MetricName = Literal["average_precision", "roc_auc"]
Array = npt.NDArray[Any]

NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same rows; bounds are of candidate minus champion.

    `lower_90` and `upper_95` are the 5 % and 95 % quantiles over paired resamples: the ends of
    the two-sided 90 % interval, each of them a one-sided 95 % bound. NaN where undefined.
    """

    metric: MetricName
    candidate: float
    champion: float
    difference: float
    lower_90: float
    upper_95: float
    rows: int
    positives: int

    def __str__(self) -> str:
        """The form shown to people."""
        return (
            f"{self.metric} {self.candidate:.4f} against {self.champion:.4f}, "
            f"difference {self.difference:+.4f}, 90 % interval "
            f"[{self.lower_90:+.4f}, {self.upper_95:+.4f}], "
            f"{self.rows} rows with {self.positives} positives"
        )


def classification_metrics(labels: Array, scores: Array, *, threshold: float) -> dict[str, float]:
    """Return the standard metrics of 0/1 labels and scores, both of shape (rows,).

    A row is an alert from score >= threshold on. What cannot be judged (no rows, one class,
    values that are not finite) is NaN, never a number that could pass a floor: precision also
    without any alert, brier and log_loss also when scores leave [0, 1].

    Raises:
        DataError: labels and scores differ in shape.
    """
    counts = {"positives": float(np.sum(labels == 1)), "rows": float(len(labels))}
    judged = dict.fromkeys(
        ("roc_auc", "average_precision", "brier", "log_loss", "precision", "recall", "alert_rate"),
        NAN,
    )
    if not _can_be_judged(labels, scores):
        return judged | counts
    truth, alerts = labels == 1, scores >= threshold
    ranking, weights = _rank(truth, scores), np.ones(len(scores))
    judged["roc_auc"] = _roc_auc(ranking, weights)
    judged["average_precision"] = _average_precision(ranking, weights)
    judged["alert_rate"] = float(alerts.mean())
    judged["recall"] = float(alerts[truth].mean())
    if alerts.any():
        judged["precision"] = float(truth[alerts].mean())
    if scores.min() >= 0 and scores.max() <= 1:
        judged["brier"] = float(np.mean((scores - truth) ** 2))
        judged["log_loss"] = _log_loss(truth, scores)
    return judged | counts


def metric_intervals(
    labels: Array, scores: Array, *, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile intervals by the Poisson bootstrap (NaN as in the metrics).

    Raises:
        DataError: labels and scores differ in shape.
    """
    if not _can_be_judged(labels, scores):
        return dict.fromkeys(_WEIGHTED, (NAN, NAN))
    ranking = _rank(labels == 1, scores)
    draws = np.array(
        [
            [measure(ranking, weights) for measure in _WEIGHTED.values()]
            for weights in _poisson(len(scores), resamples, seed)
        ]
    )
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(_WEIGHTED)}


def compare_paired(
    labels: Array,
    candidate: Array,
    champion: Array,
    *,
    metric: MetricName,
    resamples: int,
    seed: int,
) -> Comparison:
    """Compare two models' scores of the same rows by a paired Poisson bootstrap.

    Each resample gives a row the same weight in both models, so what is hard for both cancels
    out (facts: a rule on its lower bound promotes needlessly 2.5 times a year, not 26).

    Raises:
        DataError: labels and scores differ in shape.
    """
    rows, positives = len(labels), int(np.sum(labels == 1))
    judged = [_can_be_judged(labels, scores) for scores in (candidate, champion)]
    if not all(judged):
        return Comparison(metric, NAN, NAN, NAN, NAN, NAN, rows, positives)
    measure = _WEIGHTED[metric]
    new, old = _rank(labels == 1, candidate), _rank(labels == 1, champion)
    draws = [measure(new, w) - measure(old, w) for w in _poisson(rows, resamples, seed)]
    lower, upper = np.quantile(draws, (0.05, 0.95))
    ones = np.ones(rows)
    ours, theirs = measure(new, ones), measure(old, ones)
    return Comparison(
        metric=metric,
        candidate=ours,
        champion=theirs,
        difference=ours - theirs,
        lower_90=float(lower),
        upper_95=float(upper),
        rows=rows,
        positives=positives,
    )


def entity_precision(
    days: Array, entities: Array, labels: Array, scores: Array, *, k: int
) -> float:
    """Return the mean over days of the share of true positives among the top k entities.

    Card precision top-k of the Fraud Detection Handbook (chapter 4): an entity's score and
    label of a day are its highest; a day with fewer entities still divides by k; an entity
    found with label 1 is left out on later days. Equal scores go by entity, so that the order
    of the rows does not matter. All arrays of shape (rows,); entities without nulls.

    Raises:
        DataError: labels and scores differ in shape.
    """
    if not _can_be_judged(labels, scores):
        return NAN
    codes = np.unique(entities, return_inverse=True)[1]
    found = np.zeros(codes.max() + 1, dtype=bool)
    shares: list[float] = []
    for day in np.unique(days):
        rows = np.flatnonzero((days == day) & ~found[codes])
        ranked = codes[rows[np.lexsort((codes[rows], -scores[rows]))]]
        firsts = np.sort(np.unique(ranked, return_index=True)[1])
        top = ranked[firsts[:k]]
        hits = top[np.isin(top, codes[rows[labels[rows] == 1]])]
        found[hits] = True
        shares.append(len(hits) / k)
    return float(np.mean(shares))


@dataclass(frozen=True)
class _Ranking:
    """Rows by falling score: their order, their truth, and the last row of each tie."""

    order: Array
    truth: Array
    ends: Array


def _rank(truth: Array, scores: Array) -> _Ranking:
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return _Ranking(order, truth[order], ends)


def _cumulated(ranking: _Ranking, weights: Array) -> tuple[Array, Array]:
    """Weights of the positives, and of all rows, down to the end of each tie."""
    ordered = weights[ranking.order]
    positives = np.cumsum(ordered * ranking.truth)[ranking.ends]
    return positives, np.cumsum(ordered)[ranking.ends]


def _average_precision(ranking: _Ranking, weights: Array) -> float:
    positives, everything = _cumulated(ranking, weights)
    gained = np.diff(positives, prepend=0)
    at = gained > 0  # elsewhere recall stands still, and `everything` may be 0
    if not at.any():
        return NAN
    return float(np.sum(gained[at] * positives[at] / everything[at]) / positives[-1])


def _roc_auc(ranking: _Ranking, weights: Array) -> float:
    positives, everything = _cumulated(ranking, weights)
    negatives = everything - positives
    if positives[-1] <= 0 or negatives[-1] <= 0:
        return NAN
    heights = positives - np.diff(positives, prepend=0) / 2
    area = np.sum(np.diff(negatives, prepend=0) * heights)
    return float(area / (positives[-1] * negatives[-1]))


_WEIGHTED: dict[MetricName, Callable[[_Ranking, Array], float]] = {
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
}


def _log_loss(truth: Array, scores: Array) -> float:
    tiny = np.finfo(np.float64).eps
    sure = np.clip(np.where(truth, scores, 1 - scores), tiny, 1 - tiny)
    return float(-np.mean(np.log(sure)))


def _poisson(rows: int, resamples: int, seed: int) -> Iterator[Array]:
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.poisson(1.0, rows)


def _can_be_judged(labels: Array, scores: Array) -> bool:
    if labels.shape != scores.shape or labels.ndim != 1:
        raise DataError(
            f"labels have shape {labels.shape}, scores {scores.shape}: give one score per label"
        )
    both = bool(np.isin(labels, (0, 1)).all()) and len(np.unique(labels)) == 2
    return both and bool(np.isfinite(scores).all())
