"""Metrics of a binary classifier, intervals, calibration, and the paired comparison of two models.

Labels are 0 or 1, labels and scores of shape (rows,). What cannot be judged (no rows, one class,
another label, a score that is not finite) is NaN, never a number that could pass a floor.
ml/target.py says what is measured for which kind of target.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """One metric of two models on the same rows; bounds are of candidate minus champion.

    `lower_90` and `upper_95` are the 5 % and 95 % quantiles over paired resamples: the ends of
    the two-sided 90 % interval, each of them a one-sided 95 % bound. NaN where undefined.
    """

    metric: str
    candidate: float
    champion: float
    difference: float
    lower_90: float
    upper_95: float
    rows: int
    positives: int  # of several classes the rarest, of a number all rows

    def __str__(self) -> str:
        """The form shown to people."""
        return (
            f"{self.metric} {self.candidate:.4f} against {self.champion:.4f}, "
            f"difference {self.difference:+.4f}, 90 % interval "
            f"[{self.lower_90:+.4f}, {self.upper_95:+.4f}], "
            f"{self.rows} rows with {self.positives} positives"
        )


@dataclass(frozen=True)
class CalibrationBin:
    """About a tenth of the rows, of neighbouring scores; `mean_label`: the share of positives."""

    mean_score: float
    mean_label: float
    rows: int


_JUDGED = (
    *("roc_auc", "average_precision", "brier", "log_loss", "ece"),
    *("precision", "recall", "alert_rate"),
)


def classification_metrics(labels: Array, scores: Array, *, threshold: float) -> dict[str, float]:
    """Return the standard metrics of probabilities; a row is an alert from `threshold` on.

    Precision is NaN without any alert.
    """
    from sklearn import metrics

    counts = {"positives": float(np.sum(labels == 1)), "rows": float(len(labels))}
    if not _can_be_judged(labels, scores):
        return dict.fromkeys(_JUDGED, NAN) | counts
    truth, alerts = labels == 1, scores >= threshold
    values = (
        metrics.roc_auc_score(truth, scores),
        metrics.average_precision_score(truth, scores),
        metrics.brier_score_loss(truth, scores),
        metrics.log_loss(truth, scores),
        calibration_error(calibration_curve(labels, scores)),
        truth[alerts].mean() if alerts.any() else NAN,
        alerts[truth].mean(),
        alerts.mean(),
    )
    return dict(zip(_JUDGED, map(float, values), strict=True)) | counts


def calibration_curve(labels: Array, scores: Array) -> tuple[CalibrationBin, ...]:
    """Return `calibration_bins` of a binary classifier; none where undefined."""
    return calibration_bins(labels, scores) if _can_be_judged(labels, scores) else ()


def calibration_bins(labels: Array, scores: Array) -> tuple[CalibrationBin, ...]:
    """Return ten bins of equal mass by score, fewer if tied; none where undefined."""
    if not (len(labels) and np.isfinite(labels).all() and np.isfinite(scores).all()):
        return ()
    place = np.searchsorted(np.quantile(scores, np.arange(1, 10) / 10), scores)
    bins = [place == number for number in np.unique(place)]
    return tuple(
        CalibrationBin(float(scores[i].mean()), float(labels[i].mean()), int(i.sum())) for i in bins
    )


def calibration_error(curve: tuple[CalibrationBin, ...]) -> float:
    """Return the mean distance of score and share of positives over the rows (ECE)."""
    off = sum(one.rows * abs(one.mean_score - one.mean_label) for one in curve)
    return off / sum(one.rows for one in curve) if curve else NAN


def rank_auc(labels: Array, values: Array) -> float:
    """Return the ROC AUC of any values, infinite ones too, from their ranks (Mann-Whitney)."""
    import polars as pl

    positive = labels == 1  # of bool labels, too
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others or np.isnan(values).any():
        return NAN
    ranks = pl.Series(values).rank("average").to_numpy()
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def interval_95(values: Array) -> tuple[float, float]:
    """Return the percentile interval of what a metric is by itself, then under each resample."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return float(low), float(high)


def compare_resampled(
    metric: str, ours: Array, theirs: Array, *, rows: int, positives: int
) -> Comparison:
    """Compare what a metric is by itself, then under each resample, with equal weights."""
    differences = ours - theirs
    lower, upper = np.quantile(differences[1:], (0.05, 0.95))
    return Comparison(
        metric=metric,
        candidate=float(ours[0]),
        champion=float(theirs[0]),
        difference=float(differences[0]),
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
    """
    import polars as pl

    if not _can_be_judged(labels, scores):
        return NAN
    rows = pl.DataFrame({"day": days, "entity": entities, "label": labels, "score": scores})
    found: set[Any] = set()
    shares: list[float] = []
    for day in rows.sort("day").partition_by("day"):
        highest = day.filter(~pl.col("entity").is_in(found)).group_by("entity").max()
        top = highest.sort("score", "entity", descending=[True, False]).head(k)
        hits = top.filter(pl.col("label") == 1)["entity"]
        found.update(hits)
        shares.append(len(hits) / k)
    return float(np.mean(shares))


def weightings(rows: int, resamples: int, seed: int) -> Iterable[Array]:
    """Return weights of the rows as they are, then of each Poisson resample.

    Equal seeds give equal weights whatever the scores: this is what pairs two models.
    """
    rng = np.random.default_rng(seed)
    return chain([np.ones(rows)], (rng.poisson(1.0, rows) for _ in range(resamples)))


def resampled_ranking(labels: Array, scores: Array, resamples: int, seed: int) -> dict[str, Array]:
    """Return each ranking metric on the rows as they are, then under each Poisson resample."""
    if not _can_be_judged(labels, scores):
        return {name: np.full(resamples + 1, NAN) for name in ("roc_auc", "average_precision")}
    return _weighted_metrics(labels, scores, weightings(len(scores), resamples, seed))


def _weighted_metrics(labels: Array, scores: Array, weighted: Iterable[Array]) -> dict[str, Array]:
    """Each ranking metric under each weighting (whole numbers) of the rows, ties as scikit-learn.

    Both from the cumulated weights down to the end of each tie; sorted once, as scikit-learn
    cannot. NaN where the weights leave nothing to judge by.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    positive = labels[order] == 1
    auc: list[float] = []
    precision: list[float] = []
    for weights in weighted:
        ordered = weights[order]
        everything = np.append(0, np.cumsum(ordered)[ends])
        positives = np.append(0, np.cumsum(ordered * positive)[ends])
        negatives = everything - positives
        with np.errstate(invalid="ignore"):
            auc.append(np.trapezoid(positives, negatives) / (positives[-1] * negatives[-1]))
            gained = np.diff(positives) / positives[-1]
        precision.append(np.sum(gained * positives[1:] / np.maximum(everything[1:], 1)))
    return {"roc_auc": np.array(auc), "average_precision": np.array(precision)}


def _can_be_judged(labels: Array, scores: Array) -> bool:
    return np.array_equal(np.unique(labels), [0, 1]) and bool(np.isfinite(scores).all())
