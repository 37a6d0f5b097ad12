"""Kill -9 of the run worker in each asset, of the daemon, of the tree: what is left converges.

A real daemon, a real code server and real runs, each day of data started by the sensor. After each
kill what was killed is started again, and nothing else is done.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from dagster import DagsterInstance

from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.registry import KEY_TAG, client
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.verify import verify
from mlcicd_assets.orchestration.reconcile import PROCESS_TAG
from mlcicd_assets_tests.components.test_model_pipeline import ASSETS, plant
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.processes import free_port
from mlcicd_assets_tests.small_model import DAYS, MODEL, deliver_days, ledger

pytestmark = pytest.mark.prove
KILLS, PATIENCE = 30, 240
SHIPPED_INTERVAL, INTERVAL = 30, 10
ON_THE_WAY = ASSETS[:-1]
STARTING = "starting"
# Who is killed, and in which step of the run.
POINTS = [
    *(("worker", step) for step in (STARTING, *ON_THE_WAY)),
    *(("daemon", step) for step in (STARTING, "trained_model", "deployed_endpoint")),
    *(("tree", step) for step in (STARTING, *ON_THE_WAY)),
]
LAX = {"gates__floors": {"roc_auc": 0.5}, "gates__slices": None}
# The page is beside the way to a release; shorter waits save the campaign an hour.
DEFINITIONS = f"""
import dagster as dg
from mlcicd_assets.orchestration import new_data, pipeline
from mlcicd_assets.orchestration.evaluation_page import page_sensor

def stopped(spec):
    sensor = page_sensor(spec)
    sensor._default_status = dg.DefaultSensorStatus.STOPPED
    return sensor

