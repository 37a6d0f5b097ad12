"""The log alone: what counts as new rows, and what is housekeeping."""

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io import store
from mlcicd_assets.io.delta_log import advance
from mlcicd_assets.io.store import Place, listing, place_at, remove


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
