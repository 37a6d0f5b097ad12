"""A model's sensor, ticked in process on real tables and folders."""

import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from dagster import DagsterInstance, build_sensor_context
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.values import RawData
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.small_model import MODEL, ledger, small_spec

STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE
FOREIGN = {"source": {"table": "bank/raw"}, "label__source": {"table": "bank/labels"}}


class Ticker:
    """Ticks one model's sensor with its cursor kept, as the daemon would; its clock can be set."""

    def __init__(self, **changes: object) -> None:
        self.instance = DagsterInstance.ephemeral()
        self.cursor: str | None = None
        self.minutes = 0.0
        self.redefine(**changes)

    def redefine(self, **changes: object) -> None:
        """What a merge to main and a reload do."""
        self.spec = small_spec(**changes)
        self.definitions = build_pipeline(self.spec)
        self.repository = self.definitions.get_repository_def()

    def time(self) -> float:
        return time.time() + 60 * self.minutes

    def tick(self) -> dg.RunRequest | str:
        context = build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository
        )
        sensor = self.definitions.resolve_sensor_def(f"{MODEL}_new_data")
        answer = sensor.evaluate_tick(context)
        self.cursor = answer.cursor
        if answer.run_requests:
            (request,) = answer.run_requests
            return request
        return answer.skip_message or ""

    def starts(self) -> dg.RunRequest:
        request = self.tick()
        assert isinstance(request, dg.RunRequest), request
        return request

    def skips(self, why: str) -> None:
        assert why in str(self.tick())

    def record_run(self, status: dg.DagsterRunStatus, **run: Any) -> str:
        run = {"job_name": f"{MODEL}_cicd", "run_id": str(uuid.uuid4()), **run}
        self.instance.add_run(dg.DagsterRun(status=status, **run))
        return run["run_id"]

    def fails(self, request: dg.RunRequest) -> str:
        return self.record_run(FAILURE, tags=dict(request.tags))


DELIVERED = list[Path]()


def deliver(what: str = "landing") -> None:
    shutil.copytree(DELIVERED[0] / what, Settings.from_env().home / what)


def take_in(**changes: object) -> RawData:
    """What `raw_data` does in a run, with nothing after it."""
    return ingest(Settings.from_env(), ledger(), small_spec(**changes), run_id="r").raw


def decide(raw: RawData, outcome: Any = "kept", **more: Any) -> None:
    ledger().record_outcome(
        MODEL, outcome, reason="a test", data=raw.versions(), run_id="r", **more
    )


def head_file() -> Path:
    return max(Path(Settings.from_env().lake, "bank/raw/_delta_log").glob("*.json"))


def raw_table() -> DeltaTable:
    return DeltaTable(f"{Settings.from_env().lake}/bank/raw")


def append_like(table: DeltaTable, rows: int = 5) -> None:
    write_deltalake(table, pa.table(table.to_pyarrow_table()).slice(0, rows), mode="append")
