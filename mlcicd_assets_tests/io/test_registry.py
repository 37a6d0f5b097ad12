"""The registry on a real MLflow store: one version a key, every estimator comes back equal."""

from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import ANY

import mlflow
import numpy as np
import polars as pl
import pytest
import skops.io
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
from mlcicd_assets.ml.spec import Estimator, Training
from mlcicd_assets.ml.values import TableVersion

COLUMNS = (FeatureColumn("a", "number"), FeatureColumn("c", "category"))


def frame(rows: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    return pl.DataFrame({"a": rng.random(rows), "c": rng.choice(["x", "y"], rows)})


def fitted(estimator: str) -> object:
    rows = frame()
    pipeline = make_pipeline(Training(estimator=estimator), COLUMNS)
    return pipeline.fit(model_frame(rows, COLUMNS), (rows["a"] > 0.5).to_numpy())


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


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_every_estimator_comes_back_from_its_skops_file(estimator: str, settings: Settings) -> None:
    pipeline = fitted(estimator)
    with mlflow.start_run():
        made = register_one(settings, estimator, pipeline)
    again = load_pipeline(settings, "m", made.version)
    rows = model_frame(frame(), COLUMNS)
    assert (again.predict_proba(rows) == pipeline.predict_proba(rows)).all()


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
