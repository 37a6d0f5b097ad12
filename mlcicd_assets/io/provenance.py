"""Which code, dependencies and machine a run used: written beside everything it makes."""

import getpass
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from mlcicd_assets.ml.values import ModelVersionRef

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class CodeState:
    """Git commit, whether the work tree differed from it, and the hash of the dependencies."""

    commit: str
    dirty: bool
    lock: str

    def as_tags(self) -> dict[str, str]:
        """Return the state as the tags used in MLflow and commit metadata."""
        return {
            "git_commit": self.commit,
            "git_dirty": str(self.dirty).lower(),
            "lock_sha256": self.lock,
        }


def code_state(root: Path = ROOT) -> CodeState:
    """Read the state of this checkout; outside of one, MLCICD_GIT_COMMIT names the commit."""
    return CodeState(*_git(root), _lock(root))


def lineage_of(candidate: ModelVersionRef) -> dict[str, Any]:
    """Name everything that a version was made from, by reference, and the code that says so."""
    data = candidate.data
    return {
        "training_key": candidate.training_key,
        "mlflow_run_id": candidate.mlflow_run_id,
        "features": str(data.features),
        "features_fingerprint": data.features.fingerprint,
        "events": str(data.raw.events),
        "labels": str(data.raw.labels) if data.raw.labels else None,
        "as_of": data.as_of,
        **code_state().as_tags(),
    }


def commit_author(root: Path = ROOT) -> str:
    """Return who wrote the commit that is checked out; outside of a checkout, the user."""
    return ask_git(root, "log", "-1", "--format=%ae") or getpass.getuser()


def ask_git(root: Path, *words: str) -> str:
    """Return what git answers in this folder; "" without git, checkout or answer."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(  # noqa: S603 - fixed words, no shell
        [git, "-C", str(root), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _git(root: Path) -> tuple[str, bool]:
    if not (root / ".git").exists():
        return os.environ.get("MLCICD_GIT_COMMIT", "unknown"), False
    commit = ask_git(root, "rev-parse", "HEAD")
    return commit or "unknown", bool(ask_git(root, "status", "--porcelain"))


def _lock(root: Path) -> str:
    """Hash the lock file; in a plain wheel install, the names and versions installed."""
    lock = root / "requirements.lock"
    if lock.is_file():
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    installed = sorted(f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions())
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()
