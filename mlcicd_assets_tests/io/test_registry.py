"""The registry on a real MLflow store: one version a key, every estimator comes back equal."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import mlflow
import numpy as np
import polars as pl
import pytest
import skops.io
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from mlcicd_assets.io.ledger_tables import TrainedRecord
from mlcicd_assets.io.registry import (
    CANDIDATE,
    DIGEST_TAG,
    KEY_TAG,
    SECONDS_TAG,
    client,
    ensure_experiment,
    find_version,
    load_pipeline,
    register,
)
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import BundleError
from mlcicd_assets.ml.estimator import make_pipeline, model_frame
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.sections import CLASSIFIERS, REGRESSORS, Training
from mlcicd_assets.ml.target import target_of
from mlcicd_assets.ml.values import TableVersion
from mlcicd_assets_tests.ml import own

COLUMNS = (FeatureColumn("a", "number"), FeatureColumn("c", "category"))


def frame(rows: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    return pl.DataFrame({"a": rng.random(rows), "c": rng.choice(["x", "y"], rows)})


def fitted(estimator: str, classes: int = 2, **transforms: str) -> Pipeline:
    rows = frame()
    pipeline = make_pipeline(Training(estimator=estimator), COLUMNS, transforms)
    labels = rows["a"].to_numpy() if classes == 0 else (rows["a"] * classes).cast(int).to_numpy()
    return pipeline.fit(model_frame(rows, COLUMNS), labels)


def register_one(settings: Settings, key: str, pipeline: object) -> TrainedRecord:
    return register(
        settings,
        mlflow,
        pipeline,
        model="m",
        tags={KEY_TAG: key, DIGEST_TAG: "d" * 64, SECONDS_TAG: "1.5"},
        params={"seed": 1},
        metrics={"train_rows": 200.0},
        dataset=TableVersion("/lake/m/features", "id", 3, "v1:1:2:3", 200),
    )


@pytest.fixture
def settings(home: Path) -> Settings:
    found = Settings.from_env()
    ensure_experiment(found, "m")
    mlflow.set_experiment("m")
    return found


@pytest.mark.parametrize(
    ("estimator", "classes"),
    [(name, classes) for name in CLASSIFIERS for classes in (2, 3)]
    + [(name, 0) for name in (*REGRESSORS, "RandomTreeRegressor")],
)
def test_every_estimator_comes_back_from_its_skops_file(
    estimator: str, classes: int, settings: Settings, allowed: Callable[..., None]
) -> None:
    allowed(own.__name__)
    pipeline = fitted(estimator, classes, **({"a": "signed_log"} if classes else {}))
    with mlflow.start_run():
        made = register_one(settings, estimator, pipeline)
    again = load_pipeline(settings, "m", made.version)
    rows = model_frame(frame(), COLUMNS)
    predict = target_of("multiclass" if classes else "regression").predict
    assert np.array_equal(predict(again, rows), predict(pipeline, rows))


def test_a_version_is_found_again_by_its_training_key(settings: Settings) -> None:
    assert find_version(settings, "m", "key") is None
    with mlflow.start_run() as run:
        made = register_one(settings, "key", fitted("DecisionTreeClassifier"))
    assert find_version(settings, "m", "key") == replace(made, at=ANY)
    assert made.mlflow_run_id == run.info.run_id
    assert (made.version, made.seconds) == (1, 1.5)
    assert find_version(settings, "m", "another") is None
    assert client(settings).get_model_version_by_alias("m", CANDIDATE).version == 1
    inputs = client(settings).get_run(made.mlflow_run_id).inputs.dataset_inputs
    assert inputs[0].dataset.name == "m_features_v3"


def test_a_file_with_a_foreign_type_is_not_loaded(settings: Settings) -> None:
    with mlflow.start_run():
        made = register_one(settings, "key", fitted("DecisionTreeClassifier"))
    source = client(settings).get_model_version("m", str(made.version)).source
    path = Path(mlflow.artifacts.download_artifacts(source)) / "model.skops"
    skops.io.dump(FunctionTransformer(print), path)
    with pytest.raises(BundleError, match="print"):
        load_pipeline(settings, "m", made.version)
