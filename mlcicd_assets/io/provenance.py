"""Which code, dependencies and machine a run used: written beside everything it makes."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

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


def _git(root: Path) -> tuple[str, bool]:
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return os.environ.get("MLCICD_GIT_COMMIT", "unknown"), False

    def ask(*words: str) -> str:
        done = subprocess.run(  # noqa: S603 - fixed words, no shell
            [git, "-C", str(root), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    return ask("rev-parse", "HEAD") or "unknown", bool(ask("status", "--porcelain"))


def _lock(root: Path) -> str:
    """Hash the lock file; in a plain wheel install, the names and versions installed."""
    lock = root / "requirements.lock"
    if lock.is_file():
        return hashlib.sha256(lock.read_bytes()).hexdigest()
    installed = sorted(f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions())
    return hashlib.sha256("\n".join(installed).encode()).hexdigest()
