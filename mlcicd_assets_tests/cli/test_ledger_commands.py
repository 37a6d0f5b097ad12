"""The commands on the ledger: what people are told, and what they can decide."""

import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from mlcicd_assets.io.registry import CHAMPION, client
from mlcicd_assets.io.releases import bundle_folder, read_pointer
from mlcicd_assets.ml.errors import GateBlocked
from mlcicd_assets.ml.policy import Approval, Gates
from mlcicd_assets_tests.io.scene import GATES, Scene, pass_every_gate, report
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.processes import mlcicd

COMMANDS = ("history", "live-at", "why", "lineage", "verify", "evidence")


@pytest.fixture
def scene(server: str) -> Scene:
    scene = Scene(server)
    scene.ledger.record_policy(MODEL, GATES, run_id="r")
    registry = client(scene.settings)
    registry.create_registered_model(MODEL)
    for _ in range(2):
        registry.create_model_version(MODEL, source="s3://nowhere/model")
    return scene


def told(*words: str, **environment: str) -> str:
    done = mlcicd(*words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_the_ledger_says(scene: Scene) -> None:
    first = scene.released(1, 1)
    second = scene.released(2, 2, champion=first)
    lines = told("history", MODEL).splitlines()
    assert [line.split("  ")[2] for line in lines] == [
        f"{what} v{version}" for version in (1, 2) for what in ("release begun", "released")
    ]
    rows = json.loads(told("history", MODEL, "--json"))
    outcomes = [row for row in rows if row["kind"] == "outcome"]
    between = datetime.fromisoformat(outcomes[1]["at"]) - timedelta(milliseconds=1)
    live = json.loads(told("live-at", MODEL, between.isoformat(), "--json"))
    assert (live["version"], live["entry"]) == (1, outcomes[0]["seq"])
    assert f"since: {outcomes[1]['at']}" in told("live-at", MODEL, "2990-01-01")
    assert told("live-at", MODEL, "2020-01-01T00:00") == "version: None\n"
    card = bundle_folder(scene.settings.releases, MODEL, second.digest)
    card = card.with_name(f"{second.digest}.card.md")
    card.write_text("# Card")
    why = told("why", MODEL, "2")
    assert "gate not_worse_than_champion passed: observed 1, threshold 1" in why
    assert f"digest: {second.digest}\n" in why
    assert f"card: {card}\n" in why
    card.unlink()
    assert json.loads(told("why", MODEL, "2", "--json"))["card"] is None
    lineage = json.loads(told("lineage", MODEL, "2", "--json"))
    assert lineage["lineage"]["training_key"] == "key2"
    assert "training_key" in told("lineage", MODEL, "2")


def test_evidence_goes_to_the_screen_or_a_file(scene: Scene) -> None:
    scene.released(1, 1)
    path = scene.settings.home / "evidence.json"
    told("evidence", MODEL, "1", "--out", str(path))
    assert path.read_text() == told("evidence", MODEL, "1").rstrip("\n")
    assert len(json.loads(path.read_text())["statements"]) == 3


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_or_version_that_nobody_knows_is_one_readable_line(
    command: str, home: object
) -> None:
    scene = Scene("")
    scene.ledger.record_outcome(
        "known", "kept", version=4, digest="d", reason="", data={}, run_id=""
    )
    last = {"live-at": ["2026-01-01"], "history": [], "verify": []}.get(command, ["1"])
    done = mlcicd(command, "no[/]body", *last)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no model 'no[/]body'")
    assert "known" in done.stderr
    if last == ["1"]:
        done = mlcicd(command, "known", "1")
        assert "error: nothing was decided about v1, only about: v4" in done.stderr


def test_verify_ends_with_1_and_a_line_for_each_problem(scene: Scene) -> None:
    scene.released(1, 1)
    done = mlcicd("verify")
    assert done.returncode == 1
    assert done.stdout.startswith(f"{MODEL}: MLflow's alias champion names version None")
    away = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    lines = told("verify", MODEL, **away).splitlines()
    assert lines[0].startswith(f"not checked: MLflow's alias of {MODEL}")
    assert lines[1] == f"verified: chain, heads, bundles, tables, pointers, servers of {MODEL}"
    client(scene.settings).set_registered_model_alias(MODEL, CHAMPION, "1")
    assert told("verify").endswith("servers, aliases of every model\n")


def test_an_override_a_freeze_and_an_approval_are_booked_and_shown(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    gates = Gates(floors={"roc_auc": 0.5}, approval=Approval(authenticated=False))
    pass_every_gate(scene.ledger, made, gates=gates)
    assert (
        "no failed verdict"
        in mlcicd("override", MODEL, "contract", "--days", "1", "--reason", "r").stderr
    )
    failed = scene.ledger.entries(kinds=("verdict",))[0]
    body = {**failed.body, "passed": False}
    scene.ledger.append(kind="verdict", model=MODEL, body=body, run_id="r")
    with pytest.raises(GateBlocked):
        scene.deliver(made, gates=gates)
    gate = failed.body["gate"]
    assert f"override of gate {gate}" in told(
        "override", MODEL, gate, "--days", "1", "--reason", "r"
    )
    assert scene.deliver(made, gates=gates) == "awaiting"
    file = told(
        "approve",
        MODEL,
        "1",
        "--reason",
        "fine",
        "--write",
        MLCICD_APPROVALS=str(scene.settings.home),
    )
    assert "commit" in file
    assert (scene.settings.home / MODEL / "v1.json").is_file()
    assert "(command line, unauthenticated) v1" in told("approve", MODEL, "1", "--reason", "fine")
    assert "freeze until" in told("freeze", MODEL, "--days", "2", "--reason", "hold")
    status = told("status")
    for word in (f"override of gate {gate} until", "awaiting v1", "freeze until"):
        assert "alarm     20" in status
        assert word in status
    told("freeze", MODEL, "--days", "0", "--reason", "over")
    assert "freeze until" not in told("status")
    assert "override of gate" in told("why", MODEL, "1")


def test_rollback_without_mlflow_books_the_alias_as_due(scene: Scene) -> None:
    first = scene.released(1, 1)
    scene.released(2, 2, champion=first)
    done = told("rollback", MODEL, "--reason", "bad", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert f"{MODEL} v1 (bundle {first.digest[:12]}) is live again" in done
    assert scene.served() == 1
    last = scene.ledger.entries(kinds=("outcome",))[-1]
    assert (last.body["outcome"], last.body["alias"]) == ("rolled_back", "due")


def test_rollback_moves_the_alias(scene: Scene) -> None:
    first = scene.released(1, 1)
    scene.released(2, 2, champion=first)
    told("rollback", MODEL, "--to", "1", "--reason", "bad")
    assert str(client(scene.settings).get_model_version_by_alias(MODEL, CHAMPION).version) == "1"
    assert "no earlier release v9" in mlcicd("rollback", MODEL, "--to", "9", "--reason", "r").stderr


def test_an_offline_rollback_needs_neither_ledger_mlflow_nor_dagster(scene: Scene) -> None:
    first = scene.released(1, 1)
    scene.released(2, 2, champion=first)
    code = (
        "import sys\n"
        "for name in ('sqlalchemy', 'mlflow', 'dagster'): sys.modules[name] = None\n"
        "from mlcicd_assets.cli.main import app\n"
        f"sys.argv = ['mlcicd', 'rollback', {MODEL!r}, '--reason', 'bad', '--offline']\n"
        "app()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    pointer = read_pointer(scene.settings.releases, MODEL)
    assert pointer is not None
    assert pointer.digest == first.digest
    assert scene.served() == 1
    assert "not booked yet: rolled back to v1" in told("status")
