"""Sensor `<model>_new_data`: one run while the ledger knows no outcome for the newest data.

It decides on state, not on memory: a used run key is never tried again by Dagster, not even
when its run failed, so a run that ended without an outcome gets a new key, at most three times.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import dagster as dg

from mlcicd_assets.io.delta_log import LogPosition, advance
from mlcicd_assets.io.ingest import landed_files, source_uri
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.wiring import open_ledger

MAX_TRIES = 3
MODEL_TAG, SENSOR_TAG, TRIGGER_TAG = "mlcicd/model", "mlcicd/sensor", "mlcicd/trigger"

UNFINISHED = [
    status
    for status in dg.DagsterRunStatus
    if status
    not in {
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    }
]


@dataclass(frozen=True)
class Look:
    """What one tick saw: log positions, why a run is due ('' = it is not), a name for the state.

    `missing` names the tables that are not there (yet).
    """

    positions: dict[str, LogPosition]
    due: str
    state: str
    missing: str


def new_data_sensor(spec: PipelineSpec) -> dg.SensorDefinition:
    """Build the sensor of one model."""

    @dg.sensor(
        name=f"{spec.name}_new_data",
        job_name=f"{spec.name}_cicd",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Starts {spec.name}_cicd when rows may have changed.",
    )
    def _new_data(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        known = {
            uri: LogPosition(**position)
            for uri, position in json.loads(context.cursor or "{}").items()
        }
        look = look_around(Settings.from_env(), spec, known)
        context.update_cursor(json.dumps({u: asdict(p) for u, p in look.positions.items()}))
        return _decide(context.instance, spec.name, look)

    return _new_data


def look_around(settings: Settings, spec: PipelineSpec, known: dict[str, LogPosition]) -> Look:
    """Read what is new in the tables' logs and list the landing folders; nothing else."""
    ledger = open_ledger(settings)
    last = ledger.last_outcome(spec.name)
    decided: dict[str, list] = last.body["data"] if last else {}
    positions: dict[str, LogPosition] = {}
    state: list[str] = []
    due: list[str] = []
    missing: list[str] = []
    for source, own in spec.sources():
        files, unseen = landed_files(settings, ledger, source)
        state += [f"{file.path} {file.size} {file.mtime_ns}" for file in files]
        if unseen:
            due.append(f"{unseen} new files in {source.landing}")
        uri = source_uri(settings, spec, source, own)
        position = advance(uri, known.get(uri))
        if position is None:
            missing.append(uri)
            continue
        positions[uri] = position
        state.append(f"{uri} {position.table_id} {position.content}")
        table_id, version = decided.get(own, ("", -1))
        if table_id != position.table_id or version < position.content:
            due.append(f"{own} has rows of version {position.content} without an outcome")
    name = hashlib.sha256("\n".join(sorted(state)).encode()).hexdigest()[:24]
    return Look(positions, "; ".join(due), name, ", ".join(missing))


def _decide(instance: dg.DagsterInstance, model: str, look: Look) -> dg.RunRequest | dg.SkipReason:
    if not look.due:
        return dg.SkipReason(f"no table at {look.missing}" if look.missing else "nothing new")
    if any(_is_of(run, model) for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))):
        return dg.SkipReason("a run is in flight; looking again after it")
    filters = dg.RunsFilter(tags={MODEL_TAG: model, SENSOR_TAG: "new_data"})
    runs = instance.get_runs(filters, limit=10)
    tries = [run for run in runs if run.tags.get(TRIGGER_TAG) == look.state]
    if len(tries) >= MAX_TRIES:
        return dg.SkipReason(
            f"{MAX_TRIES} runs could not decide on this data; fix the cause shown in them, then "
            "materialize by hand or deliver new data"
        )
    tags = {MODEL_TAG: model, SENSOR_TAG: "new_data", TRIGGER_TAG: look.state}
    return dg.RunRequest(
        run_key=f"{look.state}:{len(tries)}", tags={**tags, "mlcicd/why": look.due[:250]}
    )


def _is_of(run: dg.DagsterRun, model: str) -> bool:
    """Runs of the job have our tag; the UI's Materialize only names the assets."""
    selected = run.asset_selection or frozenset()
    return run.tags.get(MODEL_TAG) == model or any(key.path[0] == model for key in selected)
