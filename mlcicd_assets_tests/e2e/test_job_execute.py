"""`dagster job execute`, as CI calls it: exit codes and what is printed."""

import time
from pathlib import Path

import polars as pl
import pytest

from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.registry import client
from mlcicd_assets.io.settings import Settings
from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.e2e.commands import job_execute, start_job
from mlcicd_assets_tests.small_model import MODEL, deliver_days, ledger, outcomes

pytestmark = pytest.mark.ci


def test_exit_codes_of_released_kept_and_blocked(
    server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    good, bad = tmp_path / "good", tmp_path / "bad"
    plant(good, MODEL)
    plant(bad, MODEL, gates__floors={"roc_auc": 0.999})
    for folder, code in ((good, 0), (good, 0), (bad, 1), (bad, 1), (good, 0)):
        monkeypatch.setenv("MLCICD_DEFS", str(folder))
        done = job_execute(f"{MODEL}_cicd", home)
        assert done.code == code, done.output[-4000:]
        if code:
            assert "gate 'metric_floors' FAILED" in done.output
            assert "threshold roc_auc >= 0.999" in done.output
        status = model_status(server, MODEL, token=None)
        assert status is not None
        assert status.version == 1
    assert outcomes() == ["released", "kept", "blocked", "blocked", "kept"]


@pytest.mark.parametrize(
    "moment",
    ["raw_data - gate 'contract'", "feature_sanity", "new mlflow run", "scorer_parity"],
)
def test_after_a_kill_the_next_run_converges(
    moment: str, server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = deliver_days()
    plant(tmp_path / "models", MODEL)
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path / "models"))
    process, log = start_job(f"{MODEL}_cicd", home)
    while moment not in log.read_text():
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = job_execute(f"{MODEL}_cicd", home)
    assert done.code == 0, done.output[-3000:]
    # The kill may come too late to stop the release; it then finds it done.
    assert outcomes() in (["released"], ["released", "kept"])
    versions = client(Settings.from_env()).search_model_versions(f"name='{MODEL}'")
    assert len({version.tags["training_key"] for version in versions}) == len(versions) == 1
    rows = pl.read_delta(str(home / "lake" / MODEL / "raw"))["transaction_id"]
    assert rows.n_unique() == rows.len() == simulated.transactions.height


def test_two_runs_at_once_train_once_and_release_once(
    server: str, home: Path, tmp_path: Path, ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = deliver_days()
    plant(tmp_path / "models", MODEL)
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path / "models"))
    runs = [start_job(f"{MODEL}_cicd", home, name=name) for name in ("one", "two")]
    for process, log in runs:
        assert process.wait() == 0, log.read_text()[-3000:]
    assert outcomes() == ["released", "kept"]
    assert ledger().verify_chain() == []
    assert len(client(Settings.from_env()).search_model_versions(f"name='{MODEL}'")) == 1
    rows = pl.read_delta(str(home / "lake" / MODEL / "raw"))["transaction_id"]
    assert rows.n_unique() == rows.len() == simulated.transactions.height
