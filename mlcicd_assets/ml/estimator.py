"""The scikit-learn pipeline of a spec, and the two forms of a feature table it works on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcicd_assets.ml import extensions
from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.sections import CLASSIFIERS, REGRESSORS, Training
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from sklearn.pipeline import Pipeline

# The seed and the environment set the first two; category splits and resumed fits have no
# plain-array form (categories are one-hot instead).
LINEAR = {"LogisticRegression", "Ridge"}
RESERVED_PARAMETERS = {"random_state", "n_jobs", "categorical_features", "warm_start"}


def make_pipeline(
    training: Training,
    columns: tuple[FeatureColumn, ...],
    transforms: Mapping[str, str] | None = None,
) -> "Pipeline":
    """Return the unfitted pipeline: 'prepare' (a ColumnTransformer), then 'model'.

    Fit it on `model_frame`. Trees see numbers as they are (NaN kept), linear models see
    them median-filled and standardised, both after `transforms` (feature: transformer);
    categories are one-hot, unknown ones all zero.

    Raises:
        SpecError: there is no column, or a parameter that the estimator does not have.
    """
    from sklearn.pipeline import Pipeline

    if not columns:
        raise SpecError("the model has no input: name columns, calendar parts or windows")
    prepare = _prepare(training, columns, dict(transforms or {}))
    return Pipeline([("prepare", prepare), ("model", _estimator(training))])


def column_arrays(
    frame: "pl.DataFrame", columns: tuple[FeatureColumn, ...]
) -> dict[str, np.ndarray]:
    """Return the Scorer's input: (n,) float64 with NaN for null, or object str with "" for null."""
    import polars as pl

    arrays: dict[str, np.ndarray] = {}
    for column in columns:
        values = frame[column.name]
        if column.kind == "category":
            texts = values.cast(pl.String).fill_null("")
            arrays[column.name] = np.array(texts.to_list(), dtype=object)
        else:
            arrays[column.name] = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return arrays


def model_frame(frame: "pl.DataFrame", columns: tuple[FeatureColumn, ...]) -> "pd.DataFrame":
    """Return the same values as `column_arrays` as the pandas frame that scikit-learn fits."""
    import pandas as pd

    return pd.DataFrame(column_arrays(frame, columns))


def own_estimator(spec: PipelineSpec) -> extensions.OwnEstimator | None:
    """Return the user's own estimator that the spec names, None for one of scikit-learn's."""
    name = spec.training.estimator
    return None if name in (*CLASSIFIERS, *REGRESSORS) else extensions.estimator(name)


def _prepare(
    training: Training, columns: tuple[FeatureColumn, ...], transforms: dict[str, str]
) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline as chain
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    steps: list[tuple[str, Any, list[str]]] = []
    numbers = [column.name for column in columns if column.kind == "number"]
    first: list[Any] = []
    if transforms:
        from mlcicd_assets.ml.transform_step import TransformStep

        first = [TransformStep(numbers, transforms)]
    if numbers and training.estimator in LINEAR:
        # A column that is null in all training rows keeps its place, or the arrays would shift.
        fill = SimpleImputer(strategy="median", keep_empty_features=True)
        steps.append(("numbers", chain(*first, fill, StandardScaler()), numbers))
    elif numbers:
        steps.append(("numbers", chain(*first) if first else "passthrough", numbers))
    # One encoder a column: the spec may fix the values of some and leave others to the data.
    for place, column in enumerate(columns):
        if column.kind == "category":
            known: Any = (
                [np.array(column.categories, dtype=object)] if column.categories else "auto"
            )
            one_hot = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
            steps.append((f"category_{place}", one_hot, [column.name]))
    return ColumnTransformer(steps, sparse_threshold=0)


def _estimator(training: Training) -> Any:
    from sklearn import ensemble, linear_model, tree

    name = training.estimator
    if name not in (*CLASSIFIERS, *REGRESSORS):
        return extensions.estimator(name).make(training.parameters, training.seed)
    where = (
        tree if name.startswith("DecisionTree") else linear_model if name in LINEAR else ensemble
    )
    kind = getattr(where, name)
    allowed = set(kind().get_params()) - RESERVED_PARAMETERS
    unknown = sorted(set(training.parameters) - allowed)
    if unknown:
        raise SpecError(
            f"training.parameters: {training.estimator} has no {', '.join(unknown)} that can be "
            f"set here; it has: {', '.join(sorted(allowed))}"
        )
    return kind(random_state=training.seed, **training.parameters)
