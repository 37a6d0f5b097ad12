"""The pipeline of a spec, and the two forms of a feature table."""

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.estimator import column_arrays, make_pipeline, model_frame
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.spec import Training

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
    assert list(arrays) == ["kind", "count", "rate", "flag"]
    assert arrays["kind"].dtype == object
    assert arrays["kind"].tolist() == ["a", "", "b"]
    assert all(arrays[name].dtype == np.float64 for name in ("count", "rate", "flag"))
    np.testing.assert_array_equal(arrays["rate"], [0.5, np.nan, np.nan])
    assert arrays["flag"].tolist() == [1.0, 0.0, 1.0]


def test_the_pandas_frame_has_the_same_values_in_contract_order() -> None:
    frame = model_frame(FRAME, COLUMNS)
    assert list(frame.columns) == ["kind", "count", "rate", "flag"]
    assert frame.dtypes.map(str).tolist() == ["object", "float64", "float64", "float64"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (FRAME.drop("rate"), "no feature 'rate'"),
        (FRAME.with_columns(rate=pl.lit("x")), "'rate' must be a number"),
        (FRAME.with_columns(kind=pl.lit(1)), "'kind' must be text"),
    ],
)
def test_wrong_columns_are_named(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        column_arrays(frame, COLUMNS)


def test_unknown_and_reserved_parameters_are_refused_with_the_allowed_ones() -> None:
    wrong = Training(estimator="DecisionTreeClassifier", parameters={"depth": 3})
    with pytest.raises(SpecError, match=r"no depth .*max_depth"):
        make_pipeline(wrong, COLUMNS)
    reserved = Training(
        estimator="HistGradientBoostingClassifier", parameters={"categorical_features": [0]}
    )
    with pytest.raises(SpecError, match="categorical_features"):
        make_pipeline(reserved, COLUMNS)


def test_a_model_without_inputs_is_refused() -> None:
    with pytest.raises(SpecError, match="no input"):
        make_pipeline(Training(estimator="DecisionTreeClassifier"), ())


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
    prepare = make_pipeline(
        Training(estimator=estimator),  # pyright: ignore[reportArgumentType]
        columns,
    ).named_steps["prepare"]
    matrix = prepare.fit_transform(model_frame(frame, columns))
    assert matrix[:, 1:].tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert (matrix[:, 0].tolist() == [1, 2, 3]) == (estimator == "DecisionTreeClassifier")
