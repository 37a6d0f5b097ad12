"""Faults around the pipeline: gates that crash, MLflow, databases, memory, settings, secrets."""

import importlib
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mlcicd_assets.io import evaluation_run, feature_run, ledger_tables, training_run
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import client
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import LedgerError
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.processes import free_port
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    metadata,
    outcomes,
    run_job,
    small_spec,
)


def versions() -> int:
    return len(client(Settings.from_env()).search_model_versions(f"name='{MODEL}'"))


@pytest.mark.ci
@pytest.mark.parametrize(
    ("module", "gate"),
    [
        (feature_run, "contract_gate"),
        (evaluation_run, "champion_gate"),
        (evaluation_run, "finding_gates"),
    ],
)
def test_a_gate_that_crashes_lets_nothing_through(
    server: str, module: object, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 21: an exception is no verdict, and the endpoint asks for verdicts."""
    deliver_days()
    with monkeypatch.context() as patch:
        patch.setattr(module, gate, lambda *_, **__: 1 / 0)
        assert not run_job(small_spec()).success
        for asset in ("evaluation_report", "deployed_endpoint"):
            assert not run_job(small_spec(), only=asset).success
    assert "released" not in outcomes()
    assert model_status(server, MODEL, token=None) is None


@pytest.fixture
def mlflow_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["MlflowServer"]:
    started = MlflowServer(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.url)
    started.start()
    yield started
    started.stop()


class MlflowServer:
    """A real tracking server on this home's database."""

    def __init__(self, home: Path) -> None:
        self.port, self.home = free_port(), home
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--backend-store-uri", f"sqlite:///{self.home / 'mlflow.db'}", "--workers", "1"]
        options += ["--artifacts-destination", str(self.home / "served"), "--port", str(self.port)]
        with (self.home / "mlflow.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 240
        while "Application startup complete" not in (self.home / "mlflow.log").read_text():
            assert time.monotonic() < deadline, (self.home / "mlflow.log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
        (self.home / "mlflow.log").write_text("")


@pytest.mark.ci
def test_an_mlflow_server_that_dies_in_mid_run_leaves_one_version_in_the_end(
    home: Path, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 32: before the training nothing is lost, after it the same model is made again."""
    deliver_days()
    assert all(run_job(small_spec(), only=a).success for a in ("raw_data", "validated_features"))
    honest = training_run.fit

    def dies(*words: object) -> object:
        mlflow_server.stop()
        return honest(*words)

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "fit", dies)
        assert not run_job(small_spec(), only="trained_model").success
    # Down from the start: it fails before the training.
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "fit", lambda *_: pytest.fail("trained without MLflow"))
        assert not run_job(small_spec(), only="trained_model").success
    mlflow_server.start()
    done = run_job(small_spec(), only="trained_model")
    assert done.success
    assert metadata(done, "trained_model")["trained_now"]
    assert versions() == 1


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize(("seconds", "is_too_long"), [(1.0, False), (3.0, True)])
def test_a_locked_ledger_is_waited_for_and_then_named(
    home: Path, seconds: float, is_too_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 61: another process holds the database."""
    settings = Settings.from_env()
    first = Ledger(settings.ledger_url)
    first.seen_files("x")
    if is_too_long:
        honest = ledger_tables.sa.create_engine
        shorter = {"timeout": 0.2, "isolation_level": None}
        monkeypatch.setattr(
            ledger_tables.sa,
            "create_engine",
            lambda *a, **k: honest(*a, **{**k, "connect_args": shorter}),
        )
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home / "ledger.db"), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        if is_too_long:
            with pytest.raises(LedgerError, match=r"cannot be used: database is locked; check"):
                Ledger(settings.ledger_url).remember_files("x", [])
        else:
            Ledger(settings.ledger_url).remember_files("x", [])
    finally:
        holder.communicate()


def train_in_little_memory() -> None:
    honest = training_run.fit
    for library in ("sklearn.ensemble", "skops.io", "pandas"):
        importlib.import_module(library)

    def limited(*words: object) -> object:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 1024**2,) * 2)
        return honest(*words)

    training_run.fit = limited
    forest = small_spec(
        training__estimator="RandomForestClassifier", training__parameters={"n_estimators": 150}
    )
    sys.exit(0 if run_job(forest, only="trained_model").success else 1)


@pytest.mark.ci
def test_a_training_that_runs_out_of_memory_registers_nothing_and_the_next_one_does(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Row 26."""
    deliver_days()
    assert all(run_job(small_spec(), only=a).success for a in ("raw_data", "validated_features"))
    child = multiprocessing.get_context("spawn").Process(target=train_in_little_memory)
    child.start()
    child.join(timeout=300)
    child.kill()
    assert child.exitcode == 1
    assert "emory" in capfd.readouterr().err
    assert versions() == 0
    assert run_job(small_spec(), only="trained_model").success
    assert versions() == 1


def test_a_run_has_a_longest_time_and_a_failed_step_is_not_repeated() -> None:
    """Rows 9, 26 and 27: Dagster's own monitor ends what hangs."""
    shipped = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    assert shipped["run_monitoring"]["enabled"]
    assert 0 < shipped["run_monitoring"]["max_runtime_seconds"] <= 4 * 3600
    assert shipped["run_retries"]["max_retries"] <= 2
    assert not shipped["run_retries"]["retry_on_asset_or_op_failure"]


SECRETS = {
    "MLCICD_TOKEN": "token-of-the-server-7f3a",
    "MLCICD_OPERATOR_TOKEN": "token-of-an-operator-91bc",
    "MLCICD_ALERT_WEBHOOK": "http://127.0.0.1:9/hook-with-a-secret-55e0",
}


@pytest.mark.ci
def test_no_secret_stands_in_any_file_or_log_of_a_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Row 63."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    deliver_days()
    run_job(small_spec())
    said = "".join(capfd.readouterr())
    assert "gate 'contract' passed" in said
    texts = {"what was said": said.encode()}
    texts |= {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert any("ledger.db" in name for name in texts)
    for secret in SECRETS.values():
        assert [name for name, text in texts.items() if secret.encode() in text] == []
