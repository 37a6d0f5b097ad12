"""Rollback: an earlier release live again, and the booking of those made without the ledger."""

import uuid
from collections.abc import Callable
from typing import Literal

from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.carrier import Carrier
from mlcicd_assets.io.decisions import recalls, withdrawals
from mlcicd_assets.io.ledger import MAKES_LIVE, Head, Ledger, Live
from mlcicd_assets.io.offline import OfflineRollback, Target, complete, pending_notes
from mlcicd_assets.io.operators import require_operator
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import remove
from mlcicd_assets.ml.errors import LedgerMoved, ReleaseError


def rollback(
    settings: Settings,
    ledger: Ledger,
    model: str,
    *,
    to: int | None,
    reason: str,
    mark_champion: Callable[[str, int], None],
) -> Target:
    """Make an earlier release live again, by default the one before; return version and digest.

    What was live is withdrawn: no run releases that very model again. MLflow's alias follows
    with the next run if it cannot be moved now.

    Raises:
        ReleaseError: there is no such release, or a server does not come to answer with it.
        NotAllowed: the caller is no operator.
    """
    by, run_id = require_operator(settings), f"rollback-{uuid.uuid4().hex[:8]}"
    carrier = Carrier(settings, ledger, run_id, mark_champion)
    book_offline(settings, ledger, model, run_id=run_id)
    while True:
        head = carrier.settled_head(model)
        live = ledger.live(model)
        if live is None:
            raise ReleaseError(f"'{model}' has no release yet: there is nothing to roll back")
        target = earlier(ledger, model, live.digest, to)
        try:
            move_back(carrier, head, live, target, model=model, reason=reason, by=by)
        except LedgerMoved:
            continue  # someone released meanwhile: look again at what is live now
        return target


def move_back(
    carrier: Carrier,
    head: Head,
    live: Live,
    target: Target,
    *,
    model: str,
    reason: str,
    by: str,
    action: Literal["rollback", "recall"] = "rollback",
) -> None:
    """Book that `target` shall be live in place of `live`, and carry it out.

    Raises:
        LedgerMoved: the ledger is no longer at `head`; nothing was written.
        ReleaseError, BundleError: as in `Carrier.carry_out`.
    """
    version, digest = target
    load_bundle(carrier.settings.releases, model, digest)
    last = carrier.ledger.last_outcome(model)
    body = {
        "action": action,
        "version": version,
        "digest": digest,
        "previous_version": live.version,
        "previous_digest": live.digest,
        "reason": reason,
        "by": by,
        "data": last.body["data"] if last else {},
    }
    intent = carrier.ledger.append(
        kind="intent", model=model, body=body, run_id=carrier.run_id, expected_seq=head.seq
    )
    carrier.carry_out(intent)


def book_offline(settings: Settings, ledger: Ledger, model: str, *, run_id: str) -> list[str]:
    """Book every pending rollback, and close the release that it interrupted.

    A rollback that was cut off before the pointer moved is completed first. The data of the
    last outcome stays decided. Returns what was booked, for people.
    """
    told: list[str] = []
    for path, note in pending_notes(settings.releases, model).items():
        if not _is_booked(ledger, note):
            complete(settings.releases, note)
            _close_open_intent(ledger, note, run_id=run_id)
            _book(ledger, note, run_id=run_id)
            told.append(f"{model}: rolled back to v{note.version} by {note.by} at {note.at}")
        remove(path)
    return told


def earlier(ledger: Ledger, model: str, live: str, to: int | None = None) -> Target:
    """Find the newest release before what is live, or version `to`; never one withdrawn.

    Raises:
        ReleaseError: there is none.
    """
    gone = withdrawals(ledger, model)
    released = [
        (entry.body["version"], entry.body["digest"])
        for entry in reversed(ledger.entries(model=model, kinds=("outcome",)))
        if entry.body["outcome"] in MAKES_LIVE
    ]
    choices = dict.fromkeys(one for one in released if one[1] != live and one[1] not in gone)
    for version, digest in choices:
        if to is None or version == to:
            return version, digest
    known = ", ".join(f"v{version}" for version, _ in choices) or "none"
    raise ReleaseError(
        f"'{model}' has no earlier release {f'v{to} ' if to else ''}to go back to; it has: {known}"
    )


def _is_booked(ledger: Ledger, note: OfflineRollback) -> bool:
    booked = ledger.entries(model=note.model, kinds=("outcome",))
    return any(entry.body.get("offline_id") == note.id for entry in booked)


def _close_open_intent(ledger: Ledger, note: OfflineRollback, *, run_id: str) -> None:
    """What was half released must not be finished after a person took it back."""
    intent = ledger.unfinished_intent(note.model)
    if intent is not None:
        ledger.record_outcome(
            note.model,
            "blocked",
            version=intent.body["version"],
            digest=intent.body["digest"],
            reason=f"rolled back by hand before it was complete: {note.reason}",
            data=intent.body["data"],
            run_id=run_id,
            intent_seq=intent.seq,
        )


def _book(ledger: Ledger, note: OfflineRollback, *, run_id: str) -> None:
    while True:
        head, last = ledger.head(), ledger.last_outcome(note.model)
        try:
            ledger.record_outcome(
                note.model,
                "rolled_back",
                version=note.version,
                digest=note.digest,
                reason=note.reason,
                data=last.body["data"] if last else {},
                run_id=run_id,
                expected_seq=head.seq,
                by=note.by,
                # What was left for a recalled version is the way back from it.
                withdrawn=None if note.digest in recalls(ledger, note.model) else note.withdrawn,
                alias="due",
                offline_id=note.id,
                effective_at=note.at,
            )
            return
        except LedgerMoved:
            if _is_booked(ledger, note):
                return
