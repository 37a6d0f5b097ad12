"""What all five assets share: keys, kinds, checks, code versions and the way to show verdicts."""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg

from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef, RawData, Verdict
from mlcicd_assets.orchestration.json_values import JSON_VALUES_KEY

Asset = Callable[[Callable[..., Any]], dg.AssetsDefinition]


def asset_for(
    spec: PipelineSpec,
    name: str,
    *,
    description: str,
    kinds: set[str],
    upstream: str | None = None,
    gates: Sequence[str] = (),
    code: Sequence[object] = (),
    resource: str | None = None,
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
        gates: each becomes a blocking check of the asset.
        code: parts of the spec that decide what the asset makes; hashed into its code version.
        resource: key of a resource that it uses.
    """
    key = dg.AssetKey([spec.name, name])
    checks = [
        dg.AssetCheckSpec(gate, asset=key, blocking=True, description=GATE_DESCRIPTIONS[gate])
        for gate in gates
    ]
    return dg.asset(
        key=key,
        group_name=spec.name,
        description=description,
        kinds=kinds,
        owners=list(spec.owners),
        ins={"upstream": dg.AssetIn(key=[spec.name, upstream])} if upstream else None,
        check_specs=checks,
        code_version=digest(*code),
        io_manager_key=JSON_VALUES_KEY,
        required_resource_keys={resource} if resource else None,
    )


GATE_DESCRIPTIONS = {
    "contract": "The data meets its contract; what was quarantined stays below the allowed share.",
    "feature_sanity": "No feature is constant or has too many nulls.",
    "metric_floors": "Every metric with a floor reaches it on the holdout.",
    "not_worse_than_champion": "Not worse than the live model on the same holdout rows (paired).",
    "scorer_parity": "The served scorer equals scikit-learn on every holdout row.",
}


def digest(*parts: object) -> str:
    """Return a short hash of plain data and pydantic models, for code and data versions."""
    text = json.dumps(parts, sort_keys=True, default=lambda model: model.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def open_ledger(settings: Settings) -> Ledger:
    """Open this environment's ledger."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return Ledger(settings.ledger_url)


def book_verdicts(
    ledger: Ledger,
    raw: RawData | None,
    verdicts: Sequence[Verdict],
    *,
    run_id: str,
    model: ModelVersionRef | str,
) -> None:
    """Write verdicts to the ledger; a failed one also books the outcome *blocked* there and then.

    The endpoint never runs after a failed gate, so nobody else would book it. `raw` is None when
    the tables themselves were not judged: their rows then still wait for an outcome.
    """
    ref = model if isinstance(model, ModelVersionRef) else None
    name = ref.model if ref else str(model)
    for verdict in verdicts:
        ledger.record_verdict(name, verdict, run_id=run_id)
    failed = [str(verdict) for verdict in verdicts if not verdict.passed]
    if failed:
        ledger.record_outcome(
            name,
            "blocked",
            version=ref.version if ref else None,
            digest=ref.digest if ref else None,
            reason="; ".join(failed),
            data=raw.versions() if raw else {},
            run_id=run_id,
        )


def check_results(
    context: dg.AssetExecutionContext, verdicts: Sequence[Verdict]
) -> list[dg.AssetCheckResult]:
    """Show verdicts as check results; they stop the run early, the ledger protects production."""
    for verdict in verdicts:
        (context.log.info if verdict.passed else context.log.error)(str(verdict))
    return [
        dg.AssetCheckResult(
            check_name=verdict.gate,
            passed=verdict.passed,
            description=str(verdict),
            metadata={
                "observed": verdict.observed,
                "threshold": verdict.threshold,
                "sample_size": verdict.sample_size,
                "subject": verdict.subject,
                "policy": verdict.policy,
                "detail": verdict.detail or "-",
            },
        )
        for verdict in verdicts
    ]
