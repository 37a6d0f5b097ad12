"""What starts `<model>_cicd`: the sensor `<model>_new_data`, and the model's schedule.

The sensor decides on state, not on memory: a used run key is never tried again by Dagster, not
even when its run failed, so a run that ended without an outcome gets a new key, a few times.
"""

import time
from typing import Final

import dagster as dg

from mlcicd_assets.io.alerts import alert
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.watch import Look, look_around
from mlcicd_assets.ml.errors import MlcicdError
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.reconcile import (
    LAUNCHER_TAG,
    MODEL_TAG,
    SENSOR_TAG,
    TRIGGER_TAG,
    WHY_TAG,
    in_flight,
    reconcile,
    this_process,
)
from mlcicd_assets.orchestration.wiring import open_ledger

INTERVAL_SECONDS: Final = 30
BACK_OFF: Final = (1, 4, 16)  # minutes before each further try for the same state
IN_FLIGHT: Final = "a run is in flight; looking again after it"
_LEDGERS = dict[str, Ledger]()  # an engine costs more than a look


def new_data_sensor(spec: PipelineSpec) -> dg.SensorDefinition:
    """Build the sensor of one model."""

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job_name=f"{spec.name}_cicd",
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Starts {spec.name}_cicd when rows, labels or the definition changed.",
    )
    def _new_data(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        try:
            reconcile(context.instance, quick=True)
            settings = Settings.from_env()
            look = _look(settings, spec, context.cursor)
        except (MlcicdError, OSError) as error:
            return dg.SkipReason(str(error))
        context.update_cursor(look.cursor)
        if look.problems:
            return _tell(settings, spec, look)
        return _decide(context.instance, spec, look)

    return _new_data


def schedule_of(spec: PipelineSpec, cron: str) -> dg.ScheduleDefinition:
    """Build the schedule of one model: a run whatever is new, unless one is under way."""

    @dg.schedule(
        name=f"{spec.name}_schedule",
        job_name=f"{spec.name}_cicd",
        cron_schedule=cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def _schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        reconcile(context.instance)
        if in_flight(context.instance, spec.name):
            return dg.SkipReason("a run is in flight")
        return dg.RunRequest(tags=_tags(spec, "schedule"))

    return _schedule


def _look(settings: Settings, spec: PipelineSpec, cursor: str | None) -> Look:
    url = settings.ledger_url
    ledger = _LEDGERS.pop(url, None) or open_ledger(settings)
    look = look_around(settings, ledger, spec, cursor, now=time.time())
    _LEDGERS[url] = ledger  # only one that has just answered: its database may be gone
    return look


def _tell(settings: Settings, spec: PipelineSpec, look: Look) -> dg.SkipReason:
    """Say what cannot be seen; people are told if the model had data before."""
    reason = "; ".join(look.problems)
    if look.decided >= 0:
        title, remedy = "new data cannot be seen", "put the source right; then runs start again"
        alert(settings, spec.name, title=title, reason=reason, remedy=remedy)
    waiting = "; ".join(look.due.values())
    return dg.SkipReason(f"{reason}. Waiting for that: {waiting}" if waiting else reason)


def _decide(
    instance: dg.DagsterInstance, spec: PipelineSpec, look: Look
) -> dg.RunRequest | dg.SkipReason:
    if not look.due:
        return dg.SkipReason(f"nothing new{look.aside and f': {look.aside}'}")
    why = "; ".join(look.due.values())
    reconcile(instance)
    if in_flight(instance, spec.name):
        return dg.SkipReason(IN_FLIGHT)
    if not look.is_quiet:
        return dg.SkipReason(f"{why}; waiting for {spec.trigger.quiet_minutes:g} quiet minutes")
    ours = {MODEL_TAG: spec.name, SENSOR_TAG: "new_data"}
    tries = instance.get_run_records(dg.RunsFilter(tags={**ours, TRIGGER_TAG: look.state}))
    if any(record.dagster_run.run_id in look.refused for record in tries):
        return dg.SkipReason(f"{why}; a landing file was refused: correct or remove it")
    if len(tries) > len(BACK_OFF):
        return dg.SkipReason(
            f"{len(tries)} runs could not decide on this data; fix the cause shown in them, then "
            "materialize by hand or deliver new data"
        )
    last = tries or instance.get_run_records(dg.RunsFilter(tags=ours), limit=1)
    minutes = BACK_OFF[len(tries) - 1] if tries else spec.trigger.cooldown_minutes
    if last:
        begun = last[0].create_timestamp if not tries else last[0].update_timestamp
        passed = (time.time() - begun.timestamp()) / 60
        if 0 <= passed < minutes:  # a clock that was set back does not hold anything up
            return dg.SkipReason(f"{why}; waiting for {minutes - passed:.1f} more minutes")
    tags = {**ours, **_tags(spec, why[:250]), TRIGGER_TAG: look.state}
    return dg.RunRequest(run_key=f"{look.state}:{len(tries)}", tags=tags)


def _tags(spec: PipelineSpec, why: str) -> dict[str, str]:
    return {MODEL_TAG: spec.name, WHY_TAG: why, LAUNCHER_TAG: this_process()}
