"""Asset `evaluation_page`: Evidently's report for people, beside the way from commit to live."""

import dagster as dg

from mlcicd_assets.io.page import make_page
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef
from mlcicd_assets.orchestration.json_values import JSON_VALUES_KEY
from mlcicd_assets.orchestration.reconcile import begin
from mlcicd_assets.orchestration.wiring import digest

NAME = "evaluation_page"
# In a run with both, the release goes first.
LAST = {"dagster/priority": "-10"}


def evaluation_page(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset: the daemon makes it after each training, in a run of its own."""

    @dg.asset(
        key=[spec.name, NAME],
        group_name=spec.name,
        description="Evidently: data summary, drift of the holdout against the training data, "
        f"quality. `mlcicd page {spec.name}` writes it as HTML. No release waits for it.",
        kinds={"evidently", "pandas"},
        owners=list(spec.owners),
        ins={"upstream": dg.AssetIn(key=[spec.name, "trained_model"])},
        code_version=digest(spec.name),
        io_manager_key=JSON_VALUES_KEY,
        automation_condition=dg.AutomationCondition.eager(),
        op_tags=LAST,
    )
    def _evaluation_page(context: dg.AssetExecutionContext, upstream: ModelVersionRef):
        begin(context, None)
        page = make_page(Settings.from_env(), spec, upstream)
        context.log.info(f"{page.drifted} of {len(page.drift)} inputs drifted")
        highest = sorted(page.drift, key=lambda name: -page.drift[name])[:10]
        lines = [f"| {name} | {page.drift[name]:.3f} |\n" for name in highest]
        return dg.MaterializeResult(
            value=str(page.snapshot),
            data_version=dg.DataVersion(upstream.digest),
            metadata={
                "version": upstream.version,
                "inputs": len(page.drift),
                "drifted_inputs": page.drifted,
                "seconds": round(page.seconds, 1),
                "drift": dg.MetadataValue.md("| input | drift |\n|---|---|\n" + "".join(lines)),
                "snapshot": dg.MetadataValue.path(page.snapshot),
                "html": f"mlcicd page {spec.name} --version {upstream.version}",
            },
        )

    return _evaluation_page


def page_sensor(spec: PipelineSpec) -> dg.AutomationConditionSensorDefinition:
    """Build the sensor by which the daemon makes the page."""
    return dg.AutomationConditionSensorDefinition(
        f"{spec.name}_page",
        target=dg.AssetSelection.assets([spec.name, NAME]),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=60,
    )
