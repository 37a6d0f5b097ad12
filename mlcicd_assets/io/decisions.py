"""What people decided, read back from the ledger: overrides, freezes, approvals, rollbacks."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import Verdict


def is_over(moment: str, now: datetime | None = None) -> bool:
    """Tell whether an ISO 8601 moment has passed by the clock, which is what expiry means."""
    return datetime.fromisoformat(moment) <= (now or datetime.now(UTC))


def overrides_in_force(ledger: Ledger, model: str, gates: Gates) -> dict[tuple[str, str], Entry]:
    """Return the overrides of this policy that have not expired, by (gate, subject).

    That of a comparison ends with the reign of the champion that was compared with.
    """
    policy, live = policy_digest(gates), ledger.live(model)
    champion = live.digest if live else None
    return {
        (body["gate"], body["subject"]): entry
        for entry in ledger.entries(model=model, kinds=("override",))
        for body in [entry.body]
        if body["policy"] == policy and not is_over(body["expires"])
        if body["gate"] != NOT_WORSE.name or body.get("champion_digest") == champion
    }


def freeze_in_force(ledger: Ledger, model: str) -> Entry | None:
    """Return the newest freeze unless it was lifted or is over."""
    freezes = ledger.entries(model=model, kinds=("freeze",))
    return freezes[-1] if freezes and not is_over(freezes[-1].body["until"]) else None


def withdrawals(ledger: Ledger, model: str) -> dict[str, Entry]:
    """Return rollbacks and recalls by the digest that each took out of service, for ever."""
    booked = ledger.entries(model=model, kinds=("outcome",))
    rollbacks = {
        entry.body["withdrawn"]: entry
        for entry in booked
        if entry.body["outcome"] == "rolled_back" and entry.body["withdrawn"]
    }
    return rollbacks | recalls(ledger, model)


def recalls(ledger: Ledger, model: str) -> dict[str, Entry]:
    """Return the recalls by the digests that were made from bad rows."""
    booked = ledger.entries(model=model, kinds=("recall",))
    return {digest: entry for entry in booked for digest in entry.body["models"]}


def verdicts_digest(verdicts: Iterable[Verdict]) -> str:
    """Return the sha256 of what a set of verdicts says, whatever was measured on the way.

    An approval is bound to it: another policy, champion or verdict makes another digest, while
    running the same gates again does not.
    """
    said = sorted(
        [v.gate, v.gate_version, v.subject, v.policy, v.passed, _champion(v)] for v in verdicts
    )
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def approval_of(
    ledger: Ledger, model: str, *, digest: str, verdicts: str, author: str, gates: Gates
) -> Entry | None:
    """Return the newest approval that allows this release, if there is one.

    It must name bundle and verdicts, not have expired, come from another person than `author`,
    and be authenticated where the policy says so.
    """
    for entry in reversed(ledger.entries(model=model, kinds=("approval",))):
        body = entry.body
        is_bound = (body["digest"], body["verdicts"]) == (digest, verdicts)
        if is_bound and not is_over(body["expires"]) and not _same_person(body["by"], author):
            if body["authenticated"] or (gates.approval and not gates.approval.authenticated):
                return entry
    return None


def author_of(ledger: Ledger, model: str, digest: str, *, now: str) -> str:
    """Return who brought the bundle up for approval first; `now` when nobody has yet."""
    for entry in ledger.entries(model=model, kinds=("outcome",)):
        body: Mapping[str, Any] = entry.body
        if body["outcome"] == "awaiting" and body["digest"] == digest:
            return body["author"]
    return now


def _champion(verdict: Verdict) -> str:
    """Only the comparison is about the champion; "" elsewhere, and where there is none."""
    context = verdict.context if verdict.gate == NOT_WORSE.name else {}
    return context.get("champion_digest") or ""


def _same_person(one: str, other: str) -> bool:
    """Compare names and addresses: `ann` and `ann@example.org` may be the same person."""
    names = [name.strip().lower().partition("@") for name in (one, other)]
    (left, _, left_host), (right, _, right_host) = names
    return left == right and (left_host == right_host or not left_host or not right_host)
