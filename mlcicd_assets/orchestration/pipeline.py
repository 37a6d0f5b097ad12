"""`build_pipeline`: one spec in, the model's assets, checks, job, schedule and sensor out."""

from functools import partial

import dagster as dg

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.contract import check_rules
from mlcicd_assets.ml.features import check_features
from mlcicd_assets.ml.search import check_search
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.deployed_endpoint import deployed_endpoint
from mlcicd_assets.orchestration.evaluation_page import NAME as PAGE
from mlcicd_assets.orchestration.evaluation_page import evaluation_page, page_sensor
from mlcicd_assets.orchestration.evaluation_report import evaluation_report
from mlcicd_assets.orchestration.executor import in_process_or_docker
from mlcicd_assets.orchestration.json_values import JSON_VALUES, JSON_VALUES_KEY
from mlcicd_assets.orchestration.mlflow_run import mlflow_key, mlflow_run_for
from mlcicd_assets.orchestration.new_data import new_data_sensor, schedule_of
from mlcicd_assets.orchestration.raw_data import raw_data
from mlcicd_assets.orchestration.recovery import recovery_jobs
from mlcicd_assets.orchestration.serving_image import NAME as IMAGE
from mlcicd_assets.orchestration.serving_image import serving_image
from mlcicd_assets.orchestration.trained_model import trained_model
from mlcicd_assets.orchestration.validated_features import validated_features


def build_pipeline(spec: PipelineSpec, *, readme: str = "") -> dg.Definitions:
    """Build everything that delivers one model; with MLCICD_SERVING_IMAGE, as images.

    `readme` is what people read on the endpoint and on the job: Dagster's groups have no text.

    Raises:
        SpecError: contract or features ask for something that cannot be done.
    """
    check_rules(spec)
    check_features(spec)
    check_search(spec)
    as_images = Settings.from_env().serving_image is not None
    endpoint = partial(deployed_endpoint, readme=readme, after=IMAGE if as_images else None)
    assets = [
        build(spec)
        for build in (
            raw_data,
            validated_features,
            trained_model,
            evaluation_report,
            *([serving_image] if as_images else []),
            endpoint,
            evaluation_page,
        )
    ]
    job = dg.define_asset_job(
        f"{spec.name}_cicd",
        # The page is for people: a release must not wait for it.
        selection=dg.AssetSelection.groups(spec.name) - dg.AssetSelection.assets([spec.name, PAGE]),
        description=f"From new data to a live {spec.name} model, through every gate.\n\n{readme}",
        tags={"mlcicd/model": spec.name},
        executor_def=in_process_or_docker(),
        # What people read on the console: our lines and failures, not each event of the engine.
        config={"loggers": {"console": {"config": {"log_level": "INFO"}}}},
    )
    return dg.Definitions(
        assets=assets,
        jobs=[job, *recovery_jobs(spec)],
        schedules=[schedule_of(spec, spec.schedule)] if spec.schedule else [],
        sensors=[new_data_sensor(spec), page_sensor(spec)],
        resources={JSON_VALUES_KEY: JSON_VALUES, mlflow_key(spec): mlflow_run_for(spec)},
    )
