"""Somebody's own Dagster project, from an empty folder and the wheel: released, and answering."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.e2e.test_fresh_clone import FOREIGN
from mlcicd_assets_tests.processes import free_port

pytestmark = pytest.mark.ci

PROJECT = {
    "pyproject.toml": """
[project]
name = "factory"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "factory"
code_location_name = "factory.definitions"
""",
    ".gitignore": "data/\n.tmp_dagster_home*\n__pycache__/\n",
    "factory/__init__.py": "",
    # As `create-dagster project` writes it.
    "factory/definitions.py": """
from pathlib import Path

from dagster import definitions, load_from_defs_folder


@definitions
def defs():
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
""",
    "factory/defs/__init__.py": "",
    "factory/defs/machine_failure/defs.yaml": """
type: mlcicd_assets.components.ModelPipeline

attributes:
  name: machine_failure
  description: Probability that a machine fails within the day.
  owners: [team:maintenance]
  source: {table: factory/readings}
  key: [machine, read_at]
  time: {column: read_at}
  label: {column: failed, matures_after_days: 1}
  contract:
    columns:
      machine: {type: integer, min: 0, on_break: fail}
      read_at: {type: timestamp, on_break: fail}
      temperature: {type: number, min: -50, max: 500}
      vibration: {type: number, min: 0}
      shift: {type: string, categories: [early, late, night]}
      failed: {type: integer, min: 0, max: 1}
  features:
    columns: [temperature, vibration, shift]
    windows:
      - {entity: machine, days: [7], stats: [mean], of: vibration}
  split: {holdout_days: 14}
  training:
    estimator: HistGradientBoostingClassifier
    parameters: {max_iter: 60, max_leaf_nodes: 8, min_samples_leaf: 100}
  gates:
    floors: {roc_auc: 0.7}
""",
}
DAYS, MACHINES, SHIFTS = 60, 100, ("early", "late", "night")
# Each Python process of the new environment says at its end what it had loaded, and from where.
WITNESS = """
import atexit, json, os, sys

@atexit.register
def tell():
    loaded = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    with open(os.environ["WITNESS"], "a") as file:
        file.write(json.dumps([sys.argv, sys.path, loaded]) + "\\n")
