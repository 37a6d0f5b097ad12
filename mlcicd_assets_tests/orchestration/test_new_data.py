"""The sensor `<model>_new_data`, ticked in process on real tables and folders."""

import shutil
import uuid
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster import DagsterInstance, build_sensor_context
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.values import RawData
from mlcicd_assets.orchestration.new_data import MAX_TRIES
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    ledger,
    run_job,
    small_spec,
    write_batch,
)


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


def take_in(**changes: object) -> RawData:
    """What `raw_data` does in a run, with nothing after it."""
    return ingest(Settings.from_env(), ledger(), small_spec(**changes), run_id="r").raw


def decide(raw: RawData, outcome: str = "kept") -> None:
    ledger().record_outcome(MODEL, outcome, reason="a test", data=raw.versions(), run_id="r")


def test_without_data_nothing_starts(ticker: Ticker) -> None:
    assert "no table at" in str(ticker.tick())


def test_new_files_start_one_run_that_says_why(ticker: Ticker) -> None:
    deliver_days(3)
    request = ticker.tick()
    assert isinstance(request, dg.RunRequest)
    assert request.tags["mlcicd/model"] == MODEL
    assert "3 new files in card_transactions" in request.tags["mlcicd/why"]
    ticker.record_run(request, dg.DagsterRunStatus.STARTED)
    assert "in flight" in str(ticker.tick())


def test_a_run_that_people_started_in_the_ui_is_waited_for(ticker: Ticker) -> None:
    deliver_days(3)
    run = dg.DagsterRun(
        job_name="__ASSET_JOB",
        run_id=str(uuid.uuid4()),
        status=dg.DagsterRunStatus.STARTED,
        asset_selection={dg.AssetKey([MODEL, "raw_data"])},
    )
    ticker.instance.add_run(run)
    assert "in flight" in str(ticker.tick())


@pytest.mark.parametrize("outcome", ["kept", "blocked"])
def test_data_with_an_outcome_starts_nothing_until_more_arrives(
    ticker: Ticker, outcome: str
) -> None:
    deliver_days(3)
    decide(take_in(), outcome)
    assert ticker.tick() == "nothing new"
    ticker.cursor = None
    assert ticker.tick() == "nothing new", "a lost cursor must not repeat a decided run"
    write_batch("transactions-more.parquet")
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_rows_taken_in_by_a_run_that_then_failed_are_not_forgotten(ticker: Ticker) -> None:
    deliver_days(3)
    take_in()
    request = ticker.tick()
    assert isinstance(request, dg.RunRequest)
    assert "without an outcome" in request.tags["mlcicd/why"]


def test_removing_a_refused_file_starts_a_run_for_the_rows_that_were_taken(
    ticker: Ticker,
) -> None:
    deliver_days(3)
    bad = write_batch("transactions-bad.parquet", transaction_id=pl.lit(-1, dtype=pl.Int64))
    for _ in range(MAX_TRIES):
        request = ticker.tick()
        assert isinstance(request, dg.RunRequest)
        assert not run_job(small_spec(), only="raw_data").success
        ticker.record_run(request, dg.DagsterRunStatus.FAILURE)
    while isinstance(request := ticker.tick(), dg.RunRequest):
        ticker.record_run(request, dg.DagsterRunStatus.FAILURE)
    assert "could not decide" in str(request)
    bad.unlink()
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_a_run_without_an_outcome_is_tried_again_with_a_new_key_but_not_for_ever(
    ticker: Ticker,
) -> None:
    deliver_days(3)
    keys = set()
    for _ in range(MAX_TRIES):
        request = ticker.tick()
        assert isinstance(request, dg.RunRequest)
        keys.add(request.run_key)
        ticker.record_run(request, dg.DagsterRunStatus.FAILURE)
    assert len(keys) == MAX_TRIES
    assert "could not decide" in str(ticker.tick())
    write_batch("transactions-more.parquet")
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_a_foreign_table_starts_runs_by_its_log(home: Path) -> None:
    deliver_days(3)
    take_in(name="bank")
    foreign = {"source": {"table": "bank/raw"}, "label__source": {"table": "bank/labels"}}
    ticker = Ticker(**foreign)
    assert isinstance(ticker.tick(), dg.RunRequest)
    decide(take_in(**foreign))
    assert ticker.tick() == "nothing new"
    DeltaTable(str(home / "lake/bank/raw")).optimize.compact()
    assert ticker.tick() == "nothing new"
    write_batch("transactions-more.parquet")
    take_in(name="bank")
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_a_table_dropped_and_made_again_is_new_data(home: Path) -> None:
    deliver_days(3)
    take_in(name="bank")
    foreign = {"source": {"table": "bank/raw"}, "label__source": {"table": "bank/labels"}}
    ticker = Ticker(**foreign)
    decide(take_in(**foreign))
    assert ticker.tick() == "nothing new"
    shutil.copytree(home / "lake/bank/raw", home / "spare")
    rows = DeltaTable(str(home / "spare")).to_pyarrow_table()
    shutil.rmtree(home / "lake/bank/raw")
    assert str(home / "lake/bank/raw") in str(ticker.tick())
    write_deltalake(str(home / "lake/bank/raw"), rows)
    assert isinstance(ticker.tick(), dg.RunRequest)


def test_a_missing_foreign_table_is_a_skip_with_a_reason(home: Path) -> None:
    ticker = Ticker(source={"table": "nowhere/raw"}, label__source={"table": "nowhere/labels"})
    assert "nowhere/raw" in str(ticker.tick())
