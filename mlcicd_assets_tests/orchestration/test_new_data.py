"""The sensor `<model>_new_data` and the schedule, ticked in process on real tables and folders."""

import json
import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from dagster import DagsterInstance, build_schedule_context, build_sensor_context
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.values import RawData
from mlcicd_assets.orchestration import new_data
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests import small_model
from mlcicd_assets_tests.small_model import (
    MODEL,
    WORLD,
    deliver_days,
    ledger,
    run_job,
    small_spec,
    write_batch,
)

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


@pytest.fixture(scope="module", autouse=True)
def _delivered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Landing files, and the tables of another model made from them, once for all tests."""
    folder = tmp_path_factory.mktemp("delivered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCICD_HOME", str(folder))
        patch.setattr(small_model, "WORLD", replace(WORLD, customers=120))
        deliver_days(20)
        take_in(name="bank")
    DELIVERED[:] = [folder]


def deliver(what: str = "landing") -> None:
    shutil.copytree(DELIVERED[0] / what, Settings.from_env().home / what)


@pytest.fixture
def ticker(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ticker:
    made = Ticker()
    monkeypatch.setattr(new_data, "time", made)
    return made


@pytest.fixture
def foreign(ticker: Ticker) -> Ticker:
    """The tables belong to another model, and what is in them has been decided on."""
    deliver("lake/bank")
    ticker.redefine(**FOREIGN)
    assert ticker.starts().tags["mlcicd/why"].count("without an outcome") == 2
    decide(take_in(**FOREIGN))
    ticker.skips("nothing new")
    return ticker


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


# What others do to their tables


def recreate() -> None:
    rows = raw_table().to_pyarrow_table()
    shutil.rmtree(head_file().parents[1])
    for part in (rows.slice(0, 9), rows.slice(9)):  # as many versions as before
        write_deltalake(f"{Settings.from_env().lake}/bank/raw", part, mode="append")


def merge() -> None:
    update = raw_table().to_pyarrow_table().slice(0, 3)
    merging = raw_table().merge(update, "s.transaction_id = t.transaction_id", "s", "t")
    merging.when_matched_update_all().execute()


def clean_log(*, then_append: bool) -> None:
    raw_table().alter.set_table_properties({"delta.logRetentionDuration": "interval 0 seconds"})
    raw_table().create_checkpoint()
    raw_table().cleanup_metadata()
    if then_append:
        append_like(raw_table())


CHANGES = {
    "append": lambda: append_like(raw_table()),
    "delete": lambda: raw_table().delete("transaction_id < 5"),
    "update": lambda: raw_table().update({"amount": "1.0"}, predicate="transaction_id < 5"),
    "merge": merge,
    "overwrite": lambda: write_deltalake(
        raw_table(), raw_table().to_pyarrow_table(), mode="overwrite"
    ),
    "restore": lambda: (append_like(raw_table()), raw_table().restore(0)),
    "recreate": recreate,
    "append after clean-up": lambda: clean_log(then_append=True),
}
HOUSEKEEPING = {
    "compact": lambda: raw_table().optimize.compact(),
    "z-order": lambda: raw_table().optimize.z_order(["customer_id"]),
    "vacuum": lambda: raw_table().vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False
    ),
    "checkpoint": lambda: raw_table().create_checkpoint(),
    "property": lambda: raw_table().alter.set_table_properties({"delta.appendOnly": "false"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_rows_starts_one_run(foreign: Ticker, name: str) -> None:
    CHANGES[name]()
    assert "raw has rows" in foreign.starts().tags["mlcicd/why"]
    foreign.cursor = None
    foreign.starts()
    decide(take_in(**FOREIGN))
    foreign.skips("nothing new")
    foreign.cursor = None
    foreign.skips("nothing new")


@pytest.mark.parametrize("name", HOUSEKEEPING)
def test_housekeeping_starts_nothing(foreign: Ticker, name: str) -> None:
    HOUSEKEEPING[name]()
    foreign.skips("nothing new")


def test_a_log_cleaned_up_behind_the_cursor_is_no_fault(foreign: Ticker) -> None:
    clean_log(then_append=False)
    foreign.cursor = None
    foreign.starts()  # more than needed: what the lost commits said is not known


def test_commits_lost_and_accepted_by_a_repair_are_a_change(foreign: Ticker) -> None:
    append_like(raw_table())
    decide(take_in(**FOREIGN))
    foreign.skips("nothing new")
    head_file().unlink()
    foreign.skips("mlcicd repair")
    ledger().forget_table(f"{Settings.from_env().lake}/bank/raw")
    assert "raw has rows" in foreign.starts().tags["mlcicd/why"]


# What cannot be looked at


def needs_features() -> None:
    head = head_file()
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7}
    protocol |= {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    following = head.with_name(f"{int(head.stem) + 1:020d}.json")
    following.write_text(json.dumps({"protocol": protocol}) + "\n")


def lose_commit() -> None:
    append_like(raw_table())
    append_like(raw_table())
    head = head_file()
    head.with_name(f"{int(head.stem) - 1:020d}.json").unlink()


FAULTS = {
    "dropped": (lambda: shutil.rmtree(head_file().parents[1]), "no table at"),
    "head commit empty": (lambda: head_file().write_bytes(b""), "mlcicd repair"),
    "no JSON": (lambda: head_file().write_text("{"), "is no JSON"),
    "no commit": (lambda: head_file().write_text("[1]"), "no Delta commit"),
    "strange commit": (lambda: head_file().write_text('{"add": 5}'), "bank/raw"),
    "reader features": (needs_features, "deletionVectors"),
    "commit lost": (lose_commit, "is missing"),
    "went back": (lambda: head_file().unlink(), "mlcicd repair"),
    "log is a file": (
        lambda: (shutil.rmtree(p := head_file().parent), p.write_text("x")),
        "no table at",
    ),
}  # fmt: skip


@pytest.mark.parametrize("cursor", ["kept", "lost"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_cannot_be_read_is_a_skip_that_says_what_to_do(
    foreign: Ticker, fault: str, cursor: str
) -> None:
    plant, told = FAULTS[fault]
    append_like(DeltaTable(f"{Settings.from_env().lake}/bank/labels"))
    foreign.starts()
    plant()
    # Where only the run can notice it, the run refuses it.
    if cursor == "lost" and fault != "went back":
        foreign.cursor = None
    elif fault == "commit lost":
        return
    for _ in range(2):
        answer = str(foreign.tick())
        assert told in answer
        assert "bank/raw" in answer
        assert "labels has rows" in answer
    (alert,) = (Settings.from_env().home / "alerts.jsonl").read_text().splitlines()
    assert "bank/raw" in json.loads(alert)["reason"]


def test_a_missing_foreign_table_is_a_skip_with_a_reason(ticker: Ticker) -> None:
    ticker.redefine(source={"table": "nowhere/raw"}, label__source={"table": "nowhere/labels"})
    ticker.skips("nowhere/raw")
    assert not (Settings.from_env().home / "alerts.jsonl").exists(), "no data yet is no alarm"


def test_a_ledger_that_does_not_answer_is_a_skip_and_the_next_tick_asks_again(
    ticker: Ticker,
) -> None:
    deliver()
    ticker.starts()
    path = Settings.from_env().home / "ledger.db"
    path.rename(path.with_suffix(".away"))
    path.write_bytes(b"this is no database" * 100)
    ticker.skips("MLCICD_LEDGER_URL")
    path.with_suffix(".away").replace(path)
    ticker.starts()
    path.unlink()
    ticker.skips("MLCICD_LEDGER_URL")
    ticker.starts()


def test_a_wrong_setting_is_a_skip(ticker: Ticker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCICD_ENDPOINTS", "nonsense")
    ticker.skips("MLCICD_ENDPOINTS")


def test_a_tick_with_nothing_new_reads_no_file_and_lists_no_folder(
    foreign: Ticker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for opener in ("open", "iterdir", "read_bytes"):
        monkeypatch.setattr(Path, opener, None)
    foreign.skips("nothing new")
