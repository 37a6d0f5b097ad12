"""The scikit-learn pipeline of a spec, and the two forms of a feature table it works on."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.spec import Training

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from sklearn.pipeline import Pipeline

# The seed and the environment set the first two; category splits and resumed fits have no
# plain-array form (ml/export.py one-hot encodes categories instead).
RESERVED_PARAMETERS = frozenset({"random_state", "n_jobs", "categorical_features", "warm_start"})


def make_pipeline(training: Training, columns: tuple[FeatureColumn, ...]) -> "Pipeline":
    """Return the unfitted pipeline: 'prepare' (a ColumnTransformer), then 'model'.

    Fit it on `model_frame`. Trees see numbers as they are (NaN kept), logistic regression sees
    them median-filled and standardised; categories are one-hot, unknown ones all zero.

    Raises:
        SpecError: there is no column, or a parameter that the estimator does not have.
    """
    from sklearn.pipeline import Pipeline

    if not columns:
        raise SpecError("the model has no input: name columns, calendar parts or windows")
    return Pipeline([("prepare", _prepare(training, columns)), ("model", _estimator(training))])


def column_arrays(
    frame: "pl.DataFrame", columns: tuple[FeatureColumn, ...]
) -> dict[str, np.ndarray]:
    """Return the Scorer's input: (n,) float64 with NaN for null, or object str with "" for null.

    Raises:
        SchemaMismatch: a column is missing or of the wrong kind.
    """
    return {column.name: _array(frame, column) for column in columns}


def model_frame(frame: "pl.DataFrame", columns: tuple[FeatureColumn, ...]) -> "pd.DataFrame":
    """Return the same values as `column_arrays` as the pandas frame that scikit-learn fits.

    Raises:
        SchemaMismatch: a column is missing or of the wrong kind.
    """
    import pandas as pd

    return pd.DataFrame(column_arrays(frame, columns))


def _array(frame: "pl.DataFrame", column: FeatureColumn) -> np.ndarray:
    import polars as pl

    if column.name not in frame.columns:
        raise SchemaMismatch(f"the table has no feature '{column.name}': build the features again")
    series = frame[column.name]
    if column.kind == "category":
        if not isinstance(series.dtype, (pl.String, pl.Categorical, pl.Enum)):
            raise SchemaMismatch(f"feature '{column.name}' must be text, not {series.dtype}")
        return np.array(series.cast(pl.String).fill_null("").to_list(), dtype=object)
    if not (series.dtype.is_numeric() or series.dtype == pl.Boolean):
        raise SchemaMismatch(f"feature '{column.name}' must be a number, not {series.dtype}")
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _prepare(training: Training, columns: tuple[FeatureColumn, ...]) -> Any:
    from sklearn.compose import ColumnTransformer

    numbers = [column.name for column in columns if column.kind == "number"]
    categories = [column for column in columns if column.kind == "category"]
    steps: list[tuple[str, Any, list[str]]] = []
    if numbers:
        linear = training.estimator == "LogisticRegression"
        steps.append(("numbers", _scale() if linear else "passthrough", numbers))
    # One encoder a column: the spec may fix the values of some and leave others to the data.
    steps += [(f"category_{i}", _one_hot(c), [c.name]) for i, c in enumerate(categories)]
    return ColumnTransformer(steps, sparse_threshold=0)


def _scale() -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline as chain
    from sklearn.preprocessing import StandardScaler

    # A column that is null throughout the training rows stays in place, or the arrays would shift.
    return chain(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())


def _one_hot(column: FeatureColumn) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    known: Any = "auto"
    if column.categories is not None:
        known = [np.array(column.categories, dtype=object)]
    return OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)


def _estimator(training: Training) -> Any:
    from sklearn import ensemble, linear_model, tree

    where = {"DecisionTreeClassifier": tree, "LogisticRegression": linear_model}
    kind = getattr(where.get(training.estimator, ensemble), training.estimator)
    allowed = set(kind().get_params()) - RESERVED_PARAMETERS
    unknown = sorted(set(training.parameters) - allowed)
    if unknown:
        raise SpecError(
            f"training.parameters: {training.estimator} has no {', '.join(unknown)} that can be "
            f"set here; it has: {', '.join(sorted(allowed))}"
        )
    return kind(random_state=training.seed, **training.parameters)
