"""Asset `serving_image`: the candidate's bundle as an image, where images are what is released."""

from dataclasses import asdict

import dagster as dg

from mlcicd_assets.io.images import make_image
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets.orchestration.wiring import asset_for, open_ledger

NAME = "serving_image"


def serving_image(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset."""

    @asset_for(
        spec,
        NAME,
        description="The bundle baked into the serving image, pushed, its digest in the ledger.",
        kinds={"docker"},
        upstream="evaluation_report",
        code=[spec.name],
    )
    def _serving_image(context: dg.AssetExecutionContext, upstream: ReportRef):
        settings, run_id = Settings.from_env(), context.run.run_id
        candidate, ledger = upstream.candidate, open_ledger(settings, spec)
        made = make_image(settings, ledger, candidate, policy=upstream.policy, run_id=run_id)
        context.log.info(f"v{made.version} is {made.image}")
        return dg.MaterializeResult(
            value=made,
            data_version=dg.DataVersion(made.image),
            metadata={**asdict(made), "base": settings.serving_image or ""},
        )

    return _serving_image
