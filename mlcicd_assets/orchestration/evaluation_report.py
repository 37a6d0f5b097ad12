"""Asset `evaluation_report`: candidate and champion on the same holdout rows, gates judged."""

from dataclasses import asdict

import dagster as dg

from mlcicd_assets.io.booking import book_verdicts
from mlcicd_assets.io.card import card_path, write_card
from mlcicd_assets.io.evaluation_run import Evaluation, evaluate
from mlcicd_assets.io.pictures import as_markdown, draw, draw_small
from mlcicd_assets.io.rollback import book_offline
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.curves import charts
from mlcicd_assets.ml.explanation import Explanation
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.gates import model_gates
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef, ReportRef
from mlcicd_assets.orchestration.wiring import (
    INLINE,
    asset_for,
    check_results,
    digest,
    inline,
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
        ledger = open_ledger(settings, spec)
        # Before anything is compared with the champion: a person may have taken it back offline.
        book_offline(settings, ledger, spec.name, run_id=context.run.run_id)
        made = evaluate(settings, spec, upstream, live=ledger.live(spec.name))
        overridden = book_verdicts(
            settings,
            ledger,
            made.verdicts,
            raw=upstream.data.raw,
            model=upstream,
            gates=spec.gates,
            run_id=context.run.run_id,
        )
        texts, why = write_card(settings, ledger, upstream, made)
        card = card_path(settings.releases, spec.name, upstream.digest)
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
                **_pictures(context, made, why),
                "card": dg.MetadataValue.md(texts["Card"]),
                "card_file": dg.MetadataValue.path(str(card)),
                "metrics": inline(texts["Metrics"]),
                "importance": inline(texts["Importance"]),
                "flipped_decisions": inline(texts["Flipped decisions"]),
                **{name: float(value) for name, value in made.metrics.items()},
            },
        )

    return _evaluation_report


def _pictures(
    context: dg.AssetExecutionContext, made: Evaluation, why: Explanation
) -> dict[str, dg.MarkdownMetadataValue]:
    """All pictures large behind a click, and each as a thumbnail where that shows without one."""
    try:
        drawn = charts(made.scored, made.champion, why.importance)
        large = as_markdown((chart.name, draw(chart)) for chart in drawn)
        small = {chart.name: as_markdown([(chart.name, draw_small(chart))]) for chart in drawn}
    except Exception as error:  # a picture must not hold up a release
        context.log.warning(f"no pictures: {error!r}")
        return {}
    shown = {f"picture/{name}": text for name, text in small.items() if len(text) < INLINE}
    return {name: dg.MetadataValue.md(text) for name, text in {"pictures": large, **shown}.items()}
