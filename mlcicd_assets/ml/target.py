"""The kinds of target: what is measured and ranked for each of them.

`labels` have shape (rows,): 0 or 1, the index of a class, or the number itself. `scores` have
shape (rows,); for several classes (rows, classes). What cannot be judged is NaN.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from mlcicd_assets.ml import metrics
from mlcicd_assets.ml.metrics import NAN, Array
from mlcicd_assets.ml.sections import COMPARED

STABLE_SD: Final = 0.1  # a number that moves by less, in sd of the labels, is no other decision


@dataclass(frozen=True)
class Target(ABC):
    """One kind of target; `classes` in the order of their indices, empty for a number.

    `compared` are the metrics by which a champion can be compared; `quality` is what the fairness
    gate compares between groups by default. `truths` and `rankings` are the same target as
    yes-or-no questions with a score each, for what can only be asked of those.
    """

    classes: tuple[str | int, ...]
    compared: tuple[str, ...]
    quality: ClassVar[str]

    @abstractmethod
    def missing(self, labels: Array) -> str:
        """Return what these labels lack to train or judge by, '' if nothing."""

    @abstractmethod
    def judged(self, labels: Array) -> int:
        """Return how many rows carry the evidence: positives, the rarest class, all."""

    @abstractmethod
    def metrics(self, labels: Array, scores: Array, threshold: float | None) -> dict[str, float]:
        """Return all metrics, with the number of rows."""

    @abstractmethod
    def resampled(self, labels: Array, scores: Array, count: int, seed: int) -> dict[str, Array]:
        """Return metrics on the rows as they are, then under each paired Poisson resample."""

    @abstractmethod
    def truths(self, labels: Array) -> dict[str, Array]:
        """Return the yes-or-no questions, each with its true answers (rows,)."""

    @abstractmethod
    def rankings(self, scores: Array) -> list[Array]:
        """Return a score (rows,) for each of the questions."""

    @abstractmethod
    def changed(self, labels: Array, before: Array, after: Array) -> Array:
        """Return which decisions (rows,) are other ones."""

    @abstractmethod
    def claims(self, labels: Array, scores: Array) -> tuple[Array, Array]:
        """Return what happened and what was expected (rows,), which should agree on average."""

    @abstractmethod
    def groups_quality(self, labels: Array, decisions: Array, wanted: str) -> Array:
        """Return the value of each row (NaN: does not count) whose mean compares groups."""

    @abstractmethod
    def predict(self, pipeline: Any, frame: Any) -> Array:
        """Return the scores of a scikit-learn pipeline."""


class Binary(Target):
    """Yes or no; a score is the probability of yes."""

    quality = "recall"

    def missing(self, labels: Array) -> str:
        """Both classes must be there."""
        positives = int((labels == 1).sum())
        one_class = positives in {0, len(labels)}
        return f"{positives} positives; both classes are needed" if one_class else ""

    def judged(self, labels: Array) -> int:
        """Count the positives."""
        return int((labels == 1).sum())

    def metrics(self, labels: Array, scores: Array, threshold: float | None) -> dict[str, float]:
        """See `classification_metrics`."""
        return metrics.classification_metrics(labels, scores, threshold=threshold or 0.0)

    def resampled(self, labels: Array, scores: Array, count: int, seed: int) -> dict[str, Array]:
        """Both ranking metrics."""
        return metrics.resampled_ranking(labels, scores, count, seed)

    def truths(self, labels: Array) -> dict[str, Array]:
        """One question."""
        return {"positives": labels == 1}

    def rankings(self, scores: Array) -> list[Array]:
        """The score itself."""
        return [scores]

    def changed(self, labels: Array, before: Array, after: Array) -> Array:
        """Another decision."""
        return before != after

    def claims(self, labels: Array, scores: Array) -> tuple[Array, Array]:
        """A score of p means that a share of p is positive."""
        return labels, scores

    def groups_quality(self, labels: Array, decisions: Array, wanted: str) -> Array:
        """Recall among positives, or the rate of alerts."""
        alerts = decisions.astype(float)
        return alerts if wanted == "alert_rate" else np.where(labels == 1, alerts, NAN)

    def predict(self, pipeline: Any, frame: Any) -> Array:
        """Probabilities of yes."""
        return pipeline.predict_proba(frame)[:, 1]


class Multiclass(Target):
    """One of several classes; scores are their probabilities."""

    quality = "accuracy"

    def missing(self, labels: Array) -> str:
        """Each class must be there."""
        counts = np.bincount(labels, minlength=len(self.classes))
        absent = [str(name) for name, n in zip(self.classes, counts, strict=True) if not n]
        return f"no row of class {', '.join(absent)}; each class is needed" if absent else ""

    def judged(self, labels: Array) -> int:
        """Count the rows of the rarest class."""
        return int(np.bincount(labels, minlength=len(self.classes)).min())

    def metrics(self, labels: Array, scores: Array, threshold: float | None) -> dict[str, float]:
        """ROC AUC is the mean of each class against the rest."""
        from sklearn.metrics import f1_score, log_loss

        counts = {"rows": float(len(labels))}
        names = ("roc_auc", "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
        if not _can_be_judged(labels, scores) or self.missing(labels):
            return dict.fromkeys(names, NAN) | counts
        as_they_are = {
            name: float(v[0]) for name, v in self.resampled(labels, scores, 0, 0).items()
        }
        index = range(len(self.classes))
        curve = metrics.calibration_bins(*self.claims(labels, scores))
        return (
            as_they_are
            | counts
            | {
                "macro_f1": float(f1_score(labels, scores.argmax(axis=1), average="macro")),
                "log_loss": float(log_loss(labels, scores, labels=list(index))),
                "ece": metrics.calibration_error(curve),
            }
        )

    def resampled(self, labels: Array, scores: Array, count: int, seed: int) -> dict[str, Array]:
        """Accuracy, its mean over the classes, and the mean ROC AUC of class against rest."""
        if not _can_be_judged(labels, scores) or self.missing(labels):
            return {name: np.full(count + 1, NAN) for name in self.compared}
        hits, truths = scores.argmax(axis=1) == labels, list(self.truths(labels).values())
        right: list[float] = []
        balanced: list[float] = []
        with np.errstate(invalid="ignore"):
            for weights in metrics.weightings(len(labels), count, seed):
                right.append(np.average(hits, weights=weights))
                each = [weights[truth & hits].sum() / weights[truth].sum() for truth in truths]
                balanced.append(float(np.mean(each)))
        aucs = [
            metrics.resampled_ranking(truth, score, count, seed)["roc_auc"]
            for truth, score in zip(truths, self.rankings(scores), strict=True)
        ]
        found = (np.mean(aucs, axis=0), np.array(right), np.array(balanced))
        return dict(zip(self.compared, found, strict=True))

    def truths(self, labels: Array) -> dict[str, Array]:
        """Each class against the rest."""
        return {f"class {name}": labels == index for index, name in enumerate(self.classes)}

    def rankings(self, scores: Array) -> list[Array]:
        """Each class's probability."""
        return list(scores.T)

    def changed(self, labels: Array, before: Array, after: Array) -> Array:
        """Another class."""
        return before != after

    def claims(self, labels: Array, scores: Array) -> tuple[Array, Array]:
        """The class taken is right as often as its probability says (Guo et al., ICML 2017)."""
        return (scores.argmax(axis=1) == labels).astype(float), scores.max(axis=1)

    def groups_quality(self, labels: Array, decisions: Array, wanted: str) -> Array:
        """Right decisions."""
        return (decisions == labels).astype(float)

    def predict(self, pipeline: Any, frame: Any) -> Array:
        """Probabilities of the classes."""
        return pipeline.predict_proba(frame)


