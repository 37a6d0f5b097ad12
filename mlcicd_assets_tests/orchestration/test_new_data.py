"""The sensor `<model>_new_data` and the schedule, ticked in process on real tables and folders."""

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster import DagsterInstance, build_schedule_context
from deltalake import DeltaTable

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.orchestration import new_data
from mlcicd_assets_tests.orchestration.ticker import (
    FAILURE,
    FOREIGN,
    STARTED,
    Ticker,
    append_like,
    decide,
    deliver,
    take_in,
)
from mlcicd_assets_tests.small_model import (
    MODEL,
    ledger,
    run_job,
    write_batch,
)

# What starts a run


def test_new_files_start_one_run_that_says_why(ticker: Ticker) -> None:
    ticker.skips("no table at")
    deliver()
    request = ticker.starts()
    assert request.tags["mlcicd/model"] == MODEL
    assert "20 new files in card_transactions" in request.tags["mlcicd/why"]
    again = Ticker()
    assert again.starts().run_key == request.run_key, "two daemons must ask for the same run"
    ticker.record_run(STARTED, tags=dict(request.tags))
    ticker.skips("in flight")


@pytest.mark.parametrize(("asset", "waits"), [("raw_data", True), ("evaluation_page", False)])
def test_a_run_that_people_started_in_the_ui_is_waited_for_but_not_the_page(
    ticker: Ticker, asset: str, waits: bool
) -> None:
    deliver()
    selection = {dg.AssetKey([MODEL, asset])}
    ticker.record_run(STARTED, job_name="__ASSET_JOB", asset_selection=selection)
    assert (ticker.tick() == new_data.IN_FLIGHT) is waits


OLD_CURSOR = json.dumps({"/lake/raw": {"version": 3, "stamp": "1:2:3", "table_id": "x"}})


@pytest.mark.parametrize("outcome", ["kept", "blocked"])
@pytest.mark.parametrize("cursor", [None, "garbage", "{}", "[1]", OLD_CURSOR])
def test_data_with_an_outcome_starts_nothing_until_more_arrives(
    ticker: Ticker, outcome: str, cursor: str | None
) -> None:
    deliver()
    decide(take_in(), outcome)
    ticker.skips("nothing new")
    ticker.cursor = cursor
    assert ticker.tick() == "nothing new", "a lost cursor must not repeat a decided run"
    write_batch("transactions-more.parquet")
    ticker.starts()


def test_rows_taken_in_by_a_run_that_then_failed_are_not_forgotten(ticker: Ticker) -> None:
    deliver()
    take_in()
    assert "without an outcome" in ticker.starts().tags["mlcicd/why"]


def test_a_file_changed_in_place_is_found_within_ten_minutes(ticker: Ticker) -> None:
    deliver()
    decide(take_in())
    ticker.skips("nothing new")
    newest = max((Settings.from_env().landing / "card_transactions").glob("*"))
    with newest.open("ab") as file:
        file.write(b"more")
    ticker.minutes = 10
    ticker.starts()


def test_a_changed_definition_starts_a_run_but_not_what_decides_nothing(ticker: Ticker) -> None:
    deliver()
    raw, first = take_in(), ticker.spec.definition
    decide(raw)
    ticker.redefine(split__holdout_days=8)
    ticker.skips("nothing new")  # the ledger of an older release does not tell
    decide(raw, definition=first)
    assert "definition changed" in ticker.starts().tags["mlcicd/why"]
    ticker.fails(ticker.starts())
    ticker.redefine(schedule="0 7 * * 1", owners=["team:x"], description="else", freshness_hours=3)
    ticker.skips("nothing new")
    ticker.redefine(split__holdout_days=8)
    decide(raw, definition=ticker.spec.definition)
    decide(raw, "rolled_back", version=1, digest="d", definition=first)
    ticker.skips("nothing new")
    ticker.redefine()
    ticker.starts()
    decide(raw, definition=first)
    for days in (8, 10) * 3:  # to and fro, each a state of its own
        ticker.redefine(split__holdout_days=days)
        ticker.fails(ticker.starts())
        decide(raw, definition=ticker.spec.definition)


def test_a_release_that_another_run_finishes_decides_by_the_definition_it_was_begun_with(
    ticker: Ticker,
) -> None:
    body = {"version": 1, "digest": "d", "data": {}}
    begun, after = ledger(), ledger()
    begun._definition, after._definition = {"definition": "old"}, {"definition": "new"}
    intent = begun.append(kind="intent", model=MODEL, body=body, run_id="r")
    more = {"reason": "r", "data": {"raw": ("t", 1)}, "run_id": "s", "intent_seq": intent.seq}
    assert intent.body["definition"] == "old"
    assert after.record_outcome(MODEL, "blocked", **more).body["definition"] is None
    kept = intent.body["definition"]
    assert (
        after.record_outcome(MODEL, "blocked", definition=kept, **more).body["definition"] == kept
    )


