"""Runs whose process died are ended by the next tick or run, and no other run is."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterInstance

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.orchestration import reconcile as module
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets.orchestration.reconcile import (
    LAUNCHER_TAG,
    MODEL_TAG,
    PROCESS_TAG,
    RUNNING,
    begin,
    reconcile,
    this_process,
)
from mlcicd_assets_tests.orchestration.test_new_data import Ticker
from mlcicd_assets_tests.small_model import MODEL, deliver_days, small_spec

NAME = "from mlcicd_assets.orchestration.reconcile import this_process; print(this_process())"


@pytest.fixture(scope="module")
def dead() -> Iterator[str]:
    """The name of a process that was killed, and that nobody has waited for yet."""
    code = f"{NAME.replace('))', '), flush=True)')}; import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        process.kill()
        yield name


def start(instance: DagsterInstance, status: str = "STARTED", **tags: str) -> str:
    run_id = str(uuid.uuid4())
    run = dg.DagsterRun(
        job_name=f"{MODEL}_cicd",
        run_id=run_id,
        status=dg.DagsterRunStatus(status),
        tags={MODEL_TAG: MODEL, **tags},
    )
    if PROCESS_TAG in tags and not tags[PROCESS_TAG].endswith("another run"):
        run = run.with_tags({**run.tags, PROCESS_TAG: f"{tags[PROCESS_TAG]} {run_id}"})
    instance.add_run(run)
    running = Settings.from_env().home / RUNNING
    running.mkdir(exist_ok=True)
    (running / run_id).touch()
    return run_id


def status_of(instance: DagsterInstance, run_id: str) -> str:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status.value


def test_a_tick_ends_the_run_of_a_process_that_was_killed(home: Path, dead: str) -> None:
    ticker = Ticker()
    run_id = start(ticker.instance, **{PROCESS_TAG: dead})
    ticker.tick()
    assert status_of(ticker.instance, run_id) == "FAILURE"
    (event,) = ticker.instance.all_logs(run_id)
    assert "is gone, as after a crash" in event.message
    ticker.tick()
    assert not list((home / RUNNING).iterdir())


@pytest.mark.parametrize("status", ["STARTING", "STARTED", "CANCELING"])
def test_the_start_of_a_run_ends_it_too_and_notes_its_own_process(
    home: Path, dead: str, status: str
) -> None:
    deliver_days(3)
    job = build_pipeline(small_spec()).resolve_job_def(f"{MODEL}_cicd")
    with DagsterInstance.ephemeral() as instance:
        run_id = start(instance, status, **{PROCESS_TAG: dead})
        selection = [dg.AssetKey([MODEL, "raw_data"])]
        own = job.execute_in_process(
            instance=instance, asset_selection=selection, raise_on_error=False
        ).run_id
        assert status_of(instance, run_id) == "FAILURE"
        run = instance.get_run_by_id(own)
        assert run is not None
        assert run.tags[PROCESS_TAG] == f"{this_process()} {own}"
        assert run.tags[MODEL_TAG] == MODEL
        assert run.tags["mlcicd/why"] == "by hand"


def test_a_run_that_may_be_alive_is_left_alone(home: Path, dead: str) -> None:
    host, pids, boot, pid, started = this_process().split(" ")
    *_, dead_pid, dead_start = dead.split(" ")
    assert pids == str(Path("/proc/self/ns/pid").readlink())
    with DagsterInstance.ephemeral() as instance:
        alive = [
            start(instance, **{PROCESS_TAG: this_process()}),
            start(instance, **{PROCESS_TAG: f"elsewhere {pids} {boot} {dead_pid} {dead_start}"}),
            # A container with the name of its host; a run that began before containers were told.
            start(instance, **{PROCESS_TAG: f"{host} pid:[1] {boot} {dead_pid} {dead_start}"}),
            start(instance, **{PROCESS_TAG: f"{host} {boot} {dead_pid} {dead_start}"}),
            start(instance),
            start(instance, "NOT_STARTED", **{PROCESS_TAG: dead}),
            start(instance, **{LAUNCHER_TAG: dead}),  # launched this moment
            start(instance, **{PROCESS_TAG: f"{dead} another run"}),  # Dagster's retry of it
        ]
        gone = [
            start(instance, **{PROCESS_TAG: f"{host} {pids} another-boot {pid} {started}"}),
            start(instance, **{PROCESS_TAG: f"{host} {pids} {boot} {pid} 1"}),  # a pid used again
        ]
        reconcile(instance)
        assert {status_of(instance, run_id) for run_id in alive} == {
            "STARTED",
            "NOT_STARTED",
        }
        assert {status_of(instance, run_id) for run_id in gone} == {"FAILURE"}


@pytest.mark.parametrize("status", ["STARTING", "STARTED"])
def test_a_run_that_never_began_is_ended_when_what_launched_it_is_gone(
    home: Path, dead: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", -1)
    with DagsterInstance.ephemeral() as instance:
        lost = start(instance, status, **{LAUNCHER_TAG: dead})
        waits = start(instance, status, **{LAUNCHER_TAG: this_process()})
        begun = start(instance, status, **{LAUNCHER_TAG: dead, PROCESS_TAG: this_process()})
        reconcile(instance)
        assert status_of(instance, lost) == "FAILURE"
        assert status_of(instance, waits) == status_of(instance, begun) == status


def test_a_launcher_that_looks_after_its_runs_is_left_to_it(
    home: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", -1)
    with DagsterInstance.ephemeral() as instance:
        watched = type(instance.run_launcher)
        monkeypatch.setattr(watched, "supports_check_run_worker_health", True)
        waits = start(instance, "STARTING", **{LAUNCHER_TAG: dead})
        reconcile(instance)
        assert status_of(instance, waits) == "STARTING"


def test_a_run_that_ended_while_it_was_looked_at_keeps_its_end(
    home: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DagsterInstance.ephemeral() as instance:
        run_id = start(instance, **{PROCESS_TAG: dead})

        def ends_just_now(_: str) -> bool:
            run = instance.get_run_by_id(run_id)
            assert run is not None
            instance.report_run_canceled(run)
            return True

        monkeypatch.setattr(module, "_is_gone", ends_just_now)
        reconcile(instance)
        assert status_of(instance, run_id) == "CANCELED"


@pytest.mark.parametrize(
    ("executor", "config", "is_noted"),
    [
        ("execute_in_process_executor", {}, True),
        ("in_process", {}, True),
        ("in_process_or_docker", {"in_process": {}}, True),
        ("in_process_or_docker", {"docker": {}}, False),
        ("multi_or_in_process_executor", {"multiprocess": {}}, False),
    ],
)
def test_a_process_is_noted_only_where_it_is_that_of_the_run(
    home: Path, executor: str, config: dict[str, Any], *, is_noted: bool
) -> None:
    execution = SimpleNamespace(execution_engine_config=config)
    step = SimpleNamespace(resolved_run_config=SimpleNamespace(execution=execution))
    with DagsterInstance.ephemeral() as instance:
        run_id = start(instance)
        context: Any = SimpleNamespace(
            instance=instance,
            run=instance.get_run_by_id(run_id),
            job_def=SimpleNamespace(executor_def=SimpleNamespace(name=executor)),
            get_step_execution_context=lambda: step,
        )
        begin(context, MODEL)
        run = instance.get_run_by_id(run_id)
        assert run is not None
        assert (PROCESS_TAG in run.tags) == is_noted


def test_while_nothing_runs_dagster_is_not_asked(home: Path) -> None:
    instance: Any = None
    reconcile(instance, quick=True)
