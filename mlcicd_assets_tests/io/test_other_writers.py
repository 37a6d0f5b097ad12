"""Tables of other writers: each is read right, or refused with a reason that says why."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mlcicd_assets.io.delta import pin, scan
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets_tests.io.foreign import (
    OLD,
    ROWS,
    add,
    checkpoint,
    commit,
    fields,
    protocol,
    remove,
    table_metadata,
)

COLUMNS = fields(ROWS.schema)
# The protocol's own example of an inline vector: rows 3, 4, 7, 11, 18 and 29 are deleted.
VECTOR = {
    "storageType": "i",
    "pathOrInlineDv": "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L",
    "sizeInBytes": 40,
    "cardinality": 6,
}


def rows_of(table: Path) -> list[tuple[Any, ...]]:
    pinned = pin(str(table))
    rows = sorted(scan(pinned).collect().rows(), key=repr)
    assert pinned.rows == len(rows)
    return rows


def as_rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted(zip(*(column.to_pylist() for column in table.columns), strict=True), key=repr)


def refused(table: Path) -> str:
    with pytest.raises(DataError) as caught:
        pin(str(table))
    return str(caught.value)


def plain(table: Path, *first: dict, columns: Any = COLUMNS, **settings: str) -> None:
    told = table_metadata(columns, **settings)
    commit(table, 0, *(first or (OLD,)), told, add(table, "a.parquet", ROWS))


@pytest.mark.parametrize(
    "feature",
    [
        *("rowTracking", "inCommitTimestamp", "clustering", "domainMetadata", "invariants"),
        *("checkConstraints", "generatedColumns", "identityColumns", "appendOnly"),
        *("changeDataFeed", "icebergCompatV2", "allowColumnDefaults", "aWriterFeatureToCome"),
    ],
)
def test_what_only_writers_need_is_no_hindrance(tmp_path: Path, feature: str) -> None:
    for reader in (1, 3):
        table = tmp_path / str(reader)
        columns = fields(
            ROWS.schema, id={"delta.generationExpression": "1", "delta.invariants": "{}"}
        )
        told = table_metadata(
            columns, delta__enableRowTracking="true", delta__constraints__c="id > 0"
        )
        domain = {"domain": "delta.clustering", "configuration": "{}", "removed": False}
        info = {"commitInfo": {"inCommitTimestamp": 5, "timestamp": 9, "operation": "WRITE"}}
        file = add(table, "a.parquet", ROWS, baseRowId=0, defaultRowCommitVersion=0)
        file["add"] |= {"clusteringProvider": "liquid"}
        commit(table, 0, info, protocol(writer=[feature], reader=reader), told, file)
        commit(table, 1, {"domainMetadata": domain}, {"txn": {"appId": "other", "version": 4}})
        assert rows_of(table) == as_rows(ROWS)


def _mapped(mode: str, reader: dict) -> Callable[[Path], None]:
    def build(table: Path) -> None:
        names = {
            name: {"delta.columnMapping.id": n, "delta.columnMapping.physicalName": f"col-{n}"}
            for n, name in enumerate(ROWS.column_names)
        }
        # The second column was renamed: the files keep the physical name.
        columns = [
            {**field, "name": field["name"].upper()} for field in fields(ROWS.schema, **names)
        ]
        told = table_metadata(columns, delta__columnMapping__mode=mode)
        commit(
            table, 0, reader, told, add(table, "a.parquet", ROWS.rename_columns(["col-0", "col-1"]))
        )

    return build


def _widened(table: Path) -> None:
    change = {"delta.typeChanges": [{"fromType": "integer", "toType": "long"}]}
    told = table_metadata(fields(ROWS.schema, id=change), delta__enableTypeWidening="true")
    narrow = ROWS.set_column(0, "id", ROWS["id"].cast(pa.int32()))
    files = add(table, "a.parquet", narrow), add(table, "b.parquet", ROWS)
    commit(table, 0, protocol("typeWidening"), told, *files)


def _with_vector(table: Path) -> None:
    thirty = pa.table({"id": pa.array(range(30), pa.int64()), "name": ["x"] * 30})
    told = table_metadata(COLUMNS, delta__enableDeletionVectors="true")
    file = add(table, "a.parquet", thirty, deletionVector=VECTOR)
    commit(table, 0, protocol("deletionVectors"), told, file)


def _v2_checkpoint(table: Path) -> None:
    first = protocol("v2Checkpoint"), table_metadata(COLUMNS, delta__checkpointPolicy="v2")
    file = add(table, "a.parquet", ROWS)
    commit(table, 0, *first, file)
    commit(table, 1, {"commitInfo": {"operation": "OPTIMIZE"}})
    name = f"{1:020d}.checkpoint.80a083e8-7026-4e79-81be-64bd76c43a11"
    commit(table, 1, {"checkpointMetadata": {"version": 1}}, *first, file, name=name)
    (table / "_delta_log" / "_last_checkpoint").write_text(json.dumps({"version": 1, "size": 4}))
    (table / "_delta_log" / f"{0:020d}.json").unlink()


def _variant(table: Path) -> None:
    kind = pa.struct([("metadata", pa.binary()), ("value", pa.binary())])
    rows = pa.table({"v": pa.array([{"metadata": b"\x01\x00\x00", "value": b"\x0c\x01"}], kind)})
    column = {"name": "v", "type": "variant", "nullable": True, "metadata": {}}
    commit(
        table, 0, protocol("variantType"), table_metadata([column]), add(table, "a.parquet", rows)
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (_with_vector, "'deletionVectors'"),
        (
            _mapped("name", {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}),
            "columnMapping",
        ),
        (_mapped("id", protocol("columnMapping")), "'columnMapping'"),
        (_mapped("name", OLD), "'columnMapping'"),  # a writer that forgot the protocol
        (_v2_checkpoint, "'v2Checkpoint'"),
        (_widened, "'typeWidening'"),
        (_variant, "'variantType'"),
        (lambda table: plain(table, protocol("vacuumProtocolCheck")), "'vacuumProtocolCheck'"),
        (lambda table: plain(table, protocol("timestampNtz", "toCome")), "Feature 'toCome' is not"),
        (lambda table: plain(table, protocol("catalogManaged")), "catalog-managed"),
        (
            lambda table: plain(
                table, {"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}
            ),
            "'columnMapping'",
        ),
        (
            lambda table: plain(
                table, {"protocol": {"minReaderVersion": 4, "minWriterVersion": 9}}
            ),
            "reader version",
        ),
    ],
)
def test_what_would_be_misread_is_refused_by_name(
    tmp_path: Path, build: Callable[[Path], None], words: str
) -> None:
    build(tmp_path)
    assert words in refused(tmp_path)


def test_times_without_a_zone_and_of_sparks_old_format_are_read(tmp_path: Path) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901)
    for name, kind, old in (
        ("ntz", pa.timestamp("us"), False),
        ("utc", pa.timestamp("us", "UTC"), True),
    ):
        rows = pa.table({"at": pa.array([moment, None], kind)})
        file = add(
            tmp_path / name, "a.parquet", rows, parquet={"use_deprecated_int96_timestamps": old}
        )
        first = protocol("timestampNtz") if name == "ntz" else OLD
        commit(tmp_path / name, 0, first, table_metadata(fields(rows.schema)), file)
    assert rows_of(tmp_path / "ntz") == [(None,), (moment,)]
    assert rows_of(tmp_path / "utc") == [(None,), (moment.replace(tzinfo=UTC),)]


def _grown(table: Path, head: int = 3) -> list[dict]:
    """Commits 0 to 3 add a row each, the last takes the first away; return the state at 2."""
    files = [add(table, f"{n}.parquet", ROWS.slice(n, 1)) for n in range(4)]
    told = table_metadata(COLUMNS)
    commit(table, 0, OLD, told, files[0])
    commit(table, 1, files[1])
    commit(table, 2, files[2])
    if head == 3:
        commit(table, 3, files[3], remove(files[0]))
    return [OLD, told, *files[:3]]


def _forget(table: Path, *versions: int) -> None:
    for version in versions:
        (table / "_delta_log" / f"{version:020d}.json").unlink()


GROWN = as_rows(ROWS.slice(1))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("forgotten", [(), (0, 1), (0, 1, 2)])
def test_a_log_behind_a_checkpoint_is_read(
    tmp_path: Path, parts: int, forgotten: tuple[int, ...]
) -> None:
    state = _grown(tmp_path)
    pieces = [state[:2], state[2:4], state[4:]]
    checkpoint(tmp_path, 2, *([state] if parts == 1 else pieces))
    _forget(tmp_path, *forgotten)
    assert rows_of(tmp_path) == GROWN


def test_a_log_that_ends_at_its_checkpoint_is_read(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2, _grown(tmp_path, head=2))
    _forget(tmp_path, 0, 1, 2)
    assert rows_of(tmp_path) == as_rows(ROWS.slice(0, 3))


def test_a_lost_part_of_a_checkpoint_or_a_lost_commit_is_no_reason_to_lose_rows(
    tmp_path: Path,
) -> None:
    state = _grown(tmp_path / "part")
    checkpoint(tmp_path / "part", 2, state[:2], state[2:4], state[4:])
    _forget(tmp_path / "part", 0, 1, 2)
    next((tmp_path / "part" / "_delta_log").glob("*.0000000002.0000000003.parquet")).unlink()
    assert "Invalid Checkpoint" in refused(tmp_path / "part")
    _grown(tmp_path / "gap")
    _forget(tmp_path / "gap", 1)
    assert "gap" in refused(tmp_path / "gap")


def test_compacted_logs_are_read_and_stand_in_for_nothing(tmp_path: Path) -> None:
    state = _grown(tmp_path)
    commit(tmp_path, 0, *state[3:], name=f"{1:020d}.{2:020d}.compacted")
    assert rows_of(tmp_path) == GROWN
    _forget(tmp_path, 1, 2)
    assert "gap" in refused(tmp_path)


def _partitioned(
    table: Path, kind: pa.DataType, *files: tuple[str, str | None]
) -> list[tuple[Any, ...]]:
    schema = pa.schema([("id", pa.int64()), ("p", kind)])
    added = [
        add(table, path, pa.table({"id": pa.array([n], pa.int64())}), partition={"p": value})
        for n, (path, value) in enumerate(files)
    ]
    commit(table, 0, OLD, table_metadata(fields(schema), partitions=["p"]), *added)
    return rows_of(table)


NULL = "p=__HIVE_DEFAULT_PARTITION__"


@pytest.mark.parametrize(
    ("kind", "files", "values"),
    [
        (
            pa.string(),
            [
                ("p=a%2Fb/1", "a/b"),
                ("p=100%25/2", "100%"),
                ("p=%2541/3", "%41"),
                ("p=a%3Db%3Ac/4", "a=b:c"),
                ("p=ä ö+&/5", "ä ö+&"),
                ("p=null/6", "null"),
                ("p=007/7", "007"),
                (f"{NULL}/8", None),
            ],
            ["a/b", "100%", "%41", "a=b:c", "ä ö+&", "null", "007", None],
        ),
        (pa.string(), [(f"{NULL}/1", "")], [None]),  # an empty text is a null, says the protocol
        (pa.int64(), [("p=7/1", "7"), ("p=-1/2", "-1"), (f"{NULL}/3", None)], [7, -1, None]),
        (pa.bool_(), [("p=true/1", "true"), ("p=false/2", "false")], [True, False]),
        (
            pa.timestamp("us", "UTC"),
            [("p=2026-01-02 03%3A04%3A05.678901/1", "2026-01-02 03:04:05.678901")],
            [datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)],
        ),
        (
            pa.timestamp("us", "UTC"),
            [("p=2026-01-02T03%3A04%3A05.000000Z/1", "2026-01-02T03:04:05.000000Z")],
            [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)],
        ),
    ],
)
def test_partition_values_are_read(tmp_path: Path, kind: Any, files: Any, values: list) -> None:
    found = _partitioned(tmp_path, kind, *((f"{path}.parquet", value) for path, value in files))
    assert found == sorted(enumerate(values), key=repr)


@pytest.mark.parametrize(
    "file",
    [
        ("a.parquet", "x"),
        ("aB/a.parquet", "x"),
        ("p=y/a.parquet", "x"),
        ("p=y/a.parquet", None),
        ("p=/a.parquet", ""),
    ],
)
def test_partitions_that_polars_would_take_from_other_folders_are_refused(
    tmp_path: Path, file: tuple[str, str | None]
) -> None:
    with pytest.raises(DataError, match=r"would be misread: .*partition"):
        _partitioned(tmp_path, pa.string(), file)


@pytest.mark.parametrize("form", ["{}", "file://{}", "file:{}", "s3:/{}", "../other/a.parquet"])
def test_a_shallow_clone_is_refused(tmp_path: Path, form: str) -> None:
    source, clone = tmp_path / "other", tmp_path / "clone"
    file = add(source, "a.parquet", ROWS)
    file["add"]["path"] = form.format(source / "a.parquet")
    commit(clone, 0, OLD, table_metadata(COLUMNS), file)
    assert "shallow clone" in refused(clone)


def test_files_from_before_a_column_and_with_other_columns_are_read(tmp_path: Path) -> None:
    commit(tmp_path, 0, OLD, table_metadata(COLUMNS[:1]), add(tmp_path, "0", ROWS.select(["id"])))
    more = ROWS.append_column("dropped", ROWS["id"])
    narrow = ROWS.set_column(0, "id", ROWS["id"].cast(pa.int32()))
    files = [add(tmp_path, "1", more.select(["dropped", "name", "id"])), add(tmp_path, "2", narrow)]
    commit(tmp_path, 1, table_metadata(COLUMNS), *files)
    empty = [(number, None) for number in (1, 2, 3, 4)]
    assert rows_of(tmp_path) == sorted([*empty, *as_rows(ROWS), *as_rows(ROWS)], key=repr)


def test_a_file_that_was_taken_away_and_added_again_counts_once(tmp_path: Path) -> None:
    file = add(tmp_path, "a.parquet", ROWS)
    commit(tmp_path, 0, OLD, table_metadata(COLUMNS), file)
    commit(tmp_path, 1, file)
    assert rows_of(tmp_path) == as_rows(ROWS)
    commit(tmp_path, 2, remove(file))
    assert rows_of(tmp_path) == []
    commit(tmp_path, 3, file)
    changes = {
        "path": "_change_data/x.parquet",
        "partitionValues": {},
        "size": 1,
        "dataChange": False,
    }
    commit(tmp_path, 4, {"cdc": changes})
    assert rows_of(tmp_path) == as_rows(ROWS)


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("decimal(10,2)", pa.array([Decimal("1.50")], pa.decimal128(10, 2))),
        ("binary", pa.array([b"x"])),
    ],
)
def test_a_type_that_no_contract_has_is_refused(tmp_path: Path, kind: str, array: pa.Array) -> None:
    column = {"name": "v", "type": kind, "nullable": True, "metadata": {}}
    file = add(tmp_path, "a.parquet", pa.table({"v": array}))
    commit(tmp_path, 0, OLD, table_metadata([column]), file)
    assert "column 'v' is a" in refused(tmp_path)


def test_the_fingerprint_is_of_the_rows_whoever_wrote_them(tmp_path: Path) -> None:
    plain(tmp_path / "theirs")
    pl.DataFrame(ROWS).write_delta(tmp_path / "ours")
    assert pin(str(tmp_path / "theirs")).fingerprint == pin(str(tmp_path / "ours")).fingerprint
