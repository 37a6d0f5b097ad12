"""`dagster job execute`, as CI calls it: exit codes and what is printed."""

from pathlib import Path

import pytest

from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.e2e.commands import job_execute
from mlcicd_assets_tests.small_model import MODEL, deliver_days, outcomes

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
