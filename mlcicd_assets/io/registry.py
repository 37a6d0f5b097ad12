"""The MLflow model registry: what people see; the ledger is the truth about decisions."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import BundleError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from sklearn.pipeline import Pipeline

# skops refuses every type that is not here: reading a model must not run foreign code.
TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
CANDIDATE, CHAMPION = "candidate", "champion"
KEY_TAG, DIGEST_TAG = "training_key", "bundle_digest"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry, found again by its training key."""

    version: int
    run_id: str
    digest: str
    seconds: float


@dataclass(frozen=True)
class TrainingRecord:
    """Everything about one training that the registry keeps."""

    model: str
    training_key: str
    digest: str
    seconds: float
    params: dict[str, Any]
    metrics: dict[str, float]
    tags: dict[str, str]
    dataset_uri: str
    dataset_version: int
    dataset_fingerprint: str


def client(settings: Settings) -> "MlflowClient":
    """Point MLflow at this environment's tracking store and return its client."""
    import mlflow
    from mlflow.tracking import MlflowClient

    settings.home.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.tracking_uri)
    return MlflowClient()


def ensure_experiment(settings: Settings, name: str) -> None:
    """Create the experiment with artifacts below MLCICD_HOME; a server decides for itself."""
    mlflow_client = client(settings)
    if mlflow_client.get_experiment_by_name(name) is None:
        local = settings.tracking_uri.startswith("sqlite:")
        root = f"{settings.artifact_root}/{name}" if local else None
        mlflow_client.create_experiment(name, artifact_location=root)


def find_version(settings: Settings, model: str, training_key: str) -> RegisteredVersion | None:
    """Look a training up by its key: creating versions in MLflow is not idempotent."""
    found = client(settings).search_model_versions(
        f"name='{model}' and tags.{KEY_TAG}='{training_key}'"
    )
    if not found:
        return None
    first = min(found, key=lambda version: int(version.version))
    return RegisteredVersion(
        int(first.version), str(first.run_id), first.tags[DIGEST_TAG], float(first.tags["seconds"])
    )


def register(
    settings: Settings, tracked: Any, pipeline: "Pipeline", record: TrainingRecord
) -> RegisteredVersion:
    """Log one training to the active MLflow run and register it as the candidate.

    Args:
        settings: where MLflow is.
        tracked: dagster-mlflow's resource (all of mlflow's functions, one run a Dagster run).
        pipeline: the fitted scikit-learn pipeline, kept as a skops file.
        record: parameters, metrics, tags and data set of the training.
    """
    run_id = str(tracked.active_run().info.run_id)
    tracked.log_params(record.params)
    tracked.log_metrics(record.metrics)
    tracked.set_tags({KEY_TAG: record.training_key, DIGEST_TAG: record.digest, **record.tags})
    _log_dataset(tracked, record)
    info = tracked.sklearn.log_model(
        pipeline,
        name="model",
        serialization_format="skops",
        skops_trusted_types=list(TRUSTED_TYPES),
        pip_requirements=["scikit-learn", "skops"],
    )
    mlflow_client = client(settings)
    if not mlflow_client.search_registered_models(f"name='{record.model}'"):
        mlflow_client.create_registered_model(record.model)
    tags = {
        KEY_TAG: record.training_key,
        DIGEST_TAG: record.digest,
        "seconds": str(record.seconds),
    }
    made = mlflow_client.create_model_version(
        record.model, source=info.model_uri, run_id=run_id, tags=tags
    )
    set_alias(settings, record.model, CANDIDATE, int(made.version))
    return RegisteredVersion(int(made.version), run_id, record.digest, record.seconds)


def set_alias(settings: Settings, model: str, alias: str, version: int) -> None:
    """Move an alias; people see it, nothing obeys it."""
    client(settings).set_registered_model_alias(model, alias, str(version))


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
        foreign = sorted(set(skops.io.get_untrusted_types(file=file)) - set(TRUSTED_TYPES))
        if foreign:
            raise BundleError(f"{model} v{version}: skops file holds types not allowed: {foreign}")
        return skops.io.load(file, trusted=list(TRUSTED_TYPES))


def _log_dataset(tracked: Any, record: TrainingRecord) -> None:
    """Name the exact table version as the run's input."""
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = DeltaDatasetSource(path=record.dataset_uri, delta_table_version=record.dataset_version)
    name = f"{record.model}_features_v{record.dataset_version}"
    # MLflow allows 36 characters here; the whole fingerprint is among the run's tags.
    dataset = MetaDataset(source, name=name, digest=record.dataset_fingerprint[-36:])
    tracked.log_input(dataset, context="training")
