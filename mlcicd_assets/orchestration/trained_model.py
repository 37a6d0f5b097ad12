"""Asset `trained_model`: a registered model version and its bundle, never trained twice."""

import dagster as dg

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import find_or_train
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import FeatureSet, ModelVersionRef
from mlcicd_assets.orchestration.mlflow_run import mlflow_key
from mlcicd_assets.orchestration.wiring import asset_for, open_ledger


def trained_model(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset."""
    tracking = mlflow_key(spec)

    @asset_for(
        spec,
        "trained_model",
        description=f"{spec.training.estimator}, registered in MLflow as candidate, with bundle.",
        kinds={"scikitlearn", "mlflow"},
        upstream="validated_features",
        code=[spec.training, spec.split, spec.label],
        resource=tracking,
    )
    def _trained_model(context: dg.AssetExecutionContext, upstream: FeatureSet):
        settings = Settings.from_env()
        made = find_or_train(
            settings,
            open_ledger(settings),
            spec,
            upstream,
            open_tracking=getattr(context.resources, tracking).open,
            tell=context.log.info,
        )
        model = made.model
        return dg.MaterializeResult(
            value=model,
            data_version=dg.DataVersion(model.digest),
            metadata={
                "version": model.version,
                "trained_now": made.trained_now,
                "training_rows": made.split.train.height,
                "training_positives": int(made.split.train["label"].sum()),
                "training_window": f"{made.split.train_from} to {made.split.train_until}",
                "training_cpu_seconds": round(made.seconds, 2),
                "cpu_seconds_saved": 0.0 if made.trained_now else round(made.seconds, 2),
                "threshold": made.threshold,
                "bundle_digest": model.digest,
                "training_key": model.training_key,
                "mlflow_run": _link(settings, model),
            },
        )

    return _trained_model


def _link(settings: Settings, model: ModelVersionRef) -> dg.MetadataValue:
    if settings.tracking_uri.startswith("http"):
        return dg.MetadataValue.url(f"{settings.tracking_uri}/#/models/{model.model}")
    return dg.MetadataValue.text(model.mlflow_run_id)
