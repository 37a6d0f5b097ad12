"""Lake and release store on object storage, from landing files to a rollback, by commands."""

import time
from pathlib import Path

import pytest

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import Place, listing, place_at, read
from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.e2e.commands import job_execute
from mlcicd_assets_tests.e2e.test_rollback import LAX, WEAK, mlcicd, served
from mlcicd_assets_tests.s3 import KEYS
from mlcicd_assets_tests.small_model import MODEL, deliver_days, ledger, outcomes

pytestmark = pytest.mark.ci


@pytest.fixture
def addresses(home: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLCICD_LAKE", f"{s3}/lake")
    monkeypatch.setenv("MLCICD_RELEASES", f"{s3}/releases")
    return s3


def run(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCICD_DEFS", str(folder))
    started = time.monotonic()
    done = job_execute(f"{MODEL}_cicd", home)
    assert done.code == 0, done.output[-4000:]
    print(f"{folder.name}: {outcomes()[-1]} after {time.monotonic() - started:.1f} s")


def command(*words: str) -> str:
    done = mlcicd(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def everything(folder: Place) -> bytes:
    parts = [
        everything(folder / name) if size is None else read(folder / name) or b""
        for name, size in listing(folder).items()
    ]
    return b"".join(parts)


def test_released_kept_and_rolled_back_on_object_storage(
    addresses: str, server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    weak, good, foreign = tmp_path / "weak", tmp_path / "good", tmp_path / "foreign"
    plant(weak, MODEL, **WEAK, **LAX)
    plant(good, MODEL, **LAX)
    # The source is a table by its address, as it would be of another team.
    table = {"source": {"table": f"{addresses}/lake/{MODEL}/raw"}}
    rows = {"contract__rows": {"min": 100}}  # of the whole table now
    other = {"training__parameters": {"max_iter": 40, "learning_rate": 0.1}}
    plant(foreign, MODEL, **LAX, **table, **rows, **other)
    run(weak, home, monkeypatch)
    run(good, home, monkeypatch)
    run(good, home, monkeypatch)
    assert outcomes() == ["released", "released", "kept"]
    assert served(server) == 2

    command("rollback", MODEL, "--reason", "alerts on everything", "--offline")
    assert served(server) == 1
    assert len(outcomes()) == 3, "the ledger was not touched"
    run(foreign, home, monkeypatch)
    assert outcomes()[3:] == ["rolled_back", "released"]
    assert served(server) == 3
    command("rollback", MODEL, "--reason", "alerts on everything")
    assert served(server) == 1

    assert "verified" in command("verify", MODEL)
    assert "served    v1" in command("status")
    assert f"card: {addresses}/releases/{MODEL}/bundles" in command("why", MODEL, "1")
    assert f"live: {MODEL} v1" in command("score", MODEL)
    command("evidence", MODEL, "1", "--out", str(home / "evidence.json"))
    settings = Settings.from_env()
    assert not Path(home / "lake").exists()
    assert not Path(home / "releases").exists()
    assert ledger().last_outcome(MODEL).body["outcome"] == "rolled_back"
    # Not in a log, a database, a card, a metadata value, nor in what was written to the storage.
    for place in (home, tmp_path, settings.releases, place_at(settings.lake)):
        written = everything(place)
        assert written
        for key in KEYS.values():
            assert key.encode() not in written
