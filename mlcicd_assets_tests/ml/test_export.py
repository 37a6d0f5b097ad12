"""Plain arrays against scikit-learn itself: same leaves, same bits."""

from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcicd_assets.ml.errors import UnsupportedModel
from mlcicd_assets.ml.estimator import column_arrays, make_pipeline, model_frame
from mlcicd_assets.ml.export import export_model
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import Scorer, largest_difference
from mlcicd_assets.ml.sections import Training
from mlcicd_assets.ml.target import target_of

COLUMNS = (
    FeatureColumn("amount", "number"),
    FeatureColumn("country", "category", nullable=True),
    FeatureColumn("rate", "number", nullable=True),
    FeatureColumn("channel", "category", categories=("chip", "online")),
    FeatureColumn("count", "number"),
)
ESTIMATORS: dict[str, dict[str, Any]] = {
    "HistGradientBoostingClassifier": {"max_iter": 20},
    "RandomForestClassifier": {"n_estimators": 12},
    "ExtraTreesClassifier": {"n_estimators": 12, "max_leaf_nodes": 40},
    "DecisionTreeClassifier": {},
    "LogisticRegression": {},
}
REGRESSORS: dict[str, dict[str, Any]] = {
    "HistGradientBoostingRegressor": {"max_iter": 20},
    "RandomForestRegressor": {"n_estimators": 12},
    "ExtraTreesRegressor": {"n_estimators": 12, "max_leaf_nodes": 40},
    "DecisionTreeRegressor": {},
    "Ridge": {},
}
TREES = [name for name in ESTIMATORS if name != "LogisticRegression"]
EXACT = {*TREES, *REGRESSORS} - {"HistGradientBoostingClassifier", "Ridge"}


def rows(n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "amount": rng.lognormal(3, 2, n),
            "channel": rng.choice(["chip", "online", "unseen"], n),
            "rate": pl.Series(np.where(rng.random(n) < 0.2, np.nan, rng.random(n))).fill_nan(None),
            "country": [None if i % 7 == 0 else f"c{i % 5}" for i in range(n)],
            "count": rng.integers(0, 30, n),
        }
    )


def fit(
    estimator: str,
    frame: pl.DataFrame,
    columns: tuple[FeatureColumn, ...] = COLUMNS,
    target: str = "binary",
) -> Any:
    noise = np.random.default_rng(2).normal(size=frame.height)
    risk = np.log(frame["amount"].to_numpy()) + 2 * (frame["channel"] == "online").to_numpy()
    training = Training.model_validate(
        {"estimator": estimator, "parameters": ESTIMATORS[estimator], "seed": 3}
    )
    pipeline = make_pipeline(training, columns)
    labels = {
        "binary": risk + noise > 5,
        "multiclass": np.digitize(risk + noise, (3, 5)),
        "regression": 1_000 * np.exp(risk + noise),
    }[target]
    return pipeline.fit(model_frame(frame, columns), labels * 1)


@cache
def fitted(estimator: str, target: str = "binary") -> Any:
    return fit(estimator, rows(800, seed=1), target=target)


def assert_equal(
    pipeline: Any, frame: pl.DataFrame, columns: tuple[FeatureColumn, ...] = COLUMNS
) -> None:
    exported = export_model(pipeline, columns)
    scores = Scorer(exported.meta, exported.arrays).score(column_arrays(frame, columns))
    count = len(getattr(pipeline, "classes_", ()))
    target = target_of({0: "regression", 2: "binary"}.get(count, "multiclass"), range(count))
    expected = target.predict(pipeline, model_frame(frame, columns))
    exact = type(pipeline.named_steps["model"]).__name__ in EXACT
    assert scores.shape == expected.shape
    assert exported.meta["format"] == (1 if count == 2 else 2)  # servers of the first read on
    assert largest_difference(scores, expected) <= (0 if exact else 1e-13 if count == 0 else 2e-15)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scores_equal_scikit_learn(estimator: str) -> None:
    assert_equal(fitted(estimator), rows(1_500, seed=9))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scores_of_several_classes_equal_scikit_learn(estimator: str) -> None:
    assert_equal(fitted(estimator, "multiclass"), rows(1_500, seed=9))


