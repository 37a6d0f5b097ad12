"""The log alone: what counts as new rows, and what is housekeeping."""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from mlcicd_assets.io import delta_log, store
from mlcicd_assets.io.delta_log import advance, rows_added
from mlcicd_assets.io.store import Place, listing, place_at, remove
from mlcicd_assets.ml.errors import DataError


@pytest.fixture
def table(place: Place) -> str:
    uri = str(place / "table")
    for n in range(3):
        append(uri, n)
    return uri


def drop(folder: Place) -> None:
    for name, size in listing(folder).items():
        drop(folder / name) if size is None else remove(folder / name)


def append(uri: str, n: int) -> None:
    write_deltalake(uri, pa.table({"x": [n]}), mode="append")


def test_an_append_is_new_content_and_nothing_more_is_not(table: str) -> None:
    first = advance(table, None)
    assert first is not None
    assert first.content == 2
    assert advance(table, first) == first
    append(table, 9)
    second = advance(table, first)
    assert second is not None
    assert second.content == 3


def test_a_look_without_news_costs_two_requests(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append(f"{s3}/table", 0)
    first, asked, ask = advance(f"{s3}/table", None), list[object](), store._ask

    def count(place: Place, *words: object) -> object:
        asked.append(place)
        return ask(place, *words)

    monkeypatch.setattr(store, "_ask", count)
    assert advance(f"{s3}/table", first) == first
    assert len(asked) == 2


def test_housekeeping_is_no_new_content(table: str) -> None:
    first = advance(table, None)
    handle = DeltaTable(table)
    handle.optimize.compact()
    handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    handle.create_checkpoint()
    second = advance(table, first)
    assert first is not None
    assert second is not None
    assert second.version > first.version
    assert second.content == first.content


def test_a_table_made_again_is_new_content_even_at_a_lower_version(table: str) -> None:
    first = advance(table, None)
    drop(place_at(table))
    assert advance(table, first) is None
    append(table, 0)
    again = advance(table, first)
    assert first is not None
    assert again is not None
    assert again.version == 0
    assert again.table_id != first.table_id


def test_a_run_of_the_model_counts_as_content_but_not_as_a_change_by_others(table: str) -> None:
    first = advance(table, None, model="ours")
    mark = CommitProperties(custom_metadata={"mlcicd.model": "ours"})
    write_deltalake(table, pa.table({"x": [4]}), mode="append", commit_properties=mark)
    ours, theirs = (advance(table, first, model=name) for name in ("ours", "theirs"))
    assert ours is not None
    assert theirs is not None
    assert (ours.content, ours.foreign, theirs.foreign) == (3, 2, 3)


def test_a_log_cleaned_up_is_followed_from_its_checkpoint(tmp_path: Path) -> None:
    uri = str(tmp_path / "table")
    for n in range(4):
        append(uri, n)
    DeltaTable(uri).alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    first = advance(uri, None)
    DeltaTable(uri).create_checkpoint()
    DeltaTable(uri).cleanup_metadata()
    append(uri, 9)
    found = advance(uri, None)
    assert first is not None
    assert found is not None
    assert found.table_id == first.table_id
    assert (found.version, found.content) == (5, 5)
    assert advance(uri, first) == found, "a head that was cleaned up is as good as none"
    (tmp_path / f"table/_delta_log/{4:020d}.checkpoint.parquet").write_bytes(b"no checkpoint")
    with pytest.raises(DataError, match="cannot be opened"):
        advance(uri, None)


def test_a_lost_cursor_starts_at_the_checkpoint_and_not_at_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "table")
    for n in range(5):
        append(uri, n)
    DeltaTable(uri).create_checkpoint()
    append(uri, 9)
    looked_at, read = list[str](), delta_log.read

    def count(place: Place) -> bytes | None:
        looked_at.append(place.name)
        return read(place)

    monkeypatch.setattr(delta_log, "read", count)
    found = advance(uri, None)
    assert found is not None
    assert (found.version, found.content, found.foreign) == (5, 5, 5)
    assert looked_at == [f"{5:020d}.json"]


def test_rows_added_counts_additions_and_says_nothing_about_anything_else(table: str) -> None:
    assert rows_added(table, range(3)) == 3
    assert rows_added(table, []) == 0
    DeltaTable(table).optimize.compact()
    assert rows_added(table, range(4)) == 3
    DeltaTable(table).delete("x = 1")
    assert rows_added(table, range(4, 5)) is None
