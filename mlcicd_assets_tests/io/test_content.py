"""Files are read once, and what is known of them adds up to what is in the table."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from mlcicd_assets.io import content
from mlcicd_assets.io.content import NO_DAY, row_changes, scan_days
from mlcicd_assets.io.delta import content_of, open_pinned, pin
from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.io.store import Place
from mlcicd_assets.ml.fingerprint import fingerprint
from mlcicd_assets.ml.sections import TimeColumn

CLOCK = TimeColumn(column="at")
START = datetime(1970, 1, 1, tzinfo=UTC)
STAMP = pl.Datetime("us", "UTC")


def rows(*days: int | None, first: int = 0) -> pl.DataFrame:
    times = [None if day is None else START + timedelta(days=day, hours=23) for day in days]
    ids = range(first, first + len(days))
    return pl.DataFrame({"id": ids, "at": pl.Series(times, dtype=STAMP)})


@pytest.fixture
def uri(place: Place) -> str:
    return str(place / "table")


@pytest.fixture
def memory(tmp_path: Path) -> LedgerDatabase:
    return LedgerDatabase(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files were read in each go."""

    def count(table: Any, uris: Any, *rest: Any) -> Any:
        found.append(len(uris))
        return honest(table, uris, *rest)

    found, honest = list[int](), content._sums
    monkeypatch.setattr(content, "_sums", count)
    return found


def test_only_new_files_are_read_and_the_sum_is_the_fingerprint(
    uri: str, memory: LedgerDatabase, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "FILES_AT_ONCE", 2)
    for day in range(3):
        rows(day, day, None, first=3 * day).write_delta(uri, mode="append")
    assert pin(uri, clock=CLOCK, memory=memory).fingerprint == fingerprint(pl.scan_delta(uri))
    assert reads == [2, 1]
    rows(2, 5, first=20).write_delta(uri, mode="append")
    pinned = pin(uri, clock=CLOCK, memory=memory)
    held = content_of(pinned, CLOCK, memory)
    assert reads == [2, 1, 1]
    assert {day: count for day, (count, _) in held.days.items()} == {
        0: 2,
        1: 2,
        2: 3,
        5: 1,
        NO_DAY: 3,
    }
    assert pin(uri, version=2, memory=memory, clock=CLOCK).rows == 9
    DeltaTable(uri).delete("id = 20")
    assert pin(uri, clock=CLOCK, memory=memory).fingerprint == fingerprint(pl.scan_delta(uri))
    assert reads == [2, 1, 1, 1]


def test_a_compacted_table_is_not_read_before_rows_change(
    uri: str, memory: LedgerDatabase, reads: list[int]
) -> None:
    for day in range(3):
        rows(day, first=day).write_delta(uri, mode="append")
    before = pin(uri, clock=CLOCK, memory=memory)
    table = DeltaTable(uri)
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    after = pin(uri, clock=CLOCK, memory=memory)
    assert (after.fingerprint, after.rows) == (before.fingerprint, 3)
    held = content_of(after, CLOCK, memory)
    found = scan_days(open_pinned(after), held, CLOCK, range(1, 3)).collect()
    assert sorted(found["id"]) == [1, 2]
    assert reads == [3]
    rows(7, first=9).write_delta(uri, mode="append")
    assert pin(uri, clock=CLOCK, memory=memory).fingerprint == fingerprint(pl.scan_delta(uri))
    assert reads == [3, 2]


def test_a_column_added_later_is_null_in_older_files_and_makes_another_content(
    uri: str, memory: LedgerDatabase
) -> None:
    rows(0, 1).write_delta(uri)
    first = pin(uri, clock=CLOCK, memory=memory)
    wider = rows(2, first=5).with_columns(more=pl.lit("x"))
    wider.write_delta(uri, mode="append", delta_write_options={"schema_mode": "merge"})
    found = pin(uri, clock=CLOCK, memory=memory)
    assert found.fingerprint == fingerprint(pl.scan_delta(uri))
    assert found.fingerprint.rpartition(":")[2] != first.fingerprint.rpartition(":")[2]


def test_a_partitioned_table_is_read_as_polars_reads_it(uri: str, memory: LedgerDatabase) -> None:
    frame = rows(0, 1, 2, 3).with_columns(place=pl.Series(["a b", "c=d", None, "é"]))
    frame.write_delta(uri, delta_write_options={"partition_by": ["place"]})
    assert pin(uri, clock=CLOCK, memory=memory).fingerprint == fingerprint(frame.lazy())


TIMES: dict[str, tuple[TimeColumn, pl.Series, list[int]]] = {
    "seconds": (
        TimeColumn(column="at", format="epoch_s"),
        pl.Series([86_399, 86_400, None]),
        [0, 1, NO_DAY],
    ),
    "texts": (CLOCK, pl.Series(["1970-01-03T01:00:00", "1970-01-02T23:59:59"]), [2, 1]),
    "a zone": (
        TimeColumn(column="at", zone="America/New_York"),
        pl.Series([datetime(1970, 1, 1, 18), datetime(1970, 1, 1, 19)]),
        [0, 1],
    ),
    "no times": (CLOCK, pl.Series(["soon", "later"]), [NO_DAY, NO_DAY]),
}


@pytest.mark.parametrize("case", TIMES)
def test_days_are_those_of_the_contract_whatever_the_form_of_the_time(
    case: str, tmp_path: Path
) -> None:
    clock, times, days = TIMES[case]
    pl.DataFrame({"at": times}).write_delta(str(tmp_path / "table"))
    pinned = pin(str(tmp_path / "table"))
    assert sorted(content_of(pinned, clock, None).days) == sorted(set(days))


def test_commits_that_change_no_rows_are_told_from_those_that_may(uri: str) -> None:
    changes: list[tuple[Callable[[DeltaTable], Any], int]] = [
        (lambda table: table.optimize.compact(), 0),
        (lambda table: table.vacuum(0, dry_run=False, enforce_retention_duration=False), 0),
        (lambda table: table.delete("id = 0"), 1),
        (lambda table: table.alter.set_table_properties({"delta.appendOnly": "true"}), 1),
    ]
    rows(0, 1).write_delta(uri)
    rows(2, first=5).write_delta(uri, mode="append")
    for change, count in changes:
        before = DeltaTable(uri).version()
        change(DeltaTable(uri))
        now = DeltaTable(uri).version()
        assert now > before
        assert len(row_changes(uri, before, now) or []) == count
    assert row_changes(uri, 99, now) is None
    assert row_changes(uri, now, now + 1) is None
