"""The pipeline of a spec, and the two forms of a feature table."""

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.estimator import column_arrays, make_pipeline, model_frame
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.sections import Training

COLUMNS = (
    FeatureColumn("kind", "category", nullable=True),
    FeatureColumn("count", "number"),
    FeatureColumn("rate", "number", nullable=True),
    FeatureColumn("flag", "number"),
)
FRAME = pl.DataFrame(
    {
        "other": [1, 2, 3],
        "flag": [True, False, True],
        "rate": [0.5, None, float("nan")],
        "count": [1, 2, 3],
        "kind": ["a", None, "b"],
    }
)


def test_numbers_become_float64_with_nan_and_texts_objects_with_empty() -> None:
    arrays = column_arrays(FRAME, COLUMNS)
    assert arrays["kind"].dtype == object
    assert arrays["kind"].tolist() == ["a", "", "b"]
    assert all(arrays[name].dtype == np.float64 for name in ("count", "rate", "flag"))
    np.testing.assert_array_equal(arrays["rate"], [0.5, np.nan, np.nan])
    assert arrays["flag"].tolist() == [1.0, 0.0, 1.0]
    frame = model_frame(FRAME, COLUMNS)
    assert list(frame.columns) == list(arrays) == ["kind", "count", "rate", "flag"]
    assert frame.dtypes.map(str).tolist() == ["object", "float64", "float64", "float64"]


@pytest.mark.parametrize(
    ("training", "columns", "message"),
    [
        (Training(estimator="DecisionTreeClassifier", parameters={"depth": 3}), COLUMNS,
         "no depth .*max_depth"),
        (Training(estimator="HistGradientBoostingClassifier",
                  parameters={"categorical_features": [0]}), COLUMNS, "no categorical_features"),
        (Training(estimator="DecisionTreeClassifier"), (), "no input"),
    ],
)  # fmt: skip
def test_what_a_spec_cannot_ask_for(
    training: Training, columns: tuple[FeatureColumn, ...], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        make_pipeline(training, columns)


def test_the_seed_reaches_the_model_and_parameters_too() -> None:
    training = Training(estimator="RandomForestClassifier", parameters={"n_estimators": 3}, seed=11)
    model = make_pipeline(training, COLUMNS).named_steps["model"]
    assert (model.random_state, model.n_estimators, model.n_jobs) == (11, 3, None)


@pytest.mark.parametrize("estimator", ["DecisionTreeClassifier", "LogisticRegression"])
def test_fixed_categories_keep_their_place_whatever_the_data(estimator: str) -> None:
    columns = (
        FeatureColumn("kind", "category", categories=("z", "b", "a")),
        FeatureColumn("other", "number"),
    )
    frame = pl.DataFrame({"kind": ["a", "a", "odd"], "other": [1.0, 2.0, 3.0]})
    pipeline = make_pipeline(Training.model_validate({"estimator": estimator}), columns)
    matrix = pipeline.named_steps["prepare"].fit_transform(model_frame(frame, columns))
    assert matrix[:, 1:].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert (matrix[:, 0].tolist() == [1, 2, 3]) == (estimator == "DecisionTreeClassifier")
