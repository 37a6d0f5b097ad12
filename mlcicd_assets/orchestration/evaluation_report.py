"""Asset `evaluation_report`: candidate and champion on the same holdout rows, gates judged."""

from dataclasses import asdict

import dagster as dg

from mlcicd_assets.io.booking import book_verdicts
from mlcicd_assets.io.card import write_card
from mlcicd_assets.io.evaluation_run import evaluate
from mlcicd_assets.io.rollback import book_offline
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.gates import model_gates
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef, ReportRef
from mlcicd_assets.orchestration.wiring import (
    asset_for,
    check_results,
    digest,
    open_ledger,
)


def evaluation_report(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset."""

    @asset_for(
        spec,
        "evaluation_report",
        description="Holdout metrics with intervals, the champion on the same rows, the verdicts.",
        kinds={"scikitlearn"},
        upstream="trained_model",
        gates=model_gates(spec.gates),
        code=[spec.gates, spec.evaluation, spec.split],
    )
    def _evaluation_report(context: dg.AssetExecutionContext, upstream: ModelVersionRef):
        settings = Settings.from_env()
        ledger = open_ledger(settings)
        # Before anything is compared with the champion: a person may have taken it back offline.
        book_offline(settings, ledger, spec.name, run_id=context.run.run_id)
        made = evaluate(settings, ledger, spec, upstream)
        overridden = book_verdicts(
            settings,
            ledger,
            made.verdicts,
            raw=upstream.data.raw,
            model=upstream,
            gates=spec.gates,
            run_id=context.run.run_id,
        )
        texts = write_card(settings, ledger, upstream, made)
        policy = policy_digest(spec.gates)
        report = ReportRef(upstream, made.champion_digest, policy, made.metrics)
        return dg.MaterializeResult(
            value=report,
            data_version=dg.DataVersion(digest(asdict(report))),
            check_results=check_results(context, made.verdicts, overridden),
            metadata={
                "candidate_version": upstream.version,
                "champion_version": made.champion_version or "none",
                "holdout": made.window,
                **{name: float(value) for name, value in made.metrics.items()},
                "card": dg.MetadataValue.md(texts["Card"]),
                "metrics": _inline(texts["Metrics"]),
                "importance": _inline(texts["Importance"]),
                "flipped_decisions": _inline(texts["Flipped decisions"]),
            },
        )

    return _evaluation_report


def _inline(text: str) -> dg.MarkdownMetadataValue:
    """Cut after a whole line below 1,000 characters, which is what the UI shows without a click."""
    return dg.MetadataValue.md(text[: text.rfind("\n", 0, 1000)])
