"""The MLflow model registry: what people see; the ledger is the truth about decisions."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcicd_assets.io.ledger_tables import TrainedRecord, utc_now
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import BundleError
from mlcicd_assets.ml.extensions import trusted_types
from mlcicd_assets.ml.values import TableVersion, Trial

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from sklearn.pipeline import Pipeline

# skops refuses every type that is not here: reading a model must not run foreign code.
TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
    "mlcicd_assets.ml.transform_step.TransformStep",
)
CANDIDATE, CHAMPION = "candidate", "champion"
KEY_TAG, DIGEST_TAG, SECONDS_TAG = "training_key", "bundle_digest", "train_cpu_seconds"


def client(settings: Settings) -> "MlflowClient":
    """Point MLflow at this environment's tracking store and return its client."""
    import mlflow
    from mlflow.tracking import MlflowClient

    settings.home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Its default is to try for minutes: a rollback must not wait for a server that is down.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    _make_database(settings)
    mlflow.set_tracking_uri(settings.tracking_uri)
    return MlflowClient()


def _make_database(settings: Settings) -> None:
    """Give MLflow a whole SQLite database: it cannot go on with one that was cut off in making."""
    path = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    if not settings.tracking_uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        SqlAlchemyStore(f"sqlite:///{new}", settings.artifact_root).engine.dispose()
        with suppress(FileExistsError):  # another run was as fast
            path.hardlink_to(new)
    finally:
        new.unlink(missing_ok=True)


def ensure_experiment(settings: Settings, name: str) -> None:
    """Create the experiment with artifacts below MLCICD_HOME; a server decides for itself."""
    mlflow_client = client(settings)
    if mlflow_client.get_experiment_by_name(name) is None:
        local = settings.tracking_uri.startswith("sqlite:")
        root = f"{settings.artifact_root}/{name}" if local else None
        mlflow_client.create_experiment(name, artifact_location=root)


def find_version(settings: Settings, model: str, training_key: str) -> TrainedRecord | None:
    """Look a training up by its key: creating versions in MLflow is not idempotent."""
    found = client(settings).search_model_versions(
        f"name='{model}' and tags.{KEY_TAG}='{training_key}'"
    )
    if not found:
        return None
    first = min(found, key=lambda version: int(version.version))
    return TrainedRecord(
        training_key=training_key,
        model=model,
        version=int(first.version),
        digest=first.tags[DIGEST_TAG],
        mlflow_run_id=str(first.run_id),
        seconds=float(first.tags[SECONDS_TAG]),
        at=utc_now(),
    )


def register(
    settings: Settings,
    tracked: Any,
    pipeline: "Pipeline",
    *,
    model: str,
    tags: dict[str, str],
    params: dict[str, Any],
    metrics: dict[str, float],
    dataset: TableVersion,
) -> TrainedRecord:
    """Log one training to the run of `tracked` (dagster-mlflow) and register it as the candidate.

    The pipeline is kept as a skops file. `find_version` finds it again by the training key, bundle
    digest and seconds among `tags`.
    """
    run_id = str(tracked.active_run().info.run_id)
    tracked.log_params(params)
    tracked.log_metrics(metrics)
    tracked.set_tags(tags)
    _log_dataset(tracked, model, dataset)
    trusted = [*TRUSTED_TYPES, *trusted_types()]
    info = tracked.sklearn.log_model(
        pipeline,
        name="model",
        serialization_format="skops",
        skops_trusted_types=trusted,
        pip_requirements=["scikit-learn", "skops"],
    )
    mlflow_client = client(settings)
    if not mlflow_client.search_registered_models(f"name='{model}'"):
        mlflow_client.create_registered_model(model)
    made = mlflow_client.create_model_version(
        model, source=info.model_uri, run_id=run_id, tags=tags, model_id=info.model_id
    )
    set_alias(settings, model, CANDIDATE, int(made.version))
    found = find_version(settings, model, tags[KEY_TAG])
    if found is None:
        raise BundleError(f"{model} v{made.version} was registered and is not found: run it again")
    return found


def log_trial(tracked: Any, trial: Trial, metric: str) -> None:
    """Log one trial of a search as a child of the active MLflow run."""
    with tracked.start_run(run_name=f"trial {trial.number + 1}", nested=True):
        tracked.log_params(trial.parameters)
        tracked.log_metrics({metric: trial.score, SECONDS_TAG: trial.seconds})


def set_alias(settings: Settings, model: str, alias: str, version: int) -> None:
    """Move an alias; people see it, nothing obeys it."""
    client(settings).set_registered_model_alias(model, alias, str(version))


def digest_of(settings: Settings, model: str, version: int) -> str:
    """Return the digest of a version's bundle.

    Raises:
        BundleError: MLflow has no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client(settings).get_model_version(model, str(version)).tags[DIGEST_TAG]
    except MlflowException as error:
        raise BundleError(f"MLflow has no version {version} of '{model}'") from error


def load_pipeline(settings: Settings, model: str, version: int) -> "Pipeline":
    """Load the scikit-learn pipeline of a version from its skops file, types checked first.

    Raises:
        BundleError: the file holds a type outside the allow-list.
    """
    import skops.io
    from mlflow.artifacts import download_artifacts

    client(settings)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(download_artifacts(f"models:/{model}/{version}", dst_path=folder))
        file = path / "model.skops"
        trusted = [*TRUSTED_TYPES, *trusted_types()]
        foreign = sorted(set(skops.io.get_untrusted_types(file=file)) - set(trusted))
        if foreign:
            raise BundleError(f"{model} v{version}: skops file holds types not allowed: {foreign}")
        return skops.io.load(file, trusted=trusted)


def _log_dataset(tracked: Any, model: str, table: TableVersion) -> None:
    """Name the exact table version as the run's input."""
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = DeltaDatasetSource(path=table.uri, delta_table_version=table.version)
    # MLflow allows 36 characters here; the whole fingerprint is among the run's tags.
    digest = table.fingerprint[-36:]
    dataset = MetaDataset(source, name=f"{model}_features_v{table.version}", digest=digest)
    tracked.log_input(dataset, context="training")
