"""The command line: what people type, and what they are told when it cannot work."""

import json
from pathlib import Path

import pytest

from mlcicd_assets.io.endpoint import is_alive
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets_tests.io.tiny import MODEL, bundle, release
from mlcicd_assets_tests.processes import mlcicd


def test_simulate_adds_days_and_repeats_none(home: Path) -> None:
    first = mlcicd("simulate", "--days", "3", "--scale", "0.1")
    assert first.returncode == 0, first.stderr
    assert len(list((home / "landing/card_transactions").iterdir())) == 3
    more = mlcicd("simulate", "--days", "5", "--scale", "0.1")
    assert "on 5 days" in more.stdout
    assert len(list((home / "landing/card_transactions").iterdir())) == 5


def test_simulating_another_world_into_the_same_folder_is_refused(home: Path) -> None:
    mlcicd("simulate", "--days", "2", "--scale", "0.1")
    other = mlcicd("simulate", "--days", "2", "--scale", "0.1", "--seed", "8")
    assert other.returncode == 1
    assert "error: " in other.stderr
    assert "Traceback" not in other.stderr


def test_status_of_nothing_says_what_to_do(home: Path) -> None:
    assert "dagster job execute" in mlcicd("status").stdout
    assert json.loads(mlcicd("status", "--json").stdout) == []


def test_status_shows_what_is_live_and_how_the_last_run_ended(server: str, home: Path) -> None:
    made = bundle(home / "releases")
    release(home / "releases", made.digest)
    ledger = Ledger(Settings.from_env().ledger_url)
    data = {"raw": ("id", 1)}
    ledger.record_outcome(
        MODEL, "released", version=1, digest=made.digest, reason="first", data=data, run_id="r"
    )
    ledger.record_outcome(MODEL, "blocked", reason="gate 'x' FAILED", data=data, run_id="r")
    (state,) = json.loads(mlcicd("status", "--json").stdout)
    assert state["live_version"] == 1
    assert state["why"] == "first"
    assert state["last_outcome"] == "blocked"
    text = mlcicd("status").stdout
    assert "gate 'x' FAILED" in text
    assert server in text


def test_score_before_a_release_names_the_next_step(home: Path) -> None:
    done = mlcicd("score", MODEL)
    assert done.returncode == 1
    assert "card_fraud_cicd" in done.stderr


def test_a_detached_server_is_started_once_and_stopped(home: Path) -> None:
    url = Settings.from_env().endpoints[0]
    try:
        assert "started" in mlcicd("serve", "--detach").stdout
        assert is_alive(url)
        assert "already running" in mlcicd("serve", "--detach").stdout
        made = bundle(home / "releases")
        release(home / "releases", made.digest)
        scored = mlcicd("score", MODEL)
        assert scored.stdout.startswith(f"live: {MODEL} v1 at {url}/v2/models/{MODEL} score 0.")
    finally:
        stopped = mlcicd("stop")
    assert "server stopped" in stopped.stdout
    assert not is_alive(url)
    assert "no detached server" in mlcicd("stop").stdout


@pytest.mark.parametrize("words", [("serve", "--host", "10.0.0.1"), ("status",)])
def test_a_wrong_setting_is_one_readable_line(words: tuple[str, ...], home: Path) -> None:
    wrong = {"MLCICD_ENDPOINTS": "nonsense"} if words == ("status",) else {}
    done = mlcicd(*words, **wrong)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "MLCICD_" in done.stderr