@pytest.mark.parametrize("estimator", REGRESSORS)
@pytest.mark.parametrize("loss", [{}, {"loss": "poisson"}, {"loss": "absolute_error"}])
def test_numbers_equal_scikit_learn(estimator: str, loss: dict[str, str]) -> None:
    if loss and estimator != "HistGradientBoostingRegressor":
        loss = {"criterion": loss["loss"]} if estimator.startswith("Decision") else {}
    ESTIMATORS[estimator] = REGRESSORS[estimator] | loss
    assert_equal(fit(estimator, rows(800, seed=1), target="regression"), rows(1_500, seed=9))


@pytest.mark.parametrize("estimator", TREES)
def test_rows_exactly_at_and_beside_every_threshold(estimator: str) -> None:
    arrays = export_model(fitted(estimator), COLUMNS).arrays
    splits = (arrays["feature"] == 0) & np.isfinite(arrays["threshold"])  # 'amount'
    at = np.unique(arrays["threshold"][splits])
    assert len(at) > 10
    single = np.float32(at)
    beside = [np.nextafter(at, np.inf), np.nextafter(at, -np.inf), single.astype(float)]
    beside.append(np.nextafter(single, np.float32(np.inf)).astype(float))
    amounts = np.concatenate([at, *beside])
    frame = rows(len(amounts), seed=4).with_columns(amount=pl.Series(amounts))
    assert_equal(fitted(estimator), frame)


number = st.one_of(
    st.floats(-1e30, 1e30),
    st.floats(0, 100, width=32),
    st.integers(0, 2**24 + 3).map(float),
)
row = st.fixed_dictionaries(
    {
        "amount": number,
        "channel": st.sampled_from(["chip", "online", "", "?"]),
        "rate": st.none() | number,
        "country": st.none() | st.sampled_from(["c1", "c2", "never"]),
        "count": number,
    }
)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=25, deadline=None)
@given(drawn=st.lists(row, min_size=1, max_size=20))
def test_any_rows_equal_scikit_learn(estimator: str, drawn: list[dict[str, Any]]) -> None:
    schema = {"amount": pl.Float64, "channel": pl.String, "rate": pl.Float64}
    schema |= {"country": pl.String, "count": pl.Float64}
    assert_equal(fitted(estimator), pl.DataFrame(drawn, schema=schema))


@pytest.mark.parametrize("kind", ["number", "category"])
@pytest.mark.parametrize("estimator", ["DecisionTreeClassifier", "LogisticRegression"])
def test_inputs_of_one_kind_only(estimator: str, kind: str) -> None:
    columns = tuple(column for column in COLUMNS if column.kind == kind)
    frame = rows(200, seed=5)
    assert_equal(fit(estimator, frame, columns), frame, columns)


def test_a_column_that_was_null_throughout_keeps_its_place() -> None:
    frame = rows(200, seed=6).with_columns(rate=pl.lit(None, dtype=pl.Float64))
    assert_equal(fit("LogisticRegression", frame), rows(50, seed=7))


@pytest.mark.parametrize("labels", [np.arange(60) % 3 * 2, np.zeros(60)])
def test_other_than_all_class_indices_are_refused(labels: np.ndarray) -> None:
    pipeline = make_pipeline(Training(estimator="DecisionTreeClassifier"), COLUMNS)
    pipeline.fit(model_frame(rows(60, seed=8), COLUMNS), labels)
    with pytest.raises(UnsupportedModel, match="fitted on the classes"):
        export_model(pipeline, COLUMNS)


def test_other_estimators_are_refused() -> None:
    from sklearn.naive_bayes import BernoulliNB

    pipeline = make_pipeline(Training(estimator="DecisionTreeClassifier"), COLUMNS)
    pipeline.set_params(model=BernoulliNB())
    frame = rows(60, seed=8).with_columns(rate=pl.lit(0.0))
    pipeline.fit(model_frame(frame, COLUMNS), np.arange(60) % 2)
    with pytest.raises(UnsupportedModel, match="no plain-array form"):
        export_model(pipeline, COLUMNS)
