"""Asset `trained_model`: a registered model version and its bundle, never trained twice."""

import dagster as dg

from mlcicd_assets.io.registry import client
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import listing
from mlcicd_assets.io.training_run import find_or_train
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.target import target_of
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
        ledger = open_ledger(settings)
        made = find_or_train(
            settings,
            ledger,
            spec,
            upstream,
            run_id=context.run.run_id,
            open_tracking=getattr(context.resources, tracking).open,
            tell=context.log.info,
        )
        model = made.model
        evidence = target_of(spec.label.target, spec.label.classes).judged(
            made.split.train["label"].to_numpy()
        )
        bundle = bundle_folder(settings.releases, spec.name, model.digest)
        return dg.MaterializeResult(
            value=model,
            data_version=dg.DataVersion(model.digest),
            metadata={
                "version": model.version,
                "trained_now": made.trained_now,
                "training_rows": made.split.train.height,
                f"training_{spec.label.evidence.replace(' ', '_')}": evidence,
                "training_window": f"{made.split.train_from} to {made.split.train_until}",
                "training_cpu_seconds": round(made.seconds, 2),
                "cpu_seconds_saved": 0.0 if made.trained_now else round(made.seconds, 2),
                "cpu_seconds_saved_in_all": round(ledger.saved_seconds(spec.name), 2),
                "threshold": "none" if made.threshold is None else made.threshold,
                "bundle_kilobytes": sum(filter(None, listing(bundle).values())) / 1000,
                "bundle_digest": model.digest,
                "training_key": model.training_key,
                **({"chosen_by_search": model.chosen} if model.chosen else {}),
                **_links(settings, model),
            },
        )

    return _trained_model


def _links(settings: Settings, model: ModelVersionRef) -> dict[str, dg.MetadataValue]:
    """Where to look: addresses on a tracking server, else the command that starts MLflow's UI."""
    uri, run = settings.tracking_uri, model.mlflow_run_id
    if uri.startswith("http"):
        experiment = client(settings).get_run(run).info.experiment_id
        pages = {
            "mlflow_run": f"{uri}/#/experiments/{experiment}/runs/{run}",
            "mlflow_model": f"{uri}/#/models/{model.model}/versions/{model.version}",
        }
        return {name: dg.MetadataValue.url(page) for name, page in pages.items()}
    # Any other address may hold a password.
    command = f"mlflow ui --backend-store-uri {uri if uri.startswith('sqlite') else '...'}"
    told = {"mlflow_run": run, "mlflow_command": command}
    return {name: dg.MetadataValue.text(text) for name, text in told.items()}
