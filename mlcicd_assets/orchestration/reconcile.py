"""Runs of a model: which are under way, which process works on each, which died with theirs.

Dagster's default launcher has no health check: after a crash of the machine or of the whole tree
a run would be STARTED until `max_runtime_seconds`.
"""

import os
import platform
import time
from pathlib import Path
from typing import Final

import dagster as dg

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.orchestration.executor import is_one_process

MODEL_TAG, SENSOR_TAG, TRIGGER_TAG = "mlcicd/model", "mlcicd/sensor", "mlcicd/trigger"
WHY_TAG, PROCESS_TAG, LAUNCHER_TAG = "mlcicd/why", "mlcicd/process", "mlcicd/launcher"
RUNNING: Final = "running"
SILENT_SECONDS: Final = 20  # with the interval of the sensor a dead run is found within a minute
_ENDED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_STARTED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def begin(context: dg.AssetExecutionContext, model: str | None) -> None:
    """Note which process works on the run, and end those that died; each asset begins with it.

    `model` is None for what runs beside the way to a release.
    """
    run = context.run
    tags = {MODEL_TAG: model, WHY_TAG: run.tags.get(WHY_TAG, "by hand")} if model else {}
    # With several processes a step's own ends before its run does: left to run monitoring.
    if is_one_process(context):
        # A retry by Dagster comes with the tags of the run that died.
        tags[PROCESS_TAG] = f"{this_process()} {run.run_id}"
    context.instance.add_run_tags(run.run_id, tags)
    running = Settings.from_env().home / RUNNING
    running.mkdir(parents=True, exist_ok=True)
    (running / run.run_id).touch()
    reconcile(context.instance)


def reconcile(instance: dg.DagsterInstance, *, quick: bool = False) -> None:
    """End the runs whose process is gone from this machine, so that they can be tried again.

    `quick` asks Dagster only while a run has a mark in the folder of those under way.
    """
    running = Settings.from_env().home / RUNNING
    marks = list(running.iterdir()) if running.is_dir() else []
    if quick and not marks:
        return
    records = instance.get_run_records(dg.RunsFilter(statuses=_STARTED))
    for record in records:
        run, silent = record.dagster_run, time.time() - record.update_timestamp.timestamp()
        process, _, noted_for = run.tags.get(PROCESS_TAG, "").rpartition(" ")
        if noted_for != run.run_id:
            process = run.tags.get(LAUNCHER_TAG, "") if silent > SILENT_SECONDS else ""
            # A container outlives what launched it, and Dagster's run monitoring looks at it.
            if process and instance.run_launcher.supports_check_run_worker_health:
                continue
        if not process or not _is_gone(process):
            continue
        run = instance.get_run_by_id(run.run_id)  # it may have ended since
        if run is not None and not run.is_finished:
            told = f"process {process} that worked on it is gone, as after a crash"
            instance.report_run_failed(run, message=told)
    under_way = {record.dagster_run.run_id for record in records}
    for mark in marks:
        if mark.name not in under_way:
            mark.unlink(missing_ok=True)


def in_flight(instance: dg.DagsterInstance, model: str) -> bool:
    """Tell whether a run of the model has not ended; the page that people read does not count."""
    statuses = [status for status in dg.DagsterRunStatus if status not in _ENDED]
    return any(_is_of(run, model) for run in instance.get_runs(dg.RunsFilter(statuses=statuses)))


def this_process() -> str:
    """Name this process so that no other, here, in a container or elsewhere, is taken for it."""
    return " ".join([*_here(), _boot(), str(os.getpid()), _started(os.getpid())])


def _is_of(run: dg.DagsterRun, model: str) -> bool:
    """Runs of the job have our tag; the UI's Materialize only names the assets."""
    selected = [key.path for key in run.asset_selection or ()]
    if selected and all(path[-1] == "evaluation_page" for path in selected):
        return False
    return run.tags.get(MODEL_TAG) == model or any(path[0] == model for path in selected)


def _is_gone(process: str) -> bool:
    *where, boot, pid, started = process.split(" ")
    return where == _here() and (boot, started) != (_boot(), _started(int(pid)))


def _here() -> list[str]:
    """Say from where pids are seen: a container may have the name of its host, but not its pids."""
    pids = Path("/proc/self/ns/pid")
    return [platform.node(), str(pids.readlink()) if pids.is_symlink() else "-"]


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else "-"


def _started(pid: int) -> str:
    """When the process began, in ticks since the boot; "" when it is gone, or only not reaped."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else fields[18]
