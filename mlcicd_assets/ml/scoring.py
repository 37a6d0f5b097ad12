"""Scores from plain arrays with numpy alone: what serving runs instead of a Python model object.

Trees follow scikit-learn's own comparisons: one step down for all trees and rows at once, a
leaf pointing at itself, values added in tree order. Forests come out bit-equal; boosting and
logistic regression within the last bits of exp().
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlcicd_assets.ml.errors import BundleError, SpecError
from mlcicd_assets.ml.extensions import transformer

Floats = NDArray[np.float64]

FORMATS: Final = (1, 2)  # the second: several classes, and numbers
# What is not installed where models are only served.
SERVING_LACKS: Final = (
    *("pandas", "sklearn", "polars", "mlflow", "dagster"),
    *("sqlalchemy", "deltalake", "pyarrow", "skops"),
)
CHUNK_ROWS: Final = 500  # measured: the work arrays of a few hundred trees stay in the cache
STEPS_BETWEEN_REST: Final = 4  # measured: how often the walks that reached a leaf are set aside
TREE_ARRAYS: Final = {
    "roots": "<i4",
    "feature": "<i4",
    "threshold": "<f8",
    "left": "<i4",
    "right": "<i4",
    "missing_left": "|b1",
    "value": "<f8",
}
LINEAR_ARRAYS: Final = {"fill": "<f8", "mean": "<f8", "scale": "<f8", "coefficient": "<f8"}


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """What `Scorer` takes: JSON-able `meta`, and flat float64, int32 and bool arrays."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Scorer:
    """A model as plain arrays (made by `ml/export.py`).

    Raises:
        BundleError: made by another version, a tree leads outside the arrays, or a transformer
            is not installed here as it was in training.
    """

    def __init__(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if meta.get("format") not in FORMATS:
            raise BundleError(
                "this model is not of the format that this version reads: train again"
            )
        self._numbers: list[str] = meta["numbers"]
        # Matrix columns: the numbers, then one for each known value of each category.
        self._slots: list[tuple[str, dict[str, int]]] = []
        self._width = len(self._numbers)
        for name, values in meta["categories"]:
            self._slots.append((name, {value: self._width + i for i, value in enumerate(values)}))
            self._width += len(values)
        self._transforms = _transforms(meta.get("transforms", {}), arrays)
        trees = meta["kind"] == "trees"
        self._model = _Trees(meta, arrays, self._width) if trees else _Linear(meta, arrays)

    def score(self, columns: Mapping[str, np.ndarray]) -> Floats:
        """Return the probability of the positive class, or the number: float64 of shape (n,).

        Of several classes the probabilities of all, shape (n, classes).
        `columns` holds one (n,) array per input: float64 with NaN for null, or an object array
        of str with "" for null. A number beyond float32 counts as infinite where scikit-learn
        itself compares in float32.
        """
        rows = len(next(iter(columns.values())))
        parts = [
            self._model.score(self._matrix(columns, slice(start, min(start + CHUNK_ROWS, rows))))
            for start in range(0, max(rows, 1), CHUNK_ROWS)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _matrix(self, columns: Mapping[str, np.ndarray], part: slice) -> Floats:
        x = np.zeros((part.stop - part.start, self._width), dtype=np.float64)
        for position, name in enumerate(self._numbers):
            values = columns[name][part]
            x[:, position] = self._transforms[name](values) if name in self._transforms else values
        for name, slots in self._slots:
            for row, value in enumerate(columns[name][part]):
                if value in slots:
                    x[row, slots[value]] = 1.0
        return x


class _Trees:
    """All nodes of all trees in one row of arrays; `roots` says where each tree starts."""

    def __init__(
        self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], width: int
    ) -> None:
        _check_nodes(arrays, width)
        self._single = meta["compare"] == "float32"
        self._combine: str = meta["combine"]
        self._baseline: Any = np.array(meta["baseline"])
        self._roots = arrays["roots"].astype(np.intp)
        self._feature = arrays["feature"].astype(np.intp)
        self._threshold = arrays["threshold"]
        self._missing_left = arrays["missing_left"]
        self._value = arrays["value"]
        self._inner = arrays["left"] != np.arange(len(arrays["left"]))
        # Index 2 * node + 1 holds the left child, so a comparison's result is the offset.
        self._children = np.stack([arrays["right"], arrays["left"]], axis=1).ravel().astype(np.intp)

    def score(self, x: Floats) -> Floats:
        if self._single:
            with np.errstate(over="ignore"):
                x = x.astype(np.float32).astype(np.float64)
        values = self._value[self._leaves(x)]
        # cumsum adds strictly in tree order, as scikit-learn does; sum() would add in pairs.
        if self._combine == "mean":
            return np.cumsum(values, axis=0)[-1] / len(self._roots)
        if self._baseline.ndim:  # each round has a tree for each class, one after the other
            classes = len(self._baseline)
            rounds = values.reshape(len(values) // classes, classes, values.shape[1])
            values = rounds.transpose(0, 2, 1)
        values[0] += self._baseline
        return _LINKS[self._combine](np.cumsum(values, axis=0)[-1])

    def _leaves(self, x: Floats) -> NDArray[np.intp]:
        """Node reached by each row in each tree, shape (trees, rows)."""
        rows, width = x.shape
        flat = x.ravel()
        reached = np.repeat(self._roots, rows)
        walking = np.arange(len(reached))
        node = reached
        start = np.tile(np.arange(rows, dtype=np.intp) * width, len(self._roots))
        while len(walking):
            for _ in range(STEPS_BETWEEN_REST):
                value = flat[self._feature[node] + start]
                left = value <= self._threshold[node]
                left |= np.isnan(value) & self._missing_left[node]
                node = self._children[2 * node + left]
            reached[walking] = node
            on = self._inner[node]
            walking, node, start = walking[on], node[on], start[on]
        return reached.reshape(len(self._roots), rows)


class _Linear:
    """Median for null, standardised numbers, one coefficient per matrix column."""

    def __init__(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._intercept: Any = np.array(meta["intercept"])
        self._link = _LINKS[meta.get("combine", "logistic")]

    def score(self, x: Floats) -> Floats:
        fill, mean, scale, coefficient = (self._arrays[name] for name in LINEAR_ARRAYS)
        numbers = x[:, : len(fill)]
        x[:, : len(fill)] = (np.where(np.isnan(numbers), fill, numbers) - mean) / scale
        # Summed row by row, so a score does not depend on the batch it came in (BLAS may).
        if self._intercept.ndim:
            x = x[:, np.newaxis, :]
        return self._link((x * coefficient).sum(axis=-1) + self._intercept)


def _transforms(
    meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, Callable[[Floats], Floats]]:
    """Return what to apply to each transformed column, from the allow-list of this process."""
    found: dict[str, Callable[[Floats], Floats]] = {}
    for column, told in meta.items():
        try:
            own = transformer(told["name"])
        except SpecError as error:
            raise BundleError(f"this model cannot be served here: {error}") from error
        if own.version != told["version"]:
            raise BundleError(
                f"this model wants version {told['version']} of the transformer '{own.name}', "
                f"installed is {own.version}: install that, or train again"
            )
        fitted = {key: arrays[f"transform_{column}_{key}"] for key in told["arrays"]}
        found[column] = partial(own.apply, fitted=fitted)
    return found


def _logistic(raw: Floats) -> Floats:
    """1 / (1 + exp(-raw)), without overflow on either side."""
    tail = np.exp(-np.abs(raw))
    return np.where(raw >= 0, 1.0, tail) / (1.0 + tail)


def _softmax(raw: Floats) -> Floats:
    """Probabilities along the last axis, without overflow."""
    shares = np.exp(raw - raw.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def _identity(raw: Floats) -> Floats:
    return raw


_LINKS: Final = {
    "logistic": _logistic,
    "softmax": _softmax,
    "identity": _identity,
    "exp": np.exp,
}


def decide(scores: Floats, threshold: float | None) -> np.ndarray:
    """Return the decisions (n,): an alert from the threshold on, else the most probable class.

    A class by its index, the first of equals. A number is its own decision.
    """
    if scores.ndim == 2:
        return scores.argmax(axis=1)
    return scores if threshold is None else scores >= threshold


def largest_difference(scores: Floats, expected: Floats) -> float:
    """Return the largest difference, relative where a number is above 1; NaN never is small."""
    if scores.shape != expected.shape:
        return float("nan")
    return float(np.max(np.abs(scores - expected) / np.maximum(np.abs(expected), 1), initial=0))


def _check_nodes(arrays: Mapping[str, np.ndarray], width: int) -> None:
    """Children stand after their parent, so every walk ends; a leaf is its own child."""
    left, right, feature, roots = (arrays[n] for n in ("left", "right", "feature", "roots"))
    here = np.arange(len(left))
    leaf = (left == here) & (right == here)
    inside = (left < len(left)) & (right < len(left)) & (feature >= 0) & (feature < width)
    if not ((leaf | ((left > here) & (right > here))) & inside).all():
        raise BundleError("a tree of the model leads outside its arrays: train again")
    if not ((roots >= 0) & (roots < len(left))).all():
        raise BundleError("a tree of the model starts outside its arrays: train again")
