"""Run the project's commands as a user would, in processes of their own."""

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from mlcicd_assets_tests.conftest import ROOT

LONGEST_RUN_S = 300


@dataclass(frozen=True)
class Finished:
    """Exit code, everything printed, CPU seconds and peak memory of a command."""

    code: int
    output: str
    cpu_seconds: float
    peak_mb: float


def job_execute(job: str, home: Path) -> Finished:
    """`dagster job execute` with Dagster's storage in this home, to its end."""
    process, log = start_job(job, home)
    # A run that waits for ever for something must turn the test red, not hang it.
    watchdog = threading.Timer(LONGEST_RUN_S, process.kill)
    watchdog.start()
    _, status, usage = os.wait4(process.pid, 0)
    watchdog.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return Finished(process.returncode, log.read_text(), cpu, usage.ru_maxrss / 1024)


def start_job(job: str, home: Path, *, name: str = "job") -> tuple[subprocess.Popen[bytes], Path]:
    """Start it, and say where its output goes."""
    # Each its own: two first runs at once fail in Dagster's set-up of its SQLite storage.
    dagster_home = home / f"dagster_home_{name}"
    dagster_home.mkdir(exist_ok=True)
    settings = (ROOT / "dagster.yaml").read_text()
    (dagster_home / "dagster.yaml").write_text(
        settings.replace("data/dagster", str(dagster_home / "storage"))
    )
    environment = {**os.environ, "DAGSTER_HOME": str(dagster_home)}
    command = [str(Path(sys.executable).parent / "dagster"), "job", "execute"]
    log = home / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-m", "mlcicd_assets.definitions", "-j", job],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=home,
        )
    return process, log