"""


def readings() -> pa.Table:
    """Sensor readings of each machine in each shift; hot and shaking ones fail more often."""
    random = np.random.default_rng(3)
    rows = DAYS * MACHINES * len(SHIFTS)
    temperature = random.normal(70, 8, rows).round(2)
    vibration = random.gamma(2, 1.5, rows).round(3)
    risk = 1 / (1 + np.exp(5.5 - 0.1 * (temperature - 70) - 0.4 * vibration))
    start = datetime(2026, 1, 1, 7, tzinfo=UTC)
    return pa.table(
        {
            "machine": np.tile(np.arange(MACHINES), DAYS * len(SHIFTS)),
            "read_at": [start + timedelta(hours=8 * (row // MACHINES)) for row in range(rows)],
            "temperature": temperature,
            "vibration": vibration,
            "shift": [SHIFTS[row // MACHINES % len(SHIFTS)] for row in range(rows)],
            "failed": (random.random(rows) < risk).astype(np.int64),
        }
    )


class Stranger:
    """A shell in the project, with the new environment active and no trace of this repository."""

    def __init__(self, folder: Path) -> None:
        self.project, self.venv, tools = folder / "project", folder / "venv", folder / "tools"
        self.url, self.witness = f"http://127.0.0.1:{free_port()}", folder / "witness.jsonl"
        self.project.mkdir()
        tools.mkdir()
        (tools / "uv").symlink_to(Path(sys.executable).parent / "uv")
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith((*FOREIGN, "PYTHON"))
        }
        self.environment = inherited | {
            "VIRTUAL_ENV": str(self.venv),
            "PATH": f"{self.venv / 'bin'}:{tools}:/usr/bin:/bin",
            "MLCICD_ENDPOINTS": self.url,
            "WITNESS": str(self.witness),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def run(self, command: str) -> str:
        """Run one line of shell to its end, print its seconds, return what it said."""
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.project,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        print(f"{time.monotonic() - started:6.1f} s  {command}")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def settle(self) -> None:
        """Write the project, its data and what the user was given: the wheel and the lock."""
        for name, text in PROJECT.items():
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        write_deltalake(str(self.project / "data" / "lake" / "factory" / "readings"), readings())
        shutil.copy(ROOT / "requirements.lock", self.project)
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(self.project)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        (wheel,) = self.project.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            held = {name for name in packed.namelist() if not name.endswith(".py")}
        for name in ("py.typed", "defs/card_fraud/defs.yaml", "defs/card_fraud/README.md"):
            assert f"mlcicd_assets/{name}" in held
        self.run(f"uv venv --quiet --python {sys.base_prefix}/bin/python3 {self.venv}")
        (site,) = self.venv.glob("lib/python*/site-packages")
        (site / "witness.py").write_text(WITNESS)
        (site / "witness.pth").write_text("import witness\n")
        who = "git -c user.name=Eve -c user.email=eve@example.org -c commit.gpgsign=false"
        self.run(f"git init --quiet && git add . && {who} commit --quiet -m 'Machine failures'")

    def predict(self, **row: float | str) -> float:
        """Send one row to the server."""
        body = {"model": "machine_failure", "row": row}
        return httpx.post(f"{self.url}/predict", json=body).raise_for_status().json()["score"]


def test_a_foreign_project_releases_a_model_of_its_own(tmp_path: Path) -> None:
    started = time.monotonic()
    stranger = Stranger(tmp_path)
    stranger.settle()
    said = {}
    try:
        for command in _documented():
            said[command.split(" #")[0].strip()] = stranger.run(command)
        calm = {"temperature": 60.0, "vibration": 0.5, "machine_mean_vibration_7d": 3.0}
        hot = {"temperature": 95.0, "vibration": 12.0, "machine_mean_vibration_7d": 3.0}
        assert 0 < stranger.predict(**calm, shift="early") < stranger.predict(**hot, shift="early")
    finally:
        stranger.run("mlcicd stop")
    assert "mlcicd_assets.components.ModelPipeline" in said["dg list components"]
    assert "released: first release" in said[_one(said, "dagster job")]
    assert re.match(
        rf"live: machine_failure v1 at {stranger.url}/", said[_one(said, "mlcicd score")]
    )
    lineage = json.loads(stranger.run("mlcicd lineage machine_failure 1 --json"))["lineage"]
    assert lineage["git_commit"] == stranger.run("git rev-parse HEAD").strip()
    assert lineage["git_dirty"] == "false"
    assert "card_fraud_cicd" in stranger.run("dagster job list -m mlcicd_assets.definitions")
    _check_witness(stranger)
    print(f"figure foreign_project_seconds {time.monotonic() - started:.0f} <= 180")


def _check_witness(stranger: Stranger) -> None:
    """No process knew this repository, and one process alone ran the job."""
    trained = []
    for line in stranger.witness.read_text().splitlines():
        argv, path, modules = json.loads(line)
        ours = [one for one in (*path, *modules.values()) if one and Path(one).is_relative_to(ROOT)]
        assert not ours, argv
        if "mlcicd_assets" in modules:
            assert Path(modules["mlcicd_assets"]).is_relative_to(stranger.venv)
        if {"dagster", "sklearn"} <= modules.keys():
            trained.append(argv[1:3])
    assert trained == [["job", "execute"]]


def _documented() -> list[str]:
    """Return the commands of the section, in their order."""
    page = (ROOT / "docs" / "add_a_model.md").read_text()
    section = page.partition("## In your own Dagster project\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ (.+)$", section, re.MULTILINE)
    assert len(commands) >= 7
    return commands


def _one(said: dict[str, str], start: str) -> str:
    (command,) = [command for command in said if command.startswith(start)]
    return command
