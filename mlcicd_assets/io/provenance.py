"""Which code, dependencies and machine a run used: written beside everything it makes."""

import getpass
import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from mlcicd_assets.ml.values import ModelVersionRef


@dataclass(frozen=True)
class CodeState:
    """Git commit, whether the work tree differed from it, hash of the dependencies, our version."""

    commit: str
    dirty: bool
    lock: str
    package: str

    def as_tags(self) -> dict[str, str]:
        """Return the state as the tags used in MLflow and commit metadata."""
        return {
            "git_commit": self.commit,
            "git_dirty": str(self.dirty).lower(),
            "lock_sha256": self.lock,
            "mlcicd_assets_version": self.package,
        }


def code_state() -> CodeState:
    """Read the state of the working directory's checkout, which is the user's own project.

    Outside of a checkout MLCICD_GIT_COMMIT names the commit.
    """
    here = Path.cwd()
    commit = ask_git(here, "rev-parse", "HEAD")
    is_dirty = bool(commit and ask_git(here, "status", "--porcelain"))
    named = commit or os.environ.get("MLCICD_GIT_COMMIT", "no git")
    return CodeState(named, is_dirty, _lock(here), version("mlcicd-assets"))


def lineage_of(candidate: ModelVersionRef) -> dict[str, Any]:
    """Name everything that a version was made from, by reference, and the code that says so."""
    data = candidate.data
    return {
        "training_key": candidate.training_key,
        "mlflow_run_id": candidate.mlflow_run_id,
        "features": str(data.features),
        "features_fingerprint": data.fingerprint,
        "events": str(data.raw.events),
        "labels": str(data.raw.labels) if data.raw.labels else None,
        "as_of": data.as_of,
        **code_state().as_tags(),
    }


def commit_author() -> str:
    """Return who wrote the commit that is checked out; outside of a checkout, the user."""
    return ask_git(Path.cwd(), "log", "-1", "--format=%ae") or getpass.getuser()


def checkout() -> Path:
    """Return the top of the git checkout around the working directory, else that directory."""
    here = Path.cwd()
    return Path(ask_git(here, "rev-parse", "--show-toplevel") or here)


def ask_git(folder: Path, *words: str) -> str:
    """Return what git answers in this folder; "" without git, checkout or answer."""
    git = shutil.which("git")
    if git is None:
        return ""
    done = subprocess.run(  # noqa: S603 - fixed words, no shell
        [git, "-C", str(folder), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def _lock(folder: Path) -> str:
    """Hash the lock file; where there is none, the names and versions installed."""
    lock = folder / "requirements.lock"
    if lock.is_file():
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    installed = sorted(f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions())
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()
