"""A stranger's first minutes: clone, `make run`, the README's request, the second run."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.processes import free_port

pytestmark = pytest.mark.ci

# What a stranger's shell would not have.
FOREIGN = ("MLCICD_", "MLFLOW_", "DAGSTER_", "VIRTUAL_ENV", "PYTEST", "OMP_", "MAKE", "MFLAGS")


def test_a_fresh_clone_runs_and_answers_the_readme_request(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)
    } | {"MLCICD_ENDPOINTS": url}

    def make(*words: str) -> str:
        done = subprocess.run(
            ["make", *words],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    try:
        started = time.monotonic()
        last = make("run").strip().splitlines()[-1]
        print(f"\n{last}\nfigure first_run_seconds {time.monotonic() - started:.0f} <= 600")
        assert re.match(rf"live: card_fraud v1 at {url}/\S+ score \d\.\d+ ", last)
        answer = subprocess.run(
            ["bash", "-c", _readme_request().replace("http://127.0.0.1:8900", url)],
            capture_output=True,
            text=True,
            check=True,
        )
        scored = json.loads(answer.stdout)
        assert scored["model"] == "card_fraud"
        assert 0 <= scored["score"] <= 1
        again = make("run").strip().splitlines()[-1]
        assert again.startswith("live: card_fraud v1 ")
        status = subprocess.run(
            [".venv/bin/mlcicd", "status", "--json"],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        (state,) = json.loads(status.stdout)
        assert state["live_version"] == 1
        assert state["last_outcome"] == "kept"
        assert state["served"] == {url: "v1"}
    finally:
        make("stop")
        shutil.rmtree(clone, ignore_errors=True)


def _readme_request() -> str:
    text = (ROOT / "README.md").read_text()
    found = re.search(r"^\$ (curl .*?\}\}')$", text, flags=re.DOTALL | re.MULTILINE)
    assert found, "the README has no curl example"
    return found.group(1)
