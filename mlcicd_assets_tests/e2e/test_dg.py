"""Dagster's own project tool sees the component and points at the line of a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.conftest import ROOT

pytestmark = pytest.mark.ci


def dg(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    binary = Path(sys.executable).parent / "dg"
    environment = {**os.environ, "VIRTUAL_ENV": str(binary.parents[1]), "COLUMNS": "200"}
    return subprocess.run(
        [str(binary), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_component_is_listed() -> None:
    assert "mlcicd_assets.components.ModelPipeline" in dg("list", "components", folder=ROOT).stdout


def test_a_mistake_is_pointed_at_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\n'
        'registry_modules = ["mlcicd_assets.components"]\n'
    )
    (tmp_path / "shop" / "defs").mkdir(parents=True)
    (tmp_path / "shop" / "__init__.py").touch()
    file = plant(tmp_path / "shop" / "defs", "churn", training__seed="many") / "defs.yaml"
    line = 1 + file.read_text().splitlines().index("    seed: many")
    done = dg("check", "yaml", folder=tmp_path)
    assert done.returncode != 0
    assert f"defs.yaml:{line}" in done.stdout + done.stderr
    assert "'many' is not of type 'integer'" in done.stdout + done.stderr