class Regression(Target):
    """A number; the score is the number predicted."""

    quality = "mae"

    def missing(self, labels: Array) -> str:
        """The number must vary."""
        return "" if len(np.unique(labels)) > 1 else "the same number everywhere"

    def judged(self, labels: Array) -> int:
        """Count the rows."""
        return len(labels)

    def metrics(self, labels: Array, scores: Array, threshold: float | None) -> dict[str, float]:
        """R2, root mean squared error, mean absolute error and mean error, in the label's unit."""
        counts = {"rows": float(len(labels))}
        if not _can_be_judged(labels, scores) or self.missing(labels):
            return dict.fromkeys(("r2", "rmse", "mae", "bias"), NAN) | counts
        off = scores - labels
        return counts | {
            "r2": float(_r2(labels, scores, np.ones(len(labels)))),
            "rmse": float(np.sqrt(np.mean(off**2))),
            "mae": float(np.mean(np.abs(off))),
            "bias": float(np.mean(off)),
        }

    def resampled(self, labels: Array, scores: Array, count: int, seed: int) -> dict[str, Array]:
        """R2."""
        if not _can_be_judged(labels, scores) or self.missing(labels):
            return {"r2": np.full(count + 1, NAN)}
        weighted = metrics.weightings(len(labels), count, seed)
        return {"r2": np.array([_r2(labels, scores, weights) for weights in weighted])}

    def truths(self, labels: Array) -> dict[str, Array]:
        """Above the median, or not; where most are the highest, those."""
        middle = np.median(labels) if len(labels) else 0
        above = labels > middle
        return {"labels above the median": above if above.any() else labels == middle}

    def rankings(self, scores: Array) -> list[Array]:
        """The number predicted."""
        return [scores]

    def changed(self, labels: Array, before: Array, after: Array) -> Array:
        """Moved by more than `STABLE_SD` standard deviations of the labels."""
        return ~(np.abs(after - before) <= STABLE_SD * np.std(labels))  # NaN is another one

    def claims(self, labels: Array, scores: Array) -> tuple[Array, Array]:
        """Both in standard deviations of the labels."""
        middle, spread = np.mean(labels), np.std(labels)
        return (labels - middle) / spread, (scores - middle) / spread

    def groups_quality(self, labels: Array, decisions: Array, wanted: str) -> Array:
        """Absolute errors."""
        return np.abs(decisions - labels)

    def predict(self, pipeline: Any, frame: Any) -> Array:
        """Numbers."""
        return pipeline.predict(frame)


