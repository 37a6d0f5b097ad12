"""The scikit-learn step that applies own transformers to the numeric inputs of a pipeline."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from mlcicd_assets.ml.extensions import transformer


class TransformStep(TransformerMixin, BaseEstimator):  # pyright: ignore[reportUntypedBaseClass]
    """Applies to each column of `by` its transformer, and hands the others on.

    It keeps names and plain arrays, so its file holds none of the transformers' own classes.
    """

    def __init__(self, columns: list[str], by: dict[str, str]) -> None:
        self.columns = columns
        self.by = by

    def fit(self, rows: Any, _: Any = None) -> "TransformStep":
        """Learn from a data frame of all `columns`."""
        self.fitted_ = {
            name: dict(transformer(own).fit(rows[name].to_numpy())) for name, own in self.by.items()
        }
        return self

    def transform(self, rows: Any) -> np.ndarray:
        """Return the columns as a matrix (n, columns)."""
        check_is_fitted(self)
        columns = {name: rows[name].to_numpy() for name in self.columns}
        for name, own in self.by.items():
            columns[name] = transformer(own).apply(columns[name], self.fitted_[name])
        return np.column_stack(list(columns.values()))
