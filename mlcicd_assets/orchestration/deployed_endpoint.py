"""Asset `deployed_endpoint`: what is live, after the ledger was asked on every entry way."""

import dagster as dg

from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.registry import CHAMPION, set_alias
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gates import policy_digest
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets.orchestration.wiring import asset_for, open_ledger


def deployed_endpoint(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset."""

    @asset_for(
        spec,
        "deployed_endpoint",
        description="The live version: released when every gate passed and it is better.",
        kinds={"python"},
        upstream="evaluation_report",
        code=[spec.name],
    )
    def _deployed_endpoint(context: dg.AssetExecutionContext, upstream: ReportRef):
        settings = Settings.from_env()

        def mark_champion(model: str, version: int) -> None:
            set_alias(settings, model, CHAMPION, version)

        delivery = Delivery(settings, open_ledger(settings), context.run.run_id, mark_champion)
        release = delivery.deliver(upstream, policy=policy_digest(spec.gates))
        context.log.info(f"{release.outcome}: {release.reason}")
        return dg.MaterializeResult(
            value=release,
            data_version=dg.DataVersion(release.live_digest),
            metadata={
                "outcome": release.outcome,
                "reason": release.reason,
                "live_version": release.live_version,
                "candidate_version": upstream.candidate.version,
                "live_digest": release.live_digest,
                "endpoint": dg.MetadataValue.url(f"{release.endpoints[0]}/v2/models/{spec.name}"),
            },
        )

    return _deployed_endpoint
