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
from mlcicd_assets.ml.scoring import Scorer
from mlcicd_assets.ml.spec import Training

COLUMNS = (
    FeatureColumn("amount", "number"),
    FeatureColumn("channel", "category", categories=("chip", "online")),
    FeatureColumn("rate", "number", nullable=True),
    FeatureColumn("country", "category", nullable=True),
    FeatureColumn("count", "number"),
)
ESTIMATORS: dict[str, dict[str, Any]] = {
    "HistGradientBoostingClassifier": {"max_iter": 20},
    "RandomForestClassifier": {"n_estimators": 12},
    "ExtraTreesClassifier": {"n_estimators": 12, "max_leaf_nodes": 40},
    "DecisionTreeClassifier": {},
    "LogisticRegression": {},
}
FORESTS = set(ESTIMATORS) - {"HistGradientBoostingClassifier", "LogisticRegression"}


def rows(n: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rate = pl.Series(
        [
            None if gap else value
            for gap, value in zip(rng.random(n) < 0.2, rng.random(n), strict=True)
        ]
    )
    return pl.DataFrame(
        {
            "amount": rng.lognormal(3, 2, n),
            "channel": rng.choice(["chip", "online", "unseen"], n),
            "rate": rate,
            "country": [None if i % 7 == 0 else f"c{i % 5}" for i in range(n)],
            "count": rng.integers(0, 30, n),
        }
    )


@cache
def fitted(estimator: str) -> tuple[Any, Scorer]:
    frame = rows(800, seed=1)
    noise = np.random.default_rng(2).normal(size=800)
    risk = np.log(frame["amount"].to_numpy()) + 2 * (frame["channel"] == "online").to_numpy()
    training = Training.model_validate(
        {"estimator": estimator, "parameters": ESTIMATORS[estimator], "seed": 3}
    )
    pipeline = make_pipeline(training, COLUMNS)
    pipeline.fit(model_frame(frame, COLUMNS), (risk + noise > 5).astype(int))
    exported = export_model(pipeline, COLUMNS)
    return pipeline, Scorer(exported.meta, exported.arrays)


def assert_equal(estimator: str, frame: pl.DataFrame) -> None:
    pipeline, scorer = fitted(estimator)
    expected = pipeline.predict_proba(model_frame(frame, COLUMNS))[:, 1]
    scores = scorer.score(column_arrays(frame, COLUMNS))
    if estimator in FORESTS:
        np.testing.assert_array_equal(scores, expected)
    else:
        np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-15)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scores_equal_scikit_learn(estimator: str) -> None:
    assert_equal(estimator, rows(1_500, seed=9))


@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if name != "LogisticRegression"])
def test_rows_exactly_at_and_beside_every_threshold(estimator: str) -> None:
    exported = export_model(fitted(estimator)[0], COLUMNS)
    splits = exported.arrays["feature"] == 0  # 'amount'
    at = np.unique(exported.arrays["threshold"][splits & np.isfinite(exported.arrays["threshold"])])
    assert len(at) > 10
    single = np.float32(at)
    amounts = np.concatenate(
        [
            at,
            np.nextafter(at, np.inf),
            np.nextafter(at, -np.inf),
            single.astype(float),
            np.nextafter(single, np.float32(np.inf)).astype(float),
        ]
    )
    frame = rows(len(amounts), seed=4).with_columns(amount=pl.Series(amounts))
    assert_equal(estimator, frame)


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
    assert_equal(estimator, pl.DataFrame(drawn, schema=schema))


@pytest.mark.parametrize("kind", ["number", "category"])
@pytest.mark.parametrize("estimator", ["DecisionTreeClassifier", "LogisticRegression"])
def test_inputs_of_one_kind_only(estimator: str, kind: str) -> None:
    columns = tuple(column for column in COLUMNS if column.kind == kind)
    frame = rows(200, seed=5)
    training = Training.model_validate({"estimator": estimator})
    pipeline = make_pipeline(training, columns)
    pipeline.fit(model_frame(frame, columns), np.arange(200) % 2)
    exported = export_model(pipeline, columns)
    scores = Scorer(exported.meta, exported.arrays).score(column_arrays(frame, columns))
    expected = pipeline.predict_proba(model_frame(frame, columns))[:, 1]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-15)


def test_a_column_that_was_null_throughout_keeps_its_place() -> None:
    frame = rows(200, seed=6).with_columns(rate=pl.lit(None, dtype=pl.Float64))
    pipeline = make_pipeline(Training(estimator="LogisticRegression"), COLUMNS)
    pipeline.fit(model_frame(frame, COLUMNS), np.arange(200) % 2)
    exported = export_model(pipeline, COLUMNS)
    later = rows(50, seed=7)
    expected = pipeline.predict_proba(model_frame(later, COLUMNS))[:, 1]
    scores = Scorer(exported.meta, exported.arrays).score(column_arrays(later, COLUMNS))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-15)


def test_three_classes_one_class_and_other_columns_are_refused() -> None:
    frame = rows(60, seed=8)
    pipeline = make_pipeline(Training(estimator="DecisionTreeClassifier"), COLUMNS)
    for labels in (np.arange(60) % 3, np.zeros(60)):
        pipeline.fit(model_frame(frame, COLUMNS), labels)
        with pytest.raises(UnsupportedModel, match="two classes"):
            export_model(pipeline, COLUMNS)
    with pytest.raises(UnsupportedModel, match="other columns"):
        export_model(fitted("DecisionTreeClassifier")[0], COLUMNS[:-1])


def test_other_estimators_and_category_splits_are_refused() -> None:
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

    frame = rows(60, seed=8)
    pipeline = make_pipeline(Training(estimator="DecisionTreeClassifier"), COLUMNS)
    for model, message in (
        (GradientBoostingClassifier(n_estimators=2), "no plain-array form"),
        (
            HistGradientBoostingClassifier(
                categorical_features=[2], max_iter=2, min_samples_leaf=2
            ),
            "category splits",
        ),
    ):
        pipeline.set_params(model=model)
        used = frame.with_columns(rate=pl.col("rate").fill_null(0.0))
        pipeline.fit(model_frame(used, COLUMNS), (frame["channel"] == "chip").to_numpy())
        with pytest.raises(UnsupportedModel, match=message):
            export_model(pipeline, COLUMNS)
