"""Sensor `<model>_new_data`: one run when tables or landing folders may hold new rows.

It decides on state, not on memory: a used run key is never tried again by Dagster, not even
when its run failed, so failed runs get a new key, at most three times.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import dagster as dg

from mlcicd_assets.io.delta_log import LogPosition, advance
from mlcicd_assets.io.ingest import source_uri, unseen_files
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.wiring import open_ledger

MAX_TRIES = 3
MODEL_TAG, SENSOR_TAG, TRIGGER_TAG = "mlcicd/model", "mlcicd/sensor", "mlcicd/trigger"


@dataclass(frozen=True)
class Look:
    """What one tick saw: log positions by table, and a name for all that is new ('' = nothing)."""

    positions: dict[str, LogPosition]
    want: str
    missing: tuple[str, ...]


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
        cursor = json.loads(context.cursor) if context.cursor else {}
        look = look_around(Settings.from_env(), spec, cursor.get("positions", {}))
        done = cursor.get("done")
        verdict = _decide(context.instance, spec.name, look, done)
        if isinstance(verdict, dg.SkipReason) and verdict.skip_message == _SUCCEEDED:
            done = look.want
        positions = {uri: asdict(position) for uri, position in look.positions.items()}
        context.update_cursor(json.dumps({"positions": positions, "done": done}))
        return verdict

    return _new_data


_SUCCEEDED = "the run for the newest data succeeded"


def look_around(settings: Settings, spec: PipelineSpec, known: dict[str, dict]) -> Look:
    """Read the logs of foreign tables and list the landing folders; nothing else."""
    positions: dict[str, LogPosition] = {}
    missing: list[str] = []
    news: list[str] = []
    sources = [(spec.source, "raw")]
    if spec.label.source is not None:
        sources.append((spec.label.source, "labels"))
    for source, own in sources:
        if source.landing is not None:
            news += unseen_files(settings, open_ledger(settings), source)
            continue
        uri = source_uri(settings, spec, source, own)
        last = LogPosition(**known[uri]) if uri in known else None
        position = advance(uri, last, own_model=spec.name)
        if position is None:
            missing.append(uri)
            continue
        positions[uri] = position
        news.append(f"{uri}@{position.content}")
    want = hashlib.sha256("\n".join(sorted(news)).encode()).hexdigest()[:24] if news else ""
    return Look(positions, want, tuple(missing))


def _decide(
    instance: dg.DagsterInstance, model: str, look: Look, done: str | None
) -> dg.RunRequest | dg.SkipReason:
    if look.missing:
        return dg.SkipReason(f"no readable Delta table at {', '.join(look.missing)}")
    if not look.want or look.want == done:
        return dg.SkipReason("nothing new")
    runs = instance.get_runs(
        dg.RunsFilter(tags={MODEL_TAG: model, SENSOR_TAG: "new_data"}), limit=10
    )
    if any(not run.is_finished for run in runs):
        return dg.SkipReason("a run is in flight; looking again after it")
    tries = [run for run in runs if run.tags.get(TRIGGER_TAG) == look.want]
    if any(run.status == dg.DagsterRunStatus.SUCCESS for run in tries):
        return dg.SkipReason(_SUCCEEDED)
    if len(tries) >= MAX_TRIES:
        return dg.SkipReason(
            f"this data failed {MAX_TRIES} times; fix the cause shown in the runs, then "
            "materialize by hand or deliver new data"
        )
    return dg.RunRequest(
        run_key=f"{look.want}:{len(tries)}",
        tags={MODEL_TAG: model, SENSOR_TAG: "new_data", TRIGGER_TAG: look.want},
    )
