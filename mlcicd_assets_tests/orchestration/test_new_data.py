"""The sensor `<model>_new_data`, ticked in process on real tables and folders."""

import uuid
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance, build_sensor_context

from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.orchestration.new_data import MAX_TRIES, SENSOR_TAG, TRIGGER_TAG
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.small_model import MODEL, deliver_days, ledger, small_spec, write_batch


class Ticker:
    """Ticks one model's sensor with its cursor kept, as the daemon would."""

    def __init__(self, **changes: object) -> None:
        definitions = build_pipeline(small_spec(**changes))
        self.sensor = definitions.resolve_sensor_def(f"{MODEL}_new_data")
        self.repository = definitions.get_repository_def()
        self.instance = DagsterInstance.ephemeral()
        self.cursor: str | None = None

    def tick(self) -> dg.RunRequest | str:
        context = build_sensor_context(
            instance=self.instance, cursor=self.cursor, repository_def=self.repository
        )
        answer = self.sensor.evaluate_tick(context)
        self.cursor = answer.cursor
        if answer.run_requests:
            (request,) = answer.run_requests
            return request
        return answer.skip_message or ""

    def record_run(self, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
        self.instance.add_run(
            dg.DagsterRun(
                job_name=f"{MODEL}_cicd",
                run_id=str(uuid.uuid4()),
                status=status,
                tags=dict(request.tags),
            )
        )


@pytest.fixture
def ticker(home: Path) -> Ticker:
    return Ticker()


def take_in() -> None:
    ingest(Settings.from_env(), ledger(), small_spec(), run_id="by hand")


def test_an_empty_folder_starts_nothing(ticker: Ticker) -> None:
    assert ticker.tick() == "nothing new"


def test_new_files_start_one_run_that_says_why(ticker: Ticker) -> None:
    deliver_days(3)
    request = ticker.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags["mlcicd/model"] == MODEL
    assert request.tags[SENSOR_TAG] == "new_data"
    ticker.record_run(request, dg.DagsterRunStatus.STARTED)
    assert "in flight" in str(ticker.tick())


def test_files_taken_in_start_nothing_more(ticker: Ticker) -> None:
    deliver_days(3)
    take_in()
    assert ticker.tick() == "nothing new"
    write_batch("transactions-more.parquet")
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_a_failed_run_is_tried_again_with_a_new_key_but_not_for_ever(ticker: Ticker) -> None:
    deliver_days(3)
    keys = set()
    for _ in range(MAX_TRIES):
        request = ticker.tick()
        assert isinstance(request, dg.RunRequest)
        keys.add(request.run_key)
        ticker.record_run(request, dg.DagsterRunStatus.FAILURE)
    assert len(keys) == MAX_TRIES
    assert "failed 3 times" in str(ticker.tick())
    write_batch("transactions-more.parquet")
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_a_foreign_table_starts_runs_by_its_log(home: Path) -> None:
    deliver_days(3)
    ingest(Settings.from_env(), ledger(), small_spec(name="bank"), run_id="other")
    ticker = Ticker(source={"table": "bank/raw"}, label__source={"table": "bank/labels"})
    request = ticker.tick()
    assert isinstance(request, dg.RunRequest)
    ticker.record_run(request, dg.DagsterRunStatus.SUCCESS)
    assert "succeeded" in str(ticker.tick())
    assert ticker.tick() == "nothing new"
    ticker.cursor = None
    assert "succeeded" in str(ticker.tick())
    write_batch("transactions-more.parquet")
    ingest(Settings.from_env(), ledger(), small_spec(name="bank"), run_id="other")
    again = ticker.tick()
    assert isinstance(again, dg.RunRequest)
    assert again.tags[TRIGGER_TAG] != request.tags[TRIGGER_TAG]


def test_a_missing_foreign_table_is_a_skip_with_a_reason(home: Path) -> None:
    ticker = Ticker(source={"table": "nowhere/raw"})
    assert "no readable Delta table" in str(ticker.tick())
