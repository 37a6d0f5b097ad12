"""Rollback with MLflow stopped and no Dagster process, by the commands that a person would type."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.e2e.commands import job_execute
from mlcicd_assets_tests.processes import free_port
from mlcicd_assets_tests.small_model import MODEL, deliver_days, ledger, outcomes

pytestmark = pytest.mark.ci
WEAK = {"features": {"columns": ["channel"], "calendar": ["hour"]}}
LAX = {"gates__floors": {"roc_auc": 0.5}, "gates__slices": None}


@contextmanager
def mlflow_server(home: Path, port: int) -> Iterator[None]:
    """A real tracking server over this home's database."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(home / "artifacts")]
    with (home / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240  # seconds that a busy machine may take
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (home / "mlflow.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (home / "mlflow.log").read_text()[-3000:]
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return answer.status == 200
    except OSError:
        return False


def mlcicd(*words: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "mlcicd"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def served(url: str) -> int | None:
    status = model_status(url, MODEL, token=None)
    return status.version if status else None


@pytest.mark.parametrize("words", [["--offline"], []], ids=["offline", "with the ledger"])
def test_rollback_with_mlflow_stopped_and_no_dagster(
    words: list[str], server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    weak, good = tmp_path / "weak", tmp_path / "good"
    plant(weak, MODEL, **WEAK, **LAX)
    plant(good, MODEL, **LAX)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with mlflow_server(home, port):
        for folder in (weak, good):
            monkeypatch.setenv("MLCICD_DEFS", str(folder))
            done = job_execute(f"{MODEL}_cicd", home)
            assert done.code == 0, done.output[-4000:]
    assert outcomes() == ["released", "released"]
    assert served(server) == 2
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    started = time.monotonic()
    back = mlcicd("rollback", MODEL, "--reason", "alerts on everything", *words)
    assert back.returncode == 0, back.stdout + back.stderr
    assert served(server) == 1
    print(f"rollback {' '.join(words)}: {time.monotonic() - started:.1f} s")
    if words:
        assert outcomes() == ["released", "released"], "the ledger was not touched"

    with mlflow_server(home, port):
        done = job_execute(f"{MODEL}_cicd", home)
        assert done.code == 0, done.output[-4000:]
        verified = mlcicd("verify", MODEL)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    assert outcomes() == ["released", "released", "rolled_back", "kept"]
    assert "was rolled back by" in ledger().last_outcome(MODEL).body["reason"]
    assert served(server) == 1
    told = mlcicd("history", MODEL).stdout
    assert "alerts on everything" in told
