"""Asset `deployed_endpoint`: what is live, after the ledger was asked on every entry way."""

from collections.abc import Sequence
from textwrap import shorten
from typing import Any, Final

import dagster as dg
from pydantic import Field

from mlcicd_assets.io.card import card_path, changelog
from mlcicd_assets.io.decisions import freeze_in_force, overrides_in_force
from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.interventions import approve
from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.readings import history, reigns
from mlcicd_assets.io.registry import CHAMPION, set_alias
from mlcicd_assets.io.rollback import earlier
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import ReleaseError
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ReleaseRef, ReportRef
from mlcicd_assets.orchestration.wiring import asset_for, inline, open_ledger

NO_OVERRIDE = "no_override_in_force"
SHOWN: Final = 5


class Approve(dg.Config):
    """Approval from the Launchpad: shown as unauthenticated, since anyone can write a name."""

    approve: bool = Field(default=False, description="Approve the version that awaits it.")
    reason: str = Field(default="", description="Why; kept in the ledger.")
    days: int = Field(default=7, description="How long the approval holds.")


def deployed_endpoint(
    spec: PipelineSpec, *, readme: str = "", after: str | None = None
) -> dg.AssetsDefinition:
    """Build the asset; its description ends with the model's README; see `asset_for` on `after`."""
    key = dg.AssetKey([spec.name, "deployed_endpoint"])
    promise = "Every live verdict passed on its own: no gate is overridden by a person."

    @asset_for(
        spec,
        "deployed_endpoint",
        description="The live version: released when every gate passed and it is better.\n\n"
        + readme,
        kinds={"python"},
        upstream="evaluation_report",
        after=after,
        code=[spec.name],
        checks=[dg.AssetCheckSpec(NO_OVERRIDE, asset=key, description=promise)],
    )
    def _deployed_endpoint(context: dg.AssetExecutionContext, config: Approve, upstream: ReportRef):
        settings = Settings.from_env()
        ledger = open_ledger(settings, spec)

        def mark_champion(model: str, version: int) -> None:
            set_alias(settings, model, CHAMPION, version)

        if config.approve:
            approve(
                settings,
                ledger,
                spec.name,
                upstream.candidate.version,
                reason=config.reason,
                days=config.days,
                how="Dagster Launchpad",
            )
        delivery = Delivery(settings, ledger, context.run.run_id, mark_champion)
        release = delivery.deliver(upstream, gates=spec.gates)
        context.log.info(f"{release.outcome}: {release.reason}")
        shown = release.live_digest or upstream.candidate.digest
        card = card_path(settings.releases, spec.name, shown)
        told = {"card": dg.MetadataValue.path(str(card)), "changelog": changelog(card)}
        return dg.MaterializeResult(
            value=release,
            data_version=dg.DataVersion(release.live_digest or "nothing live"),
            check_results=[_no_override(ledger, spec)],
            metadata=_metadata(ledger, spec, upstream, release) | told,
        )

    return _deployed_endpoint


def _metadata(
    ledger: Ledger, spec: PipelineSpec, report: ReportRef, release: ReleaseRef
) -> dict[str, Any]:
    frozen, entries = freeze_in_force(ledger, spec.name), ledger.entries(model=spec.name)
    reign = [since for since, _ in reigns(entries)[-1:]]
    return {
        "outcome": release.outcome,
        "reason": release.reason,
        "live_version": release.live_version or "none",
        "live_since": dg.MetadataValue.timestamp(reign[0]) if reign else "never",
        "last_outcomes": inline(_last_outcomes(entries)),
        "rollback": _rollback(ledger, spec, release),
        "candidate_version": report.candidate.version,
        "live_digest": release.live_digest or "none",
        "frozen": f"until {frozen.body['until']}: {frozen.body['reason']}" if frozen else "no",
        "endpoint": dg.MetadataValue.url(f"{release.endpoints[0]}/v2/models/{spec.name}"),
    }


def _last_outcomes(entries: Sequence[Entry]) -> str:
    lines = ["| at (UTC) | outcome | version | why |", "| --- | --- | --- | --- |"]
    for entry in [e for e in history(entries) if e.kind == "outcome"][: -SHOWN - 1 : -1]:
        body, at = entry.body, entry.at[:16].replace("T", " ")
        why = shorten(body["reason"].replace("|", "/"), 70, placeholder=" ...")
        lines.append(f"| {at} | {body['outcome']} | {body['version'] or '-'} | {why} |")
    return "\n".join(lines)


def _rollback(ledger: Ledger, spec: PipelineSpec, release: ReleaseRef) -> str:
    """What a rollback would go back to, and how."""
    try:
        version, _ = earlier(ledger, spec.name, release.live_digest or "")
    except ReleaseError as error:
        return str(error)
    return f"to v{version}: mlcicd rollback {spec.name} --reason '...'"


def _no_override(ledger: Ledger, spec: PipelineSpec) -> dg.AssetCheckResult:
    """Red while an override is in force; it blocks nothing, it is there to be seen."""
    told = [
        f"{gate} overridden by {entry.body['by']} until {entry.body['expires'][:16]}: "
        f"{entry.body['reason']}"
        for (gate, _), entry in overrides_in_force(ledger, spec.name, spec.gates).items()
    ]
    return dg.AssetCheckResult(
        check_name=NO_OVERRIDE, passed=not told, description="; ".join(told) or "none in force"
    )
