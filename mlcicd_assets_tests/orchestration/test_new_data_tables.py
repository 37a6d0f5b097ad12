"""The sensor `<model>_new_data`: what others do to their tables, and what cannot be read."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io.settings import Settings
from mlcicd_assets_tests.orchestration.ticker import (
    FOREIGN,
    Ticker,
    append_like,
    decide,
    deliver,
    head_file,
    raw_table,
    take_in,
)
from mlcicd_assets_tests.small_model import ledger

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


# Two can be seen in one way only; else the run notices and refuses it.
SEEN = {*itertools.product(FAULTS, ["kept", "lost"])} - {
    ("commit lost", "kept"),
    ("went back", "lost"),
}


@pytest.mark.parametrize(("fault", "cursor"), sorted(SEEN))
def test_a_source_that_cannot_be_read_is_a_skip_that_says_what_to_do(
    foreign: Ticker, fault: str, cursor: str
) -> None:
    plant, told = FAULTS[fault]
    append_like(DeltaTable(f"{Settings.from_env().lake}/bank/labels"))
    foreign.starts()
    plant()
    if cursor == "lost":
        foreign.cursor = None
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
