"""The trial starts the real server with a real bundle; nothing is replaced but what is broken."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.io import serving_trial
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.serving_trial import try_serving
from mlcicd_assets.ml.policy import ServingGate
from mlcicd_assets.ml.scored import Finding
from mlcicd_assets.ml.scoring import Scorer
from mlcicd_assets_tests.io import tiny

RULE = ServingGate(requests=20, concurrency=4, max_p99_ms=5_000)


def tried(root: Path, bundle: Bundle, rule: ServingGate = RULE, **rows: np.ndarray) -> Finding:
    return try_serving(root, bundle, {**tiny.ROWS, **rows}, rule)


def children() -> set[str]:
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    return {line for line in listed.stdout.splitlines() if "mlcicd_assets.serving" in line}


def test_a_good_bundle_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = tried(tmp_path, made)
    assert (found.faults, found.rows) == ([], 20)
    assert "0 of 20 requests wrong" in found.observed
    megabytes = float(found.observed.split(", ")[1].removesuffix(" MB"))
    assert 20 < megabytes < 300
    assert sorted(tmp_path.rglob("*")) == before
    assert children() == set()


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"max_p99_ms": 1e-6}, "too slow"), ({"max_memory_mb": 1}, "too much memory")],
)
def test_a_limit_that_is_passed_is_a_fault(tmp_path: Path, limits: Any, words: str) -> None:
    found = tried(tmp_path, tiny.bundle(tmp_path), RULE.model_copy(update=limits))
    assert any(words in fault for fault in found.faults)


def test_a_changed_bundle_fails_in_the_servers_own_words(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    file = bundle_folder(tmp_path, made.model, made.digest) / "model.json"
    file.write_bytes(file.read_bytes() + b" ")
    found = tried(tmp_path, made)
    assert found.rows == 0
    assert "cannot load the bundle" in found.faults[0]
    assert "are not what its digest says" in found.faults[0]
    assert children() == set()


def test_a_bundle_that_is_gone_fails(tmp_path: Path) -> None:
    gone = replace(tiny.bundle(tmp_path), digest="0" * 64)
    found = tried(tmp_path, gone)
    assert found.rows == 0
    assert "there is no bundle" in found.faults[0]


@pytest.mark.parametrize("banned", serving_trial.SERVING_LACKS)
def test_a_server_that_needs_more_than_the_serving_dependencies_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banned: str
) -> None:
    needy = serving_trial.SERVER.replace("from mlcicd", f"import {banned}\nfrom mlcicd")
    monkeypatch.setattr(serving_trial, "SERVER", needy)
    found = tried(tmp_path, tiny.bundle(tmp_path))
    assert found.rows == 0
    assert "serving dependencies only" in found.faults[0]
    assert f"import of {banned} halted" in found.faults[1]


def test_a_row_that_the_server_refuses_is_an_error(tmp_path: Path) -> None:
    found = tried(tmp_path, tiny.bundle(tmp_path), amount=np.array([1.0, -5.0, 2.0]))
    wrong = int(found.observed.split(" of 20 requests")[0].split()[-1])
    assert 0 < wrong < 20
    assert f"{wrong} requests failed" in found.faults[0]


def test_other_scores_than_offline_are_faults(tmp_path: Path) -> None:
    other = tiny.linear(1e-6)
    made = replace(tiny.bundle(tmp_path), scorer=Scorer(other.meta, other.arrays))
    assert "20 requests failed" in tried(tmp_path, made).faults[0]
    scores = made.golden_scores + 1e-9
    found = tried(tmp_path, replace(tiny.bundle(tmp_path), golden_scores=scores))
    assert found.faults == ["golden rows score otherwise over HTTP"]


def test_the_server_ends_with_the_run_that_started_it(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from mlcicd_assets.io.bundle import load_bundle\n"
        "from mlcicd_assets.io.serving_trial import _serving\n"
        "root = Path(sys.argv[1]); bundle = load_bundle(root, *sys.argv[2:])\n"
        "with _serving(root, bundle, root / 'server.log') as (_, pid):\n"
        "    print(pid, flush=True)\n"
        "    os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), made.model, made.digest]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == 9, killed.stderr
    status, deadline = Path(f"/proc/{int(killed.stdout)}/status"), time.monotonic() + 20
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
