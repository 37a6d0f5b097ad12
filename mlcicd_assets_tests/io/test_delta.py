"""Delta tables: pinned, appended effectively once."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from mlcicd_assets.io import delta
from mlcicd_assets.io.delta import Batch, append_files, pin, scan
from mlcicd_assets.io.feature_state import replace_days
from mlcicd_assets.io.store import Place, listing, place_at, read, write
from mlcicd_assets.ml.errors import DataError, SchemaMismatch, SettingsError
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


LOCAL = pytest.mark.parametrize("place", ["folder"], indirect=True)


@pytest.fixture
def uri(place: Place) -> str:
    return str(place / "lake" / "table")


def ids(uri: str) -> list[int]:
    return sorted(pl.read_delta(uri)["id"])


def test_new_files_land_in_one_commit_of_a_new_table(uri: str) -> None:
    batches = [make_batch(0), make_batch(1), make_batch(0)]
    assert append_files(uri, batches, metadata={"run": "r1"}) == ("digest0", "digest1")
    assert ids(uri) == [0, 1, 10, 11]
    # One commit to make the table, one for all files.
    assert DeltaTable(uri).version() == 1
    [said] = DeltaTable(uri).history(1)
    assert said["run"] == "r1"
    assert json.loads(said["mlcicd.files"]) == {"0.csv": "digest0", "1.csv": "digest1"}


def test_a_file_lands_only_once(uri: str) -> None:
    append_files(uri, [make_batch(0), make_batch(1)], metadata={})
    assert append_files(uri, [make_batch(1), make_batch(2)], metadata={}) == ("digest2",)
    assert append_files(uri, [make_batch(0)], metadata={}) == ()
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


def test_a_batch_of_another_schema_is_refused_whole_but_order_is_nothing(uri: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    wrong = make_batch(1).table.set_column(0, "id", pa.array([1.9, 2.0]))
    with pytest.raises(SchemaMismatch, match=r"w\.csv .*'id' is double and must be int64"):
        append_files(uri, [make_batch(2), Batch("d", "w.csv", wrong)], metadata={})
    turned = Batch("t", "t.csv", make_batch(1).table.select(["at", "name", "id"]))
    append_files(uri, [turned], metadata={})
    assert ids(uri) == [0, 1, 10, 11]


@pytest.fixture
def overtake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let another writer commit after each of the next `times` looks at the table."""

    def arrange(write: Callable[[str], None], times: int) -> list[int]:
        def look(uri: str, schema: pa.Schema) -> DeltaTable:
            table = opened(uri, schema)
            looks.append(table.version())
            if len(looks) <= times:
                write(uri)
            return table

        opened, looks = delta._open_or_create, []
        monkeypatch.setattr(delta, "_open_or_create", look)
        monkeypatch.setattr(delta.time, "sleep", lambda _: None)
        return looks

    return arrange


def test_a_file_committed_between_look_and_write_is_not_doubled(uri: str, overtake) -> None:
    def land(uri: str) -> None:
        mark = CommitProperties(app_transactions=[Transaction("mlcicd:digest0", 1)])
        write_deltalake(uri, make_batch(0).table, mode="append", commit_properties=mark)

    append_files(uri, [make_batch(9)], metadata={})
    looks = overtake(land, times=1)
    assert append_files(uri, [make_batch(0), make_batch(1)], metadata={}) == ("digest1",)
    assert looks == [1, 2]
    assert ids(uri) == [0, 1, 10, 11, 90, 91]


def test_writers_that_are_always_faster_end_in_an_error(
    uri: str, overtake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def land(uri: str) -> None:
        mark = Transaction("mlcicd:digest0", DeltaTable(uri).version())
        once = CommitProperties(app_transactions=[mark])
        write_deltalake(uri, make_batch(0).table, mode="append", commit_properties=once)

    overtake(land, times=9)
    monkeypatch.setattr(DeltaTable, "transaction_version", lambda *_: None)
    with pytest.raises(DataError, match="5 writes to"):
        append_files(uri, [make_batch(0)], metadata={})


@pytest.mark.parametrize("again", range(4))
def test_racing_writers_land_every_file_once_in_a_table_that_was_missing(
    uri: str, again: int
) -> None:
    def race(number: int) -> tuple[str, ...]:
        barrier.wait()
        return append_files(uri, [make_batch(n) for n in (0, 1, number)], metadata={})

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(race, (2, 3, 4, 4)))
    assert sorted(sum(added, ())) == [f"digest{n}" for n in range(5)]
    assert ids(uri) == [0, 1, 10, 11, 20, 21, 30, 31, 40, 41]
    log = place_at(uri) / "_delta_log"
    commits = [read(log / name) or b"" for name in listing(log) if name.endswith(".json")]
    assert sum(b'"metaData"' in commit for commit in commits) == 1


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


@LOCAL
def test_scan_refuses_a_table_made_anew(uri: str, tmp_path: Path) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    pinned = pin(uri)
    (tmp_path / "lake").rename(tmp_path / "dropped")
    append_files(uri, [make_batch(0)], metadata={})
    with pytest.raises(DataError, match="dropped and made anew"):
        scan(pinned)


@LOCAL
def test_unreadable_tables_say_what_to_do(uri: str) -> None:
    with pytest.raises(DataError, match="land data first"):
        pin(uri)
    append_files(uri, [make_batch(0)], metadata={})
    with pytest.raises(DataError, match="version 7"):
        pin(uri, version=7)
    [path] = Path(uri).glob("*.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"version 1 .* damaged"):
        pin(uri)
    path.unlink()
    with pytest.raises(DataError, match=r"version 1 .* vacuumed"):
        pin(uri)


@pytest.mark.parametrize(("text", "message"), [("", "power loss"), ("garbage", "be opened")])
def test_a_broken_last_commit_is_refused(uri: str, text: str, message: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    write(place_at(uri) / "_delta_log" / f"{2:020d}.json", text.encode())
    with pytest.raises(DataError, match=message):
        pin(uri)


@LOCAL
@pytest.mark.parametrize(
    "feature", ["deletionVectors", "columnMapping", "v2Checkpoint", "typeWidening"]
)
def test_reader_features_that_would_be_misread_are_refused(uri: str, feature: str) -> None:
    append_files(uri, [make_batch(0)], metadata={})
    features = {"readerFeatures": [feature], "writerFeatures": [feature]}
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, **features}
    _rewrite_first_commit(uri, "protocol", protocol)
    with pytest.raises(DataError, match=feature):
        pin(uri)


@LOCAL
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
    with pytest.raises(DataError, match="'columnMapping'"):
        pin(uri)


def _rewrite_first_commit(uri: str, action: str, change: dict[str, object]) -> None:
    path = Path(uri) / "_delta_log" / f"{0:020d}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if action in line:
            line[action].update(change)
    path.write_text("\n".join(json.dumps(line) for line in lines))


DAYS = pl.DataFrame({"a": [1], "mlcicd_day": [date(1970, 1, 1)]})


@pytest.mark.parametrize(
    "write_to",
    [
        lambda uri: append_files(uri, [make_batch(0)], metadata={}),
        lambda uri: replace_days(uri, DAYS, range(1), metadata={}),
    ],
)
def test_a_lake_whose_storage_ignores_conditions_is_not_written(
    write_to: Callable[[str], object], s3: str
) -> None:
    careless = s3.replace("good", "careless")
    with pytest.raises(SettingsError, match="s3://careless ignores conditional writes"):
        write_to(f"{careless}/lake/table")
    assert listing(place_at(careless)) == {}