new_data.INTERVAL_SECONDS = {INTERVAL}
new_data.BACK_OFF = (0.1, 0.1, 0.1)
pipeline.page_sensor = stopped
from mlcicd_assets.definitions import defs
"""


@dataclass
class System:
    """Daemon and code server as a person would start them, in sessions of their own."""

    home: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = free_port()
        dagster_home = self.home / "dagster"
        dagster_home.mkdir()
        settings = (ROOT / "dagster.yaml").read_text().replace("data/dagster", str(dagster_home))
        (dagster_home / "dagster.yaml").write_text(settings)
        (self.home / "campaign_definitions.py").write_text(DEFINITIONS)
        server = f"{{host: 127.0.0.1, port: {self.port}, location_name: mlcicd_assets}}"
        (self.home / "workspace.yaml").write_text(f"load_from:\n  - grpc_server: {server}\n")
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(dagster_home),
            "PYTHONPATH": str(ROOT),
        }
        self.instance = DagsterInstance.from_config(str(dagster_home))

    def start(self) -> None:
        """Start what does not run; the daemon last, since it wants a server."""
        file = ["-f", "campaign_definitions.py", "-a", "defs"]
        server = ["api", "grpc", "-h", "127.0.0.1", "-p", str(self.port), *file]
        self._start("server", "dagster", *server)
        self._start("daemon", "dagster-daemon", "run", "-w", "workspace.yaml")

    def _start(self, name: str, *words: str) -> None:
        if name in self.processes:
            return
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(Path(sys.executable).parent / words[0]), *words[1:]],
                cwd=self.home,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, *names: str) -> None:
        for name in names:
            process = self.processes.pop(name, None)
            if process is not None:
                # Runs are children of the code server, in its session.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def unfinished(self) -> list[Any]:
        ended = {"SUCCESS", "FAILURE", "CANCELED"}
        statuses = [one for one in dg.DagsterRunStatus if one.value not in ended]
        return list(self.instance.get_run_records(dg.RunsFilter(statuses=statuses)))

    def step_of(self, run_id: str) -> str:
        """The step that a run is in by its log; STARTING before the first."""
        kind = dg.DagsterEventType.STEP_START
        started = self.instance.all_logs(run_id, of_type=kind)
        return str(started[-1].step_key).split("__")[1] if started else STARTING

    def workers(self) -> list[int]:
        """Processes that the code server started for runs."""
        server, found = self.processes["server"].pid, list[int]()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == server and b"spawn_main" in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return found


@dataclass
class Results:
    """What went wrong, and how long it took to notice."""

    kills: Counter[str] = field(default_factory=Counter)
    detected: list[float] = field(default_factory=list)
    stuck: int = 0


def until(condition: Any, seconds: float = PATIENCE, pause: float = 0.1) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(pause)
    return False


def is_decided() -> bool:
    """The newest outcome is about the table as it is, with all that was landed."""
    settings, last = Settings.from_env(), ledger().last_outcome(MODEL)
    folder = settings.landing / "card_transactions"
    seen = ledger().seen_files(str(folder))
    if last is None or not last.body["data"] or len(seen) < len(list(folder.iterdir())):
        return False
    return last.body["data"]["raw"][1] == pin(f"{settings.lake}/{MODEL}/raw").version


def kill_at(system: System, who: str, step: str, rng: np.random.Generator, done: Results) -> None:
    """Wait until a run comes to this step, let it go on for a moment, then kill."""
    target: list[str] = []

    def has_come() -> bool:
        for record in system.unfinished():
            run_id = record.dagster_run.run_id
            if record.dagster_run.status in {
                dg.DagsterRunStatus.STARTED,
                dg.DagsterRunStatus.STARTING,
            } and (system.step_of(run_id) == step or is_decided()):
                target[:] = [run_id]
                return True
        return is_decided()

    if not until(has_come, pause=0.02):
        done.stuck += 1
        return
    time.sleep(rng.uniform(0, 0.3))
    if who == "tree":
        system.kill("daemon", "server")
    elif who == "daemon":
        system.kill("daemon")
    else:
        run = system.instance.get_run_by_id(target[0]) if target else None
        mark = run.tags.get(PROCESS_TAG) if run else None
        for pid in [int(mark.split()[-3])] if mark else system.workers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    done.kills[f"{who} in {step}"] += 1
    system.start()
    if who != "daemon" and target:
        gone = until(lambda: target[0] not in {r.dagster_run.run_id for r in system.unfinished()})
        done.detected += [time.monotonic() - killed] if gone else []
        done.stuck += not gone


def judge(system: System, done: Results) -> dict[str, int]:
    """Count everything that is not as if nothing had been killed."""
    settings = Settings.from_env()
    rows = pl.scan_delta(f"{settings.lake}/{MODEL}/raw").select("transaction_id").collect()
    landed = pl.scan_parquet(settings.landing / "card_transactions" / "*.parquet")
    expected = landed.select("transaction_id").collect()
    versions = client(settings).search_model_versions(f"name='{MODEL}'")
    keys = Counter(version.tags.get(KEY_TAG) for version in versions)
    outcomes = Counter(
        str(entry.body["data"]) for entry in ledger().entries(kinds=("outcome",), model=MODEL)
    )
    retried = [r for r in system.instance.get_runs() if r.parent_run_id]
    problems, _ = verify(settings, ledger(), MODEL)
    for problem in problems:
        print(problem)
    return {
        "rows_lost": expected.height - rows.height if rows.height < expected.height else 0,
        "rows_doubled": rows.height - rows["transaction_id"].n_unique(),
        "versions_doubled": sum(count - 1 for count in keys.values()),
        "outcomes_doubled": max(0, sum(outcomes.values()) - len(outcomes) - len(retried)),
        "runs_unfinished": len(system.unfinished()),
        "disagreements": len(problems),
        "undecided": int(not is_decided()),
        "stuck": done.stuck,
    }


def campaign(home: Path, points: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> Results:
    """Deliver a day for each point, kill there, and wait until all is decided."""
    rng, done = np.random.default_rng(5), Results()
    plant(home / "defs", MODEL, **LAX)
    monkeypatch.setenv("MLCICD_DEFS", str(home / "defs"))
    system = System(home)
    try:
        deliver_days(DAYS)
        system.start()
        assert until(is_decided, 2 * PATIENCE), (home / "daemon.log").read_text()[-3000:]
        for number, (who, step) in enumerate(points, start=1):
            started = time.monotonic()
            deliver_days(DAYS + number)
            kill_at(system, who, step, rng, done)
            settled = until(lambda: is_decided() and not system.unfinished(), pause=0.5)
            done.stuck += not settled
            print(f"{who} in {step}: {time.monotonic() - started:.0f} s", flush=True)
            if not settled:
                print((home / "daemon.log").read_text()[-3000:])
        faults = judge(system, done)
    finally:
        system.kill("daemon", "server")
        system.instance.dispose()
    slowest = max(done.detected, default=0) + SHIPPED_INTERVAL - INTERVAL
    print(f"\n{dict(done.kills)}\ndetected after {[round(one) for one in done.detected]} s")
    print(f"figure kills {done.kills.total()} >= {len(points)}")
    for name, count in faults.items():
        print(f"figure kills_{name} {count} == 0")
    print(f"figure kills_slowest_detection_seconds {slowest:.0f} <= 60")
    assert not any(faults.values()), faults
    assert slowest <= 60
    return done


def test_kills(server: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign(home, (POINTS * 3)[:KILLS], monkeypatch)