def target_of(kind: str, classes: Iterable[str | int] = ()) -> Target:
    """Return the target of a `label.target` with its classes."""
    kinds = {"binary": Binary, "multiclass": Multiclass, "regression": Regression}
    return kinds[kind](tuple(classes), COMPARED[kind])


def metric_intervals(
    target: Target, labels: Array, scores: Array, *, resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return 95 % percentile intervals of the compared metrics by the Poisson bootstrap."""
    found = target.resampled(labels, scores, resamples, seed)
    return {name: metrics.interval_95(values) for name, values in found.items()}


def compare_paired(
    target: Target,
    labels: Array,
    candidate: Array,
    champion: Array,
    *,
    metric: str,
    resamples: int,
    seed: int,
) -> metrics.Comparison:
    """Compare two models' scores of the same rows by a paired Poisson bootstrap.

    Each resample gives a row the same weight in both models, so what is hard for both cancels
    out (facts: a rule on its lower bound promotes needlessly 2.5 times a year, not 26).
    """
    ours, theirs = (
        target.resampled(labels, scores, resamples, seed)[metric]
        for scores in (candidate, champion)
    )
    judged = target.judged(labels)
    return metrics.compare_resampled(metric, ours, theirs, rows=len(labels), positives=judged)


def _can_be_judged(labels: Array, scores: Array) -> bool:
    return bool(len(labels) and np.isfinite(labels).all() and np.isfinite(scores).all())


def _r2(labels: Array, scores: Array, weights: Array) -> float:
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.average(labels, weights=weights)
        return 1 - np.sum(weights * (labels - scores) ** 2) / np.sum(
            weights * (labels - middle) ** 2
        )