def test_few_new_labels_do_not_count_yet(ticker: Ticker) -> None:
    deliver()
    ticker.redefine(trigger={"new_labels": 12})
    decide(take_in())
    folder = Settings.from_env().landing / "card_labels"
    frame = pl.read_parquet(next(folder.glob("*"))).head(1)
    batch = pl.concat([frame] * 5).with_columns(transaction_id=pl.int_range(5) + 10**7)
    batch.write_parquet(folder / "labels-a.parquet")
    ticker.skips("5 of 12 new labels")
    take_in()  # as by a run that was then killed
    ticker.skips("5 of 12 new labels")
    batch.write_csv(folder / "labels-b.csv")
    ticker.skips("10 of 12 new labels")
    write_batch("transactions-more.parquet")
    assert "card_labels" in ticker.starts().tags["mlcicd/why"]
    (Settings.from_env().landing / "card_transactions" / "transactions-more.parquet").unlink()
    ticker.skips("10 of 12 new labels")
    batch.write_parquet(folder / "labels-c.parquet")
    ticker.starts()


def test_labels_taken_away_count_however_few(foreign: Ticker) -> None:
    foreign.redefine(**FOREIGN, trigger={"new_labels": 1_000})
    decide(take_in(**FOREIGN))
    labels = DeltaTable(f"{Settings.from_env().lake}/bank/labels")
    append_like(labels, 3)
    foreign.skips("3 of 1000 new labels")
    labels = DeltaTable(f"{Settings.from_env().lake}/bank/labels")
    labels.delete(f"transaction_id = {labels.to_pyarrow_table()['transaction_id'][0].as_py()}")
    foreign.starts()


def test_the_schedule_waits_for_a_run_in_flight_and_says_why(
    ticker: Ticker, tmp_path: Path
) -> None:
    ticker.instance = DagsterInstance.local_temp(str(tmp_path))
    ticker.redefine(schedule="0 6 * * 1")
    schedule = ticker.definitions.resolve_schedule_def(f"{MODEL}_schedule")

    context = build_schedule_context(instance=ticker.instance)
    request = schedule(context)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["mlcicd/why"] == "schedule"
    ticker.record_run(STARTED, tags=dict(request.tags))
    assert isinstance(schedule(context), dg.SkipReason)


# How soon


def test_a_run_without_an_outcome_is_tried_again_ever_later_and_not_for_ever(
    ticker: Ticker,
) -> None:
    deliver()
    keys, tried = set[str | None](), ticker.starts()
    for minutes in new_data.BACK_OFF:
        keys.add(tried.run_key)
        ticker.fails(tried)
        ticker.minutes += minutes - 0.2
        ticker.skips("more minutes")
        ticker.minutes += 0.3
        take_in()  # its own commit makes no new state of it
        tried = ticker.starts()
        # The stored times are those of now.
        ticker.minutes = 0
    ticker.fails(tried)
    ticker.minutes = 1_000
    assert len(keys | {tried.run_key}) == 4
    ticker.skips("4 runs could not decide")
    write_batch("transactions-more.parquet")
    ticker.starts()


def test_a_refused_file_is_not_tried_again_until_it_is_corrected_or_removed(
    ticker: Ticker,
) -> None:
    deliver()
    bad = write_batch("transactions-bad.parquet", transaction_id=pl.lit(-1, dtype=pl.Int64))
    request = ticker.starts()
    run_id = run_job(ticker.spec, only="raw_data").run_id
    ticker.record_run(FAILURE, tags=dict(request.tags), run_id=run_id)
    ticker.minutes = 1_000
    ticker.skips("a landing file was refused")
    bad.unlink()
    ticker.starts()


def test_a_burst_becomes_one_run_after_it_is_quiet_and_news_without_end_do_not_wait_for_ever(
    ticker: Ticker,
) -> None:
    ticker.redefine(trigger={"quiet_minutes": 5})
    deliver()
    ticker.skips("quiet")
    for number in range(3):
        ticker.minutes += 4
        write_batch(f"transactions-more-{number}.parquet")
        ticker.skips("quiet")
    ticker.minutes += 5
    assert "23 new files" in ticker.starts().tags["mlcicd/why"]
    decide(take_in())
    runs = 0
    for number in range(14):
        write_batch(f"transactions-on-{number}.parquet")
        runs += isinstance(ticker.tick(), dg.RunRequest)
        ticker.minutes += 4
    assert runs == 1


def test_two_runs_start_no_sooner_than_the_cooldown(ticker: Ticker) -> None:
    ticker.redefine(trigger={"cooldown_minutes": 60})
    deliver()
    ticker.fails(ticker.starts())
    ticker.minutes = 2
    ticker.starts()  # a failed one is tried again sooner
    decide(take_in())
    write_batch("transactions-more.parquet")
    ticker.skips("more minutes")
    ticker.minutes = 61
    ticker.starts()
