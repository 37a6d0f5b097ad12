"""What the assets share: keys, kinds, checks, code versions and the way to show verdicts."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import wraps
from typing import Any, Final

import dagster as dg

from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gate import Gate
from mlcicd_assets.ml.gates import GATES
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import Verdict
from mlcicd_assets.orchestration.json_values import JSON_VALUES_KEY
from mlcicd_assets.orchestration.reconcile import begin

Asset = Callable[[Callable[..., Any]], dg.AssetsDefinition]
INLINE: Final = 1_000  # characters of Markdown from which on the UI hides it behind a click


def asset_for(
    spec: PipelineSpec,
    name: str,
    *,
    description: str,
    kinds: set[str],
    upstream: str | None = None,
    after: str | None = None,
    gates: Sequence[Gate] = (),
    code: Sequence[object] = (),
    resource: str | None = None,
    checks: Sequence[dg.AssetCheckSpec] = (),
    fresh_hours: int | None = None,
) -> Asset:
    """Return the `@dg.asset` decorator of one of a model's assets.

    The decorated function has no return annotation: Dagster would read one as the types of the
    checks' outputs too, and hand `MaterializeResult` values to no IO manager.

    Args:
        spec: the model.
        name: last part of the asset key.
        description: what people read in the UI.
        kinds: technology tags.
        upstream: the asset whose value arrives as argument `upstream`.
        after: an asset that must come first, though its value is not asked for.
        gates: each becomes a blocking check of the asset.
        code: parts of the spec that decide what the asset makes; hashed into its code version.
        resource: key of a resource that it uses.
        checks: further checks, which block nothing.
        fresh_hours: the UI warns without a materialization for so long, and is red after twice.
    """
    fresh = None
    if fresh_hours is not None:
        hours = timedelta(hours=fresh_hours)
        fresh = dg.FreshnessPolicy.time_window(fail_window=2 * hours, warn_window=hours)
    key = dg.AssetKey([spec.name, name])
    blocking = [
        dg.AssetCheckSpec(gate.name, asset=key, blocking=True, description=gate.promise)
        for gate in gates
    ]
    decorator = dg.asset(
        key=key,
        group_name=spec.name,
        description=description,
        kinds=kinds,
        owners=list(spec.owners),
        ins={"upstream": dg.AssetIn(key=[spec.name, upstream])} if upstream else None,
        deps=[dg.AssetKey([spec.name, after])] if after else None,
        check_specs=[*blocking, *checks],
        code_version=digest(*code),
        io_manager_key=JSON_VALUES_KEY,
        required_resource_keys={resource} if resource else None,
        freshness_policy=fresh,
    )

    def decorate(compute: Callable[..., Any]) -> dg.AssetsDefinition:
        @wraps(compute)
        def begun(context: dg.AssetExecutionContext, **inputs: Any) -> Any:
            begin(context, spec.name)
            return compute(context, **inputs)

        return decorator(begun)

    return decorate


def digest(*parts: object) -> str:
    """Return a short hash of plain data and pydantic models, for code and data versions."""
    text = json.dumps(parts, sort_keys=True, default=lambda model: model.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def inline(text: str) -> dg.MarkdownMetadataValue:
    """Cut after a whole line, so that the UI shows it without a click."""
    return dg.MetadataValue.md(text if len(text) < INLINE else text[: text.rfind("\n", 0, INLINE)])


def open_ledger(settings: Settings, spec: PipelineSpec | None = None) -> Ledger:
    """Open this environment's ledger, for runs of a model with its definition."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return Ledger(settings.ledger_url, definition=spec.definition if spec else None)


def check_results(
    context: dg.AssetExecutionContext,
    verdicts: Sequence[Verdict],
    overridden: Collection[tuple[str, str]] = (),
) -> list[dg.AssetCheckResult]:
    """Show verdicts as check results; they stop the run early, the ledger protects production.

    A failed verdict that a person has overridden stays failed, and does not stop the run.
    """
    error, warn = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    for verdict in verdicts:
        (context.log.info if verdict.passed else context.log.error)(str(verdict))
    return [
        dg.AssetCheckResult(
            check_name=verdict.gate,
            passed=verdict.passed,
            severity=warn if (verdict.gate, verdict.subject) in overridden else error,
            description=str(verdict),
            metadata={
                "observed": verdict.observed,
                "threshold": verdict.threshold,
                "sample_size": verdict.sample_size,
                "subject": verdict.subject,
                "policy": verdict.policy,
                "detail": verdict.detail or "-",
                "remedy": GATES[verdict.gate].remedy,
                **{n: float(v) for n, v in verdict.context.items() if isinstance(v, int | float)},
            },
        )
        for verdict in verdicts
    ]
