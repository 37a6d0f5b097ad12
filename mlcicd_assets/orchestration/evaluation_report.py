"""Asset `evaluation_report`: candidate and champion on the same holdout rows, gates judged."""

from dataclasses import asdict

import dagster as dg

from mlcicd_assets.io.evaluation_run import Evaluation, evaluate
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gates import MODEL_GATES, policy_digest
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef, ReportRef
from mlcicd_assets.orchestration.wiring import (
    asset_for,
    book_verdicts,
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
        gates=MODEL_GATES,
        code=[spec.gates, spec.evaluation, spec.split],
    )
    def _evaluation_report(context: dg.AssetExecutionContext, upstream: ModelVersionRef):
        settings = Settings.from_env()
        ledger = open_ledger(settings)
        made = evaluate(settings, ledger, spec, upstream)
        book_verdicts(
            ledger,
            upstream.data.raw,
            made.verdicts,
            run_id=context.run.run_id,
            model=upstream,
        )
        policy = policy_digest(spec.gates)
        report = ReportRef(upstream, made.champion_digest, policy, made.metrics)
        return dg.MaterializeResult(
            value=report,
            data_version=dg.DataVersion(digest(asdict(report))),
            check_results=check_results(context, made.verdicts),
            metadata={
                "candidate_version": upstream.version,
                "champion_version": made.champion_version or "none",
                "holdout": made.window,
                **{name: float(value) for name, value in made.metrics.items()},
                "metrics": dg.MetadataValue.md(_table(made)),
            },
        )

    return _evaluation_report


def _table(made: Evaluation) -> str:
    """Markdown below 1,000 characters, which is what the UI shows inline."""
    lines = ["| metric | candidate | 95 % interval |", "|---|---|---|"]
    for name, value in made.metrics.items():
        low, high = made.intervals.get(name, (None, None))
        interval = "" if low is None else f"{low:.4f} to {high:.4f}"
        lines.append(f"| {name} | {value:.4f} | {interval} |")
    if made.comparison is not None:
        pair = made.comparison
        lines.append(
            f"\nChampion v{made.champion_version} on the same rows: {pair.metric} "
            f"{pair.champion:.4f}, difference {pair.difference:+.4f}."
        )
    return "\n".join(lines)
