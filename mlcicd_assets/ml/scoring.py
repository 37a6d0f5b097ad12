"""Scores from plain arrays with numpy alone: what serving runs instead of a Python model object.

Trees follow scikit-learn's own comparisons: one step down for all trees and rows at once, a
leaf pointing at itself, values added in tree order. Forests come out bit-equal; boosting and
logistic regression within the last bits of exp().
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mlcicd_assets.ml.errors import BundleError, SchemaMismatch

Floats = NDArray[np.float64]

FORMAT: Final = 1
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
LINEAR_ARRAYS: Final = {
    "fill": "<f8",
    "mean": "<f8",
    "scale": "<f8",
    "coefficient": "<f8",
}


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """What `Scorer` takes: JSON-able `meta`, and flat float64, int32 and bool arrays."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Scorer:
    """A binary classifier as plain arrays (made by `ml/export.py`).

    Raises:
        BundleError: meta or arrays are inconsistent. Arrays come from disk, so nothing in them
            is trusted: indices, types, finite depth are all checked here, once.
    """

    def __init__(self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        if meta.get("format") != FORMAT:
            raise _broken("its format is not one this version reads: train and export it again")
        self._inputs = _Inputs(meta)
        kind = meta.get("kind")
        if kind == "trees":
            self._model = _Trees(meta, arrays, width=self._inputs.width)
        elif kind == "linear":
            self._model = _Linear(meta, arrays, inputs=self._inputs)
        else:
            raise _broken("its kind is neither 'trees' nor 'linear'")

    @property
    def columns(self) -> set[str]:
        """Names of the input columns that `score` needs."""
        return {*self._inputs.numbers, *self._inputs.categories}

    def score(self, columns: Mapping[str, np.ndarray]) -> Floats:
        """Return the probability of the positive class, float64 of shape (n,).

        `columns` holds one (n,) array per input: float64 with NaN for null, or an object array
        of str with "" for null; others are ignored. A number beyond float32 counts as infinite
        where scikit-learn itself compares in float32.

        Raises:
            SchemaMismatch: a column is missing or its length differs.
        """
        rows = self._inputs.count_rows(columns)
        scores = np.empty(rows, dtype=np.float64)
        for start in range(0, rows, CHUNK_ROWS):
            part = slice(start, min(start + CHUNK_ROWS, rows))
            scores[part] = self._model.score(self._inputs.matrix(columns, part))
        return scores


class _Inputs:
    """Columns to the model's matrix: numbers first, then one column per known category."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        numbers, categories = meta.get("numbers"), meta.get("categories")
        if not _are_texts(numbers) or not isinstance(categories, dict):
            raise _broken("'numbers' must be a list of names and 'categories' name: values")
        if not all(_are_texts(values) for values in categories.values()):
            raise _broken("the values of a category must be a list of texts")
        self.numbers: tuple[str, ...] = tuple(numbers)
        self.categories: dict[str, dict[str, int]] = {}
        self.width = len(self.numbers)
        for name, values in categories.items():
            self.categories[name] = {v: self.width + i for i, v in enumerate(values)}
            self.width += len(values)
        if self.width == 0:
            raise _broken("it has no input columns")

    def count_rows(self, columns: Mapping[str, np.ndarray]) -> int:
        names = [*self.numbers, *self.categories]
        missing = sorted(set(names) - set(columns))
        if missing:
            raise SchemaMismatch(f"to score, also give the columns: {', '.join(missing)}")
        shapes = {columns[name].shape for name in names}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise SchemaMismatch("the columns to score must be flat and of one length")
        return len(columns[names[0]])

    def matrix(self, columns: Mapping[str, np.ndarray], part: slice) -> Floats:
        x = np.zeros((part.stop - part.start, self.width), dtype=np.float64)
        for position, name in enumerate(self.numbers):
            x[:, position] = columns[name][part]
        for name, slots in self.categories.items():
            for row, value in enumerate(columns[name][part]):
                slot = slots.get(value)
                if slot is not None:
                    x[row, slot] = 1.0
        return x


class _Trees:
    """All nodes of all trees in one row of arrays; `roots` says where each tree starts."""

    def __init__(
        self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, width: int
    ) -> None:
        _check_arrays(arrays, TREE_ARRAYS)
        self._single = meta.get("compare") == "float32"
        self._mean = meta.get("combine") == "mean"
        self._baseline = _number(meta, "baseline")
        if meta.get("compare") not in {"float32", "float64"}:
            raise _broken("'compare' is neither float32 nor float64")
        if meta.get("combine") not in {"mean", "logistic"}:
            raise _broken("'combine' is neither mean nor logistic")
        self._depth = _check_nodes(arrays, width)
        self._roots = arrays["roots"].astype(np.intp)
        self._feature = arrays["feature"].astype(np.intp)
        self._threshold = arrays["threshold"]
        self._missing_left = arrays["missing_left"]
        self._inner = arrays["left"] != np.arange(len(arrays["left"]))
        # Index 2 * node + 1 holds the left child, so a comparison's result is the offset.
        self._children = np.stack([arrays["right"], arrays["left"]], axis=1).ravel().astype(np.intp)
        self._value = arrays["value"]

    def score(self, x: Floats) -> Floats:
        if self._single:
            with np.errstate(over="ignore"):
                x = x.astype(np.float32).astype(np.float64)
        values = self._value[self._leaves(x)]
        # cumsum adds strictly in tree order, as scikit-learn does; sum() would add in pairs.
        if self._mean:
            return np.cumsum(values, axis=0)[-1] / len(self._roots)
        values[0] += self._baseline
        return _logistic(np.cumsum(values, axis=0)[-1])

    def _leaves(self, x: Floats) -> NDArray[np.intp]:
        """Node reached by each row in each tree, shape (trees, rows)."""
        rows, width = x.shape
        flat = x.ravel()
        missing = bool(np.isnan(flat).any())
        reached = np.repeat(self._roots, rows)
        walking = np.arange(len(reached))
        node = reached
        start = np.tile(np.arange(rows, dtype=np.intp) * width, len(self._roots))
        for step in range(1, self._depth + 1):
            value = flat[self._feature[node] + start]
            left = value <= self._threshold[node]
            if missing:
                left |= np.isnan(value) & self._missing_left[node]
            node = self._children[2 * node + left]
            if step % STEPS_BETWEEN_REST == 0 or step == self._depth:
                reached[walking] = node
                on = self._inner[node]
                walking, node, start = walking[on], node[on], start[on]
        return reached.reshape(len(self._roots), rows)


class _Linear:
    """Median for null, standardised numbers, one coefficient per matrix column."""

    def __init__(
        self, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, inputs: _Inputs
    ) -> None:
        _check_arrays(arrays, LINEAR_ARRAYS)
        self._numbers = len(inputs.numbers)
        lengths = {name: len(arrays[name]) for name in LINEAR_ARRAYS}
        expected = dict.fromkeys(("fill", "mean", "scale"), self._numbers)
        if lengths != {**expected, "coefficient": inputs.width}:
            raise _broken("the lengths of its arrays do not fit its columns")
        if not all(np.isfinite(arrays[name]).all() for name in LINEAR_ARRAYS):
            raise _broken("a coefficient or scale is not finite")
        if not (arrays["scale"] > 0).all():
            raise _broken("a scale is not positive")
        self._arrays = dict(arrays)
        self._intercept = _number(meta, "intercept")

    def score(self, x: Floats) -> Floats:
        numbers = x[:, : self._numbers]
        filled = np.where(np.isnan(numbers), self._arrays["fill"], numbers)
        x[:, : self._numbers] = (filled - self._arrays["mean"]) / self._arrays["scale"]
        # Summed row by row, so a score does not depend on the batch it came in (BLAS may).
        return _logistic((x * self._arrays["coefficient"]).sum(axis=1) + self._intercept)


def _logistic(raw: Floats) -> Floats:
    """1 / (1 + exp(-raw)), without overflow on either side."""
    tail = np.exp(-np.abs(raw))
    return np.where(raw >= 0, 1.0, tail) / (1.0 + tail)


def _check_arrays(arrays: Mapping[str, np.ndarray], types: Mapping[str, str]) -> None:
    if set(arrays) != set(types):
        raise _broken(f"its arrays must be exactly: {', '.join(types)}")
    for name, type_ in types.items():
        if arrays[name].dtype.str != type_ or arrays[name].ndim != 1:
            raise _broken(f"array '{name}' must be one row of {type_}")


def _check_nodes(arrays: Mapping[str, np.ndarray], width: int) -> int:
    """Prove that every walk from a root ends at a leaf; return the longest.

    Each inner node's children come after it and belong to no other node: no cycles.
    """
    roots, left, right = arrays["roots"], arrays["left"], arrays["right"]
    nodes = len(left)
    if {len(arrays[name]) for name in TREE_ARRAYS if name != "roots"} != {nodes} or not len(roots):
        raise _broken("the node arrays differ in length, or there is no tree")
    for name, limit in (("roots", nodes), ("left", nodes), ("right", nodes), ("feature", width)):
        if ((arrays[name] < 0) | (arrays[name] >= limit)).any():
            raise _broken(f"array '{name}' points outside the model")
    if np.isnan(arrays["threshold"]).any() or not np.isfinite(arrays["value"]).all():
        raise _broken("a threshold or value is not a number")
    index = np.arange(nodes)
    inner = (left != index) | (right != index)
    children = np.concatenate([left[inner], right[inner]])
    if (children <= np.tile(index[inner], 2)).any() or (np.bincount(children) > 1).any():
        raise _broken("a tree turns back on itself")
    return _longest_walk(roots, left, right, inner)


def _longest_walk(roots: np.ndarray, left: np.ndarray, right: np.ndarray, inner: np.ndarray) -> int:
    depth = 0
    level = np.unique(roots)
    level = level[inner[level]]
    while len(level):
        depth += 1
        level = np.concatenate([left[level], right[level]])
        level = level[inner[level]]
    return depth


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _number(meta: Mapping[str, Any], name: str) -> float:
    value = meta.get(name)
    if not isinstance(value, float) or not np.isfinite(value):
        raise _broken(f"'{name}' must be a finite number")
    return value


def _broken(what: str) -> BundleError:
    return BundleError(f"this model cannot be scored: {what}")
