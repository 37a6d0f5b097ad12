"""Approvals as commits: `approvals/<model>/v<version>.json` in the repository.

Authenticated by whoever may commit there: the approver is the author of the commit that last
changed the file, and a file that differs from its commit does not count.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.provenance import ask_git, checkout
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import SettingsError


@dataclass(frozen=True)
class ApprovalFile:
    """What is approved and until when (ISO 8601 with zone); who is said by git alone."""

    version: int
    digest: str
    verdicts: str
    reason: str
    expires: str


def approvals_folder(settings: Settings) -> Path:
    """Return `$MLCICD_APPROVALS`, by default `approvals` at the top of the user's checkout."""
    return settings.approvals or checkout() / "approvals"


def book_git_approvals(settings: Settings, ledger: Ledger, model: str, *, run_id: str) -> None:
    """Book each committed approval of the model once.

    Raises:
        SettingsError: a committed file cannot be read.
    """
    booked = ledger.entries(model=model, kinds=("approval",))
    known = {entry.body.get("commit") for entry in booked}
    for path in sorted((approvals_folder(settings) / model).glob("*.json")):
        commit, author, signed = _committed(path)
        name = f"{commit}:{path.name}"
        if not commit or name in known:
            continue
        try:
            said = msgspec.json.decode(path.read_bytes(), type=ApprovalFile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is no approval: {error}") from error
        how = f"commit {commit[:12]}{', signed' if signed else ''}"
        body = {**asdict(said), "by": author, "authenticated": True, "how": how, "commit": name}
        ledger.append(kind="approval", model=model, body=body, run_id=run_id)


def _committed(path: Path) -> tuple[str, str, bool]:
    """Return commit, author and whether its signature is good; "" for what is not committed."""
    folder = path.parent
    if ask_git(folder, "status", "--porcelain", "--", path.name):
        return "", "", False
    answer = ask_git(folder, "log", "-1", "--format=%H %G? %ae", "--", path.name)
    commit, _, rest = answer.partition(" ")
    signature, _, author = rest.partition(" ")
    return commit, author, signature == "G"
