"""The log alone: what counts as new rows, and what is housekeeping."""

import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from mlcicd_assets.io.delta_log import advance


@pytest.fixture
def table(tmp_path: Path) -> str:
    uri = str(tmp_path / "table")
    for n in range(3):
        append(uri, n)
    return uri


def append(uri: str, n: int) -> None:
    write_deltalake(uri, pa.table({"x": [n]}), mode="append")


def test_an_append_is_new_content_and_nothing_more_is_not(table: str) -> None:
    first = advance(table, None, own_model="m")
    assert first is not None
    assert first.content.startswith("2:")
    assert advance(table, first, own_model="m") == first
    append(table, 9)
    second = advance(table, first, own_model="m")
    assert second is not None
    assert second.content.startswith("3:")


def test_housekeeping_is_no_new_content(table: str) -> None:
    first = advance(table, None, own_model="m")
    handle = DeltaTable(table)
    handle.optimize.compact()
    handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    handle.create_checkpoint()
    second = advance(table, first, own_model="m")
    assert first is not None
    assert second is not None
    assert second.version > first.version
    assert second.content == first.content


def test_our_own_commits_trigger_nothing_another_models_do(table: str) -> None:
    first = advance(table, None, own_model="m")
    write_deltalake(
        table,
        pl.DataFrame({"x": [5]}),
        mode="append",
        commit_properties=CommitProperties(custom_metadata={"mlcicd.model": "m"}),
    )
    own = advance(table, first, own_model="m")
    other = advance(table, first, own_model="n")
    assert first is not None
    assert own is not None
    assert other is not None
    assert own.content == first.content
    assert other.content != first.content


def test_a_table_made_again_is_new_content_even_at_a_lower_version(table: str) -> None:
    first = advance(table, None, own_model="m")
    shutil.rmtree(table)
    assert advance(table, first, own_model="m") is None
    append(table, 0)
    again = advance(table, first, own_model="m")
    assert first is not None
    assert again is not None
    assert again.version == 0
    assert again.content != first.content
