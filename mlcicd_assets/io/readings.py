"""Readings of the ledger: what was live when, why a version was decided so, what made it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlcicd_assets.io.decisions import is_over
from mlcicd_assets.io.ledger import MAKES_LIVE, Entry, Ledger
from mlcicd_assets.ml.errors import ReleaseError


@dataclass(frozen=True)
class Case:
    """A version's decision, the verdicts that it rests on, and all else that people decided."""

    digest: str
    policy: str | None
    decision: Entry
    verdicts: list[Entry]
    said: list[Entry]


def entries_of(ledger: Ledger, model: str) -> list[Entry]:
    """Return a model's entries, oldest first; ReleaseError when the ledger has none."""
    entries = ledger.entries(model=model)
    if not entries:
        known = ", ".join(ledger.models()) or "none"
        raise ReleaseError(f"there is no model '{model}'; the ledger knows: {known}")
    return entries


def moment_of(text: str) -> datetime:
    """Parse ISO 8601, UTC where no zone is given; ReleaseError if it is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ReleaseError(f"'{text}' is no time: write it like 2026-11-21T09:30") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def history(entries: Sequence[Entry]) -> list[Entry]:
    """Return every decision, oldest first by the chain."""
    return [entry for entry in entries if entry.kind not in {"policy", "verdict"}]


def in_words(entry: Entry) -> str:
    """Put a verdict or decision into one line: when, which entry, what, version, who, why."""
    body, by = entry.body, entry.body.get("by") or f"run {entry.run_id}"
    until = str(body.get("expires") or body.get("until"))[:16]
    recalled = [f"v{number}" for number in sorted(filter(None, _models(entry).values()))]
    how = body.get("how") if body.get("authenticated") else f"{body.get('how')}, unauthenticated"
    what = {
        "verdict": f"gate {body.get('gate')} {'passed' if body.get('passed') else 'FAILED'}: "
        f"observed {body.get('observed')}, threshold {body.get('threshold')}",
        "intent": f"{body.get('action', 'release')} begun",
        "outcome": str(body.get("outcome")).replace("_", " "),
        "approval": f"approval until {until} ({how})",
        "override": f"override of gate {body.get('gate')} until {until}",
        "freeze": f"freeze until {until}",
        "recall": f"recall of {', '.join(recalled) or 'no model'}",
        "image": f"image {body.get('image')}",
    }[entry.kind]
    what += f" v{body['version']}" if body.get("version") else ""
    what += f", offline, booked {entry.at[:16]}" if body.get("offline_id") else ""
    why = body.get("reason") or body.get("detail") or "-"
    return f"{_time(entry).isoformat()[:19]}Z  entry {entry.seq}  {what}  by {by}: {why}"


def reigns(entries: Sequence[Entry]) -> list[tuple[datetime, Entry]]:
    """Return every release and rollback with the moment since which it is live.

    The chain gives the order. A moment is the latest that any so far has had, so a clock that
    was set back reorders nothing.
    """
    found: list[tuple[datetime, Entry]] = []
    for entry in entries:
        if entry.kind == "outcome" and entry.body["outcome"] in MAKES_LIVE:
            found.append((max([_time(entry), *(since for since, _ in found[-1:])]), entry))
    return found


def live_at(entries: Sequence[Entry], moment: datetime) -> tuple[datetime, Entry] | None:
    """Return what was live at that moment, and since when; None before the first release."""
    begun = [reign for reign in reigns(entries) if reign[0] <= moment]
    return begun[-1] if begun else None


def case_of(entries: Sequence[Entry], version: int) -> Case:
    """Collect what was decided about a version, and why; its release counts before the rest.

    Raises:
        ReleaseError: nothing was decided about that version.
    """
    outcomes = [e for e in entries if e.kind == "outcome" and e.body["version"] is not None]
    own = [e for e in outcomes if e.body["version"] == version]
    if not own:
        known = ", ".join(f"v{one}" for one in sorted({e.body["version"] for e in outcomes}))
        raise ReleaseError(f"nothing was decided about v{version}, only about: {known or 'none'}")
    decision = ([e for e in own if e.body["outcome"] == "released"] or own)[-1]
    basis = next((e for e in entries if e.seq == decision.body["intent_seq"]), decision)
    digest, lines = decision.body["digest"], decision.body.get("lineage") or {}
    subjects = {digest, lines.get("features_fingerprint")}
    before = [e for e in entries if e.kind == "verdict" and e.seq < basis.seq]
    # A gate that fails books the outcome in its own run, and without lineage.
    judged = [e for e in before if e.body["subject"] in subjects or e.run_id == basis.run_id]
    policies = [e.body["policy"] for e in judged if e.body["subject"] == digest]
    policy = basis.body.get("policy") or next(reversed(policies), None)
    newest = {(e.body["gate"], e.body["subject"]): e for e in judged if e.body["policy"] == policy}
    freezes = [e for e in entries if e.kind == "freeze" and e.seq < basis.seq][-1:]
    said = [e for e in freezes if not is_over(e.body["until"], _time(decision))]
    said += [e for e in history(entries) if e.body.get("digest") == digest or digest in _models(e)]
    for entry in entries:
        body = entry.body
        if entry.kind == "override" and body["policy"] == policy:
            said += [entry] if (body["gate"], body["subject"]) in newest else []
    return Case(digest, policy, decision, list(newest.values()), sorted(said, key=lambda e: e.seq))


def lineage(entries: Sequence[Entry], version: int) -> dict[str, Any]:
    """Return what a version was made from and when it was released; ReleaseError as `case_of`."""
    case = case_of(entries, version)
    told = [e.body["lineage"] for e in (*case.said, case.decision) if e.body.get("lineage")]
    live = [(since, e) for since, e in reigns(entries) if e.body["digest"] == case.digest]
    return {
        "digest": case.digest,
        "data": case.decision.body["data"],
        "lineage": told[-1] if told else {},
        "released": [f"{since.isoformat()} by entry {e.seq}" for since, e in live],
    }


def alarms(entries: Sequence[Entry]) -> list[Entry]:
    """Return what must be seen now: overrides, a freeze, a recalled live version, an approval."""
    about = [e for e in entries if e.kind == "outcome" and e.body["version"] is not None]
    freezes = [e for e in entries if e.kind == "freeze"]
    told = [e for e in entries if e.kind == "override" and not is_over(e.body["expires"])]
    told += [e for e in freezes[-1:] if not is_over(e.body["until"])]
    live = [entry.body["digest"] for _, entry in reigns(entries)[-1:]]
    told += [e for e in entries if any(digest in _models(e) for digest in live)]
    gone = {digest for e in entries for digest in _models(e)}
    awaited = [e for e in about[-1:] if e.body["outcome"] == "awaiting"]
    return told + [e for e in awaited if e.body["digest"] not in gone]


def _models(entry: Entry) -> dict[str, int | None]:
    """Return what an entry recalled: versions by their digests."""
    return entry.body["models"] if entry.kind == "recall" else {}


def _time(entry: Entry) -> datetime:
    return moment_of(entry.body.get("effective_at") or entry.at)
