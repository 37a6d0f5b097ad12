"""Booking of verdicts: what a gate said, and the outcome *blocked* that a failed one means."""

from collections.abc import Collection, Sequence

from mlcicd_assets.io.alerts import alert_if_blocked
from mlcicd_assets.io.decisions import overrides_in_force
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.provenance import lineage_of
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import ModelVersionRef, RawData, Verdict


def book_verdicts(
    settings: Settings,
    ledger: Ledger,
    verdicts: Sequence[Verdict],
    *,
    raw: RawData | None,
    model: ModelVersionRef | str,
    gates: Gates,
    run_id: str,
) -> Collection[tuple[str, str]]:
    """Write verdicts to the ledger; a failed one also books the outcome *blocked* there and then.

    The endpoint never runs after a failed gate, so nobody else would book it. `raw` is None when
    the tables themselves were not judged: their rows then still wait for an outcome. Returns the
    (gate, subject) of failed verdicts that a person has overridden: these block nothing.
    """
    ref = model if isinstance(model, ModelVersionRef) else None
    name = ref.model if ref else str(model)
    ledger.record_policy(name, gates, run_id=run_id)
    for verdict in verdicts:
        ledger.record_verdict(name, verdict, run_id=run_id)
    overridden = overrides_in_force(ledger, name, gates)
    failed = [v for v in verdicts if not v.passed and (v.gate, v.subject) not in overridden]
    if failed:
        booked = ledger.record_outcome(
            name,
            "blocked",
            version=ref.version if ref else None,
            digest=ref.digest if ref else None,
            reason="; ".join(map(str, failed)),
            data=raw.versions() if raw else {},
            run_id=run_id,
            policy=policy_digest(gates),
            lineage=lineage_of(ref) if ref else None,
        )
        alert_if_blocked(settings, ledger, booked)
    return overridden
