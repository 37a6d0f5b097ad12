"""Commit, lock and approvals are those of the user's own project, wherever our package lies."""

import getpass
import hashlib
import subprocess
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest

from mlcicd_assets.io.git_approvals import ApprovalFile, approvals_folder, book_git_approvals
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.provenance import code_state, commit_author
from mlcicd_assets.io.settings import Settings

WHO = ("-c", "user.name=Bob", "-c", "user.email=bob@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *WHO, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project below the top of somebody's repository, as the working directory."""
    folder = tmp_path / "theirs" / "project"
    folder.mkdir(parents=True)
    (folder / "requirements.lock").write_text("theirs==1\n")
    git(folder.parent, "init", "--quiet")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "--quiet", "-m", "ours")
    monkeypatch.chdir(folder)
    return folder


def test_the_code_is_that_of_the_working_directory(theirs: Path) -> None:
    state = code_state()
    assert state.as_tags() == {
        "git_commit": git(theirs, "rev-parse", "HEAD"),
        "git_dirty": "false",
        "lock_sha256": hashlib.sha256(b"theirs==1\n").hexdigest(),
        "mlcicd_assets_version": "0.1.0",
    }
    assert commit_author() == "bob@example.org"
    (theirs / "defs.yaml").touch()
    assert code_state().dirty


def test_without_git_the_environment_names_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = code_state()
    assert (state.commit, state.dirty, len(state.lock)) == ("no git", False, 64)
    assert commit_author() == getpass.getuser()
    assert approvals_folder(Settings.from_env()) == tmp_path / "approvals"
    monkeypatch.setenv("MLCICD_GIT_COMMIT", "c1")
    assert code_state().commit == "c1"


def test_approvals_are_committed_at_the_top_of_their_repository(
    theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, top = Settings.from_env(), theirs.parent
    settings.home.mkdir()
    ledger = Ledger(settings.ledger_url)
    assert approvals_folder(settings) == top / "approvals"
    path = top / "approvals" / "churn" / "v1.json"
    path.parent.mkdir(parents=True)
    said = ApprovalFile(1, "d" * 64, "v" * 64, "read the card", "2030-01-01T00:00:00+00:00")
    path.write_bytes(msgspec.json.encode(asdict(said)))
    book_git_approvals(settings, ledger, "churn", run_id="r1")
    assert ledger.entries(model="churn") == []
    git(top, "add", ".")
    git(top, "commit", "--quiet", "-m", "approve v1")
    book_git_approvals(settings, ledger, "churn", run_id="r2")
    (entry,) = ledger.entries(model="churn")
    assert entry.body["by"] == "bob@example.org"
    monkeypatch.setenv("MLCICD_APPROVALS", str(tmp_path))
    assert approvals_folder(Settings.from_env()) == tmp_path
