"""Delta tables: pinned, appended effectively once, replaced once per key."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from mlcicd_assets.io import delta
from mlcicd_assets.io.delta import Batch, append_files, last_metadata, pin, replace, scan
from mlcicd_assets.ml.errors import DataError, SchemaMismatch
from mlcicd_assets.ml.fingerprint import fingerprint

STAMP = pa.timestamp("us", "UTC")


def make_batch(number: int, rows: int = 2) -> Batch:
    values = [10 * number + row for row in range(rows)]
    table = pa.table(
        {
            "id": pa.array(values, pa.int64()),
            "name": pa.array([str(value) for value in values], pa.string()),
            "at": pa.array([None] * rows, STAMP),
        }
    )
    return Batch(f"digest{number}", f"{number}.csv", table)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "lake" / "table")


def ids(uri: str) -> list[int]:
    return sorted(pl.read_delta(uri)["id"])


def test_new_files_land_in_one_commit_of_a_new_table(uri: str) -> None:
    batches = [make_batch(0), make_batch(1), make_batch(0)]
    assert append_files(uri, batches, metadata={"run": "r1"}) == ("digest0", "digest1")
    assert ids(uri) == [0, 1, 10, 11]
    # One commit to make the table, one for all files.
    assert DeltaTable(uri).version() == 1
    said = last_metadata(uri)
    assert said["run"] == "r1"
    assert json.loads(said["mlcicd.files"]) == {"0.csv": "digest0", "1.csv": "digest1"}
    assert set(said) == {"run", "mlcicd.files"}


def test_a_file_lands_only_once(uri: str) -> None:
    append_files(uri, [make_batch(0), make_batch(1)], metadata={})
    assert append_files(uri, [make_batch(1), make_batch(2)], metadata={}) == ("digest2",)
    assert append_files(uri, [make_batch(0)], metadata={}) == ()
    assert append_files(uri, [], metadata={}) == ()
    assert ids(uri) == [0, 1, 10, 11, 20, 21]
    assert DeltaTable(uri).version() == 2


def test_a_file_stays_known_after_checkpoint_compaction_and_deletion(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    table = DeltaTable(uri)
    table.optimize.compact()
    table.delete("id = 0")
    table.create_checkpoint()
    assert append_files(uri, [make_batch(0)], metadata={}) == ()
    assert ids(uri) == [1]


def test_a_file_of_no_rows_is_known_as_well(uri: str) -> None:
    assert append_files(uri, [make_batch(0, rows=0)], metadata={}) == ("digest0",)
    assert append_files(uri, [make_batch(0, rows=0)], metadata={}) == ()
    assert pin(uri).rows == 0


def test_a_batch_of_another_schema_is_refused_whole(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    wrong = Batch("d", "w.csv", pa.table({**_columns(make_batch(1)), "id": pa.array([1.9, 2.0])}))
    with pytest.raises(SchemaMismatch, match=r"w\.csv .*'id' is double and must be int64"):
        append_files(uri, [make_batch(2), wrong], metadata={})
    assert ids(uri) == [0, 1]


def _columns(batch: Batch) -> dict[str, pa.ChunkedArray]:
    return {name: batch.table[name] for name in batch.table.column_names}


def test_columns_are_matched_by_name(uri: str) -> None:
    turned = make_batch(1).table.select(["at", "name", "id"])
    append_files(uri, [make_batch(0), Batch("d", "t.csv", turned)], metadata={})
    assert ids(uri) == [0, 1, 10, 11]


def test_a_file_committed_between_look_and_write_is_not_doubled(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append_files(uri, [make_batch(9)], metadata={})
    opened = delta._open_or_create
    calls = []

    def overtaken(uri: str, schema: pa.Schema) -> DeltaTable:
        table = opened(uri, schema)
        if not calls:
            write_deltalake(
                uri,
                make_batch(0).table,
                mode="append",
                commit_properties=CommitProperties(
                    app_transactions=[Transaction("mlcicd:digest0", 1)]
                ),
            )
        calls.append(table.version())
        return table

    monkeypatch.setattr(delta, "_open_or_create", overtaken)
    assert append_files(uri, [make_batch(0), make_batch(1)], metadata={}) == ("digest1",)
    assert calls == [1, 2]
    assert ids(uri) == [0, 1, 10, 11, 90, 91]


def test_racing_writers_land_every_file_once_in_a_table_that_was_missing(uri: str) -> None:
    def race(number: int) -> tuple[str, ...]:
        barrier.wait()
        return append_files(uri, [make_batch(n) for n in (0, 1, number)], metadata={})

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(race, (2, 3, 4, 4)))
    assert sorted(sum(added, ())) == [f"digest{n}" for n in range(5)]
    assert ids(uri) == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]


def test_racing_creators_make_one_table_with_one_id(tmp_path: Path) -> None:
    def create(uri: str) -> None:
        barrier.wait()
        append_files(uri, [make_batch(0)], metadata={})

    barrier = threading.Barrier(4)
    for number in range(8):
        uri = str(tmp_path / str(number))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(create, [uri] * 4))
        log = [path.read_text() for path in (Path(uri) / "_delta_log").glob("*.json")]
        assert sum('"metaData"' in commit for commit in log) == 1


def test_writers_that_are_always_faster_end_in_an_error(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = delta._open_or_create

    def overtaken(uri: str, schema: pa.Schema) -> DeltaTable:
        table = opened(uri, schema)
        write_deltalake(uri, pl.DataFrame({"id": [0]}), mode="overwrite", schema_mode="overwrite")
        return table

    monkeypatch.setattr(delta, "_open_or_create", overtaken)
    monkeypatch.setattr(delta.time, "sleep", lambda _: None)
    with pytest.raises(DataError, match="5 writes to"):
        replace(uri, pl.DataFrame({"id": [1]}), metadata={}, key="k")


def test_pin_names_version_content_and_table(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    append_files(uri, [make_batch(1)], metadata={})
    table = DeltaTable(uri)
    first, latest = pin(uri, version=1), pin(uri)
    assert (first.version, first.rows, latest.version, latest.rows) == (1, 2, 2, 4)
    assert first.table_id == latest.table_id == str(table.metadata().id)
    assert latest.fingerprint == fingerprint(pl.scan_delta(uri))
    assert first.fingerprint != latest.fingerprint
    table.optimize.compact()
    compacted = pin(uri)
    assert (compacted.version, compacted.fingerprint) == (3, latest.fingerprint)


def test_scan_reads_the_pinned_version_for_ever(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    pinned = pin(uri)
    rows = scan(pinned)
    append_files(uri, [make_batch(1)], metadata={})
    assert rows.collect()["id"].to_list() == scan(pinned).collect()["id"].to_list() == [0, 1]


def test_scan_refuses_a_table_made_anew(uri: str, tmp_path: Path) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    pinned = pin(uri)
    (tmp_path / "lake").rename(tmp_path / "dropped")
    append_files(uri, [make_batch(0)], metadata={})
    with pytest.raises(DataError, match="dropped and made anew"):
        scan(pinned)


def test_unreadable_tables_say_what_to_do(uri: str) -> None:
    with pytest.raises(DataError, match="land data first"):
        pin(uri)
    append_files(uri, [make_batch(0)], metadata={})
    with pytest.raises(DataError, match="version 7"):
        pin(uri, version=7)
    for path in Path(uri).glob("*.parquet"):
        path.unlink()
    with pytest.raises(DataError, match=r"version 1 .* vacuumed"):
        pin(uri)


def test_a_damaged_data_file_is_an_error(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    [path] = Path(uri).glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged"):
        pin(uri)


def test_an_empty_last_commit_is_refused(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    (Path(uri) / "_delta_log" / f"{2:020d}.json").touch()
    with pytest.raises(DataError, match="power loss"):
        pin(uri)


def test_a_log_that_is_no_log_is_an_error(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    (Path(uri) / "_delta_log" / f"{2:020d}.json").write_text("garbage")
    with pytest.raises(DataError, match="cannot be opened"):
        pin(uri)


@pytest.mark.parametrize(
    ("feature", "reason"),
    [
        ("deletionVectors", "deleted rows would come back"),
        ("columnMapping", "read as nulls"),
        ("v2Checkpoint", "log cannot be read"),
        ("typeWidening", "not known here"),
    ],
)
def test_reader_features_that_would_be_misread_are_refused(
    uri: str, feature: str, reason: str
) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    _rewrite_first_commit(
        uri,
        "protocol",
        {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": [feature],
            "writerFeatures": [feature],
        },
    )
    with pytest.raises(DataError, match=f"'{feature}'.*{reason}"):
        pin(uri)


def test_column_mapping_of_an_old_protocol_is_refused(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    schema = json.loads(DeltaTable(uri).schema().to_json())
    for number, field in enumerate(schema["fields"]):
        field["metadata"] = {
            "delta.columnMapping.id": number,
            "delta.columnMapping.physicalName": f"col-{number}",
        }
    mapping = {
        "configuration": {"delta.columnMapping.mode": "name"},
        "schemaString": json.dumps(schema),
    }
    _rewrite_first_commit(uri, "protocol", {"minReaderVersion": 2, "minWriterVersion": 5})
    _rewrite_first_commit(uri, "metaData", mapping)
    with pytest.raises(DataError, match="'columnMapping', which is refused: columns would be"):
        pin(uri)


def _rewrite_first_commit(uri: str, action: str, change: dict[str, object]) -> None:
    path = Path(uri) / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if action in line:
            line[action].update(change)
    path.write_text("\n".join(json.dumps(line) for line in lines))


def test_replace_writes_once_for_each_key(uri: str) -> None:
    one, two = pl.DataFrame({"a": [1, 2]}), pl.DataFrame({"b": ["x"]})
    first = replace(uri, one, metadata={"run": "r1"}, key="k1")
    assert replace(uri, two, metadata={"run": "r2"}, key="k1") == first
    assert last_metadata(uri) == {"run": "r1", "mlcicd.key": "k1"}
    second = replace(uri, two, metadata={}, key="k2")
    assert last_metadata(uri) == {"mlcicd.key": "k2"}
    assert scan(second).collect().equals(two)
    assert scan(first).collect().equals(one)
    assert (second.version, second.table_id) == (first.version + 1, first.table_id)
    # Only the latest commit counts: going back to an earlier key writes again.
    third = replace(uri, one, metadata={}, key="k1")
    assert (third.version, third.fingerprint) == (second.version + 1, first.fingerprint)


def test_replace_keeps_no_rows_of_a_writer_in_between(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(uri, pl.DataFrame({"a": [1]}), metadata={}, key="k1")
    opened = delta._open_or_create
    calls = []

    def overtaken(uri: str, schema: pa.Schema) -> DeltaTable:
        table = opened(uri, schema)
        if not calls:
            write_deltalake(uri, pl.DataFrame({"a": [66]}), mode="append")
        calls.append(table.version())
        return table

    monkeypatch.setattr(delta, "_open_or_create", overtaken)
    pinned = replace(uri, pl.DataFrame({"a": [2, 3]}), metadata={}, key="k2")
    assert scan(pinned).collect()["a"].to_list() == [2, 3]
    assert len(calls) == 2


def test_racing_replacements_of_one_key_write_once(uri: str) -> None:
    frame = pl.DataFrame({"a": [1, 2], "broken_rules": [["x"], []]})
    with ThreadPoolExecutor(4) as pool:
        pins = list(pool.map(lambda _: replace(uri, frame, metadata={}, key="k"), range(4)))
    assert len(set(pins)) == 1
    assert scan(pins[0]).collect().equals(frame)
