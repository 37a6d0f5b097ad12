"""What people say about a model: approve a release, override a gate, freeze; each a ledger row."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from mlcicd_assets.io.decisions import withdrawals
from mlcicd_assets.io.git_approvals import ApprovalFile, approvals_folder
from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.operators import require_operator
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import ReleaseError

RUN_ID = "by hand"


def approve(
    settings: Settings,
    ledger: Ledger,
    model: str,
    version: int,
    *,
    reason: str,
    days: int,
    how: str,
) -> Entry:
    """Approve the version that awaits it; unauthenticated, since only git tells who it was.

    Raises:
        ReleaseError: no such version awaits approval, or no reason was given.
        NotAllowed: the caller is no operator.
    """
    awaiting = _awaiting(ledger, model, version)
    body = {
        "version": version,
        "digest": awaiting["digest"],
        "verdicts": awaiting["verdicts"],
        "authenticated": False,
        "how": how,
        **_said(settings, reason, days),
    }
    return ledger.append(kind="approval", model=model, body=body, run_id=RUN_ID)


def write_approval_file(
    settings: Settings, ledger: Ledger, model: str, version: int, *, reason: str, days: int
) -> Path:
    """Write the file that approves the version once it is committed; return its path.

    Raises:
        ReleaseError: no such version awaits approval, or no reason was given.
    """
    awaiting = _awaiting(ledger, model, version)
    said = ApprovalFile(
        version, awaiting["digest"], awaiting["verdicts"], _reason(reason), _in_days(days)
    )
    path = approvals_folder(settings) / model / f"v{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(said)) + b"\n")
    return path


def override(
    settings: Settings, ledger: Ledger, model: str, gate: str, *, reason: str, days: int
) -> Entry:
    """Let the newest failed verdict of a gate pass, for exactly what it judged, until expiry.

    Raises:
        ReleaseError: the gate's newest verdict has not failed, or no reason was given.
        NotAllowed: the caller is no operator.
    """
    verdicts = ledger.entries(model=model, kinds=("verdict",))
    newest = next((entry for entry in reversed(verdicts) if entry.body["gate"] == gate), None)
    if newest is None or newest.body["passed"]:
        raise ReleaseError(f"gate '{gate}' of '{model}' has no failed verdict to override")
    body = {
        "gate": gate,
        "subject": newest.body["subject"],
        "policy": newest.body["policy"],
        "verdict_seq": newest.seq,
        "champion_digest": newest.body["context"].get("champion_digest"),
        **_said(settings, reason, days),
    }
    return ledger.append(kind="override", model=model, body=body, run_id=RUN_ID)


def freeze(settings: Settings, ledger: Ledger, model: str, *, reason: str, days: int) -> Entry:
    """Stop releases of the model for so many days; 0 days lifts a freeze.

    Raises:
        ReleaseError: the ledger does not know the model, or no reason was given.
        NotAllowed: the caller is no operator.
    """
    if model not in ledger.models():
        known = ", ".join(ledger.models()) or "none"
        raise ReleaseError(f"there is no model '{model}'; the ledger knows: {known}")
    said = _said(settings, reason, days)
    body = {"until": said.pop("expires"), **said}
    return ledger.append(kind="freeze", model=model, body=body, run_id=RUN_ID)


def _awaiting(ledger: Ledger, model: str, version: int) -> dict[str, Any]:
    gone = withdrawals(ledger, model)
    for entry in reversed(ledger.entries(model=model, kinds=("outcome",))):
        if entry.body["outcome"] == "awaiting":
            if entry.body["version"] != version or entry.body["digest"] in gone:
                break
            return entry.body
    raise ReleaseError(f"{model} v{version} does not await approval: look at `mlcicd history`")


def _said(settings: Settings, reason: str, days: int) -> dict[str, Any]:
    by = require_operator(settings)
    return {"by": by, "reason": _reason(reason), "expires": _in_days(days)}


def _reason(text: str) -> str:
    if not text.strip():
        raise ReleaseError("say why: a reason is kept with every such decision")
    return text.strip()


def _in_days(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()
