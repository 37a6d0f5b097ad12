"""Landing files are read exactly or refused with a message that names the fault."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcicd_assets.io.landing import file_digest, list_files, read_file
from mlcicd_assets.ml.errors import DataError, SchemaMismatch, UnreadableFile
from mlcicd_assets.ml.sections import TimeColumn

STAMP = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("amount", pa.float64()),
        ("name", pa.string()),
        ("online", pa.bool_()),
        ("at", STAMP),
        ("known_at", STAMP),
    ]
)
HEADER = "id,amount,name,online,at,known_at\n"
ROW = "1,2.5,x,true,2024-03-01T10:00:00,2024-03-02T00:00:00\n"
TIME = TimeColumn(column="at")
MOMENT = datetime(2024, 3, 1, 10, tzinfo=UTC)
DAY_LATER = datetime(2024, 3, 2, tzinfo=UTC)
VALUES = {
    "id": 1, "amount": 2.5, "name": "x", "online": True, "at": MOMENT, "known_at": DAY_LATER
}  # fmt: skip

Read = Callable[..., pa.Table]


@pytest.fixture
def read_csv(tmp_path: Path) -> Read:
    def read(text: str | bytes, time: TimeColumn = TIME) -> pa.Table:
        path = tmp_path / "x.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_file(path, schema=SCHEMA, time=time)

    return read


@pytest.fixture
def read_parquet(tmp_path: Path) -> Read:
    def read(time: TimeColumn = TIME, **columns: pa.Array) -> pa.Table:
        table = pa.table({"id": pa.array([1]), **columns})
        schema = pa.schema([SCHEMA.field(name) for name in table.column_names])
        pq.write_table(table, tmp_path / "x.parquet")
        return read_file(tmp_path / "x.parquet", schema=schema, time=time)

    return read


def test_csv_becomes_exactly_the_schema(read_csv: Read) -> None:
    table = read_csv(HEADER + ROW + ",,,,,\n" + '-2,-1e3,"a ""b"",\nc",False,2024-03-01 10:00,\n')
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        VALUES,
        dict.fromkeys(SCHEMA.names),
        dict(zip(SCHEMA.names, (-2, -1000.0, 'a "b",\nc', False, MOMENT, None), strict=True)),
    ]


def test_line_ends_within_quotes_survive_in_large_files(read_csv: Read) -> None:
    # More than one block of the CSV reader (1 MiB): a block border falls within quotes.
    text = "\n" * 100
    table = read_csv(HEADER + ROW.replace("x", f'"{text}"') * 10_000)
    assert table["name"].to_pylist() == [text] * 10_000


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bom_line_ends_and_order_of_columns_do_not_matter(
    read_csv: Read, start: bytes, end: str
) -> None:
    lines = [",".join(line.split(",")[::-1]) for line in (HEADER + ROW).splitlines()]
    assert read_csv(start + end.join([*lines, ""]).encode()).to_pylist() == [VALUES]


def test_a_header_alone_is_a_file_of_no_rows(read_csv: Read) -> None:
    table = read_csv(HEADER)
    assert (table.schema, table.num_rows) == (SCHEMA, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Empty CSV file"),
        (b"\xef\xbb\xbf\n", "Empty CSV file"),
        ((HEADER + ROW).encode() + b"\0", "Expected 6 columns"),
        ((HEADER + ROW.replace("x", "\xe9")).encode("latin-1"), "UTF-8"),
        (HEADER.replace("name", "n\xe9").encode("latin-1"), "UTF-8"),
        ((HEADER + ROW + "1,2\n").encode(), "Expected 6 columns"),
        ((HEADER + ROW.replace("x", "x,y")).encode(), "Expected 6 columns"),
        ((HEADER + ROW.replace("x", '"x')).encode(), "x.csv is not CSV"),
    ],
)
def test_a_broken_csv_file_is_unreadable(read_csv: Read, content: bytes, message: str) -> None:
    with pytest.raises(UnreadableFile, match=message):
        read_csv(content)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("name,", ""), "'name' is missing"),
        (HEADER.replace("name", "Name"), "'Name' is null and must be left out"),
        (HEADER.replace("name", "id"), "'id' is int64, int64 and must be int64"),
        (HEADER.replace("name", " name"), "' name' is null and must be left out"),
    ],
)
def test_another_header_is_refused(read_csv: Read, header: str, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        read_csv(header)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "12.0"),
        ("id", "99999999999999999999"),
        ("amount", "1,5"),
        ("amount", "12 EUR"),
        ("online", "yes"),
        ("at", "2024-02-30T10:00:00"),
        ("at", "2024-03-01T10:00:00.1234567"),
        ("at", "2024-03-01T10:00:00Z"),  # the other row has no offset
        ("at", "0000-01-01T00:00:00"),
        ("known_at", "01.03.2024 10:00"),
    ],
)
def test_no_text_is_forced_into_a_type(read_csv: Read, column: str, value: str) -> None:
    fields = dict(zip(SCHEMA.names, ROW.strip().split(","), strict=True))
    bad = ",".join((fields | {column: f'"{value}"'}).values())
    with pytest.raises(SchemaMismatch, match=rf"x\.csv, column '{column}': .*; correct the file"):
        read_csv(HEADER + ROW + bad + "\n")


@pytest.mark.parametrize(
    ("text", "time", "moment"),
    [
        ("2024-03-01T10:00:00Z", {"zone": "Asia/Tokyo"}, MOMENT),
        ("2024-03-01T12:00:00+02:00", {}, MOMENT),
        ("2024-03-01 05:00:00.000001-0500", {}, MOMENT.replace(microsecond=1)),
        ("2024-03-01T19:00:00", {"zone": "Asia/Tokyo"}, MOMENT),
        ("2024-03-02", {}, DAY_LATER),
        ("1709287200", {"format": "epoch_s"}, MOMENT),
        ("1709287200001", {"format": "epoch_ms"}, MOMENT.replace(microsecond=1000)),
        ("01.03.2024 11:00", {"format": "%d.%m.%Y %H:%M", "zone": "Europe/Paris"}, MOMENT),
        ("01.03.2024 11:00 +0100", {"format": "%d.%m.%Y %H:%M %z", "zone": "Asia/Tokyo"}, MOMENT),
    ],
)
def test_event_times_become_utc(
    read_csv: Read, text: str, time: dict[str, str], moment: datetime
) -> None:
    rule = TimeColumn(column="at", **time)
    row = read_csv(HEADER + ROW.replace("2024-03-01T10:00:00", text), rule).to_pylist()[0]
    # Labels' known_at stays ISO in UTC, whatever the event time's own form is.
    assert (row["at"], row["known_at"]) == (moment, DAY_LATER)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-03-31T02:30:00", {"zone": "Europe/Paris"}),  # left out by the clock
        ("2024-10-27T02:30:00", {"zone": "Europe/Paris"}),  # twice
        ("99999999999999999", {"format": "epoch_s"}),
        ("1709287200.5", {"format": "epoch_s"}),
        ("2024-03-01T10:00:00", {"format": "epoch_ms"}),
        ("2024-03-01T10:00:00", {"format": "%d.%m.%Y"}),
    ],
)
def test_doubtful_event_times_are_refused(read_csv: Read, text: str, time: dict[str, str]) -> None:
    with pytest.raises(SchemaMismatch, match="column 'at'"):
        read_csv(HEADER + ROW.replace("2024-03-01T10:00:00", text), TimeColumn(column="at", **time))


@pytest.mark.parametrize(
    ("name", "array", "value"),
    [
        ("id", pa.array([7], pa.uint32()), 7),
        ("amount", pa.array([1.5], pa.float32()), 1.5),
        ("name", pa.array(["x"], pa.large_string()), "x"),
        ("name", pa.array(["x"], pa.string_view()), "x"),
        ("name", pa.array(["x"]).dictionary_encode(), "x"),
        ("at", pa.array([1709287200], pa.timestamp("s")), MOMENT),
        ("at", pa.array([1709287200000], pa.timestamp("ms", "America/Lima")), MOMENT),
        ("at", pa.array([1709287200000000000], pa.timestamp("ns", "+02:00")), MOMENT),
        ("at", pa.array(["2024-03-01T10:00:00Z"]), MOMENT),
    ],
)
def test_the_allowed_normalisations_of_parquet(
    read_parquet: Read, name: str, array: pa.Array, value: Any
) -> None:
    table = read_parquet(**{name: array})
    assert table.schema.field(name) == SCHEMA.field(name)
    assert table[name].to_pylist() == [value]


def test_naive_and_integer_times_of_parquet_are_read_as_the_spec_says(read_parquet: Read) -> None:
    naive = pa.array([datetime(2024, 3, 1, 19)], pa.timestamp("ms"))
    row = read_parquet(TimeColumn(column="at", zone="Asia/Tokyo"), at=naive, known_at=naive)
    assert row.to_pylist()[0]["at"] == MOMENT
    assert row.to_pylist()[0]["known_at"] == MOMENT.replace(hour=19)
    seconds = pa.array([1709287200], pa.int32())
    epoch = read_parquet(TimeColumn(column="at", format="epoch_s"), at=seconds)
    assert epoch["at"].to_pylist() == [MOMENT]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("id", pa.array([1], pa.uint64())),
        ("id", pa.array([1.0])),
        ("amount", pa.array([1])),
        ("amount", pa.array(["1.5"])),
        ("name", pa.array([1])),
        ("online", pa.array([1])),
        ("at", pa.array([1709287200])),
        ("at", pa.array([datetime(2024, 3, 1, tzinfo=UTC).date()])),
        ("at", pa.array([1709287200000000001], pa.timestamp("ns", "UTC"))),
        ("at", pa.array([2**62], pa.timestamp("us"))),
    ],
)
def test_nothing_else_is_normalised(read_parquet: Read, name: str, array: pa.Array) -> None:
    with pytest.raises(SchemaMismatch, match=f"x.parquet.*column '{name}'"):
        read_parquet(**{name: array})


def test_what_is_no_whole_parquet_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": pa.array(range(1000))}), path)
    for content in (b"", b"PAR1", b"not parquet at all", path.read_bytes()[:-20]):
        path.write_bytes(content)
        with pytest.raises(UnreadableFile, match="deliver it again"):
            read_file(path, schema=SCHEMA, time=TIME)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='1,"\n\r.xe+-:TZ \0', max_size=60).map(str.encode))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(HEADER.encode() + ROW.encode() + tail)
    try:
        table = read_file(path, schema=SCHEMA, time=TIME)
    except DataError:
        return
    assert table.schema == SCHEMA


def test_list_files_sees_only_finished_files_by_name(tmp_path: Path) -> None:
    hidden = [".c.csv", "_d.csv", "e.csv.tmp", "f.parquet.part", "g.txt"]
    for name in ("b.csv", "a.parquet", "H.CSV", *hidden):
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "folder.csv").mkdir()
    os.utime(tmp_path / "b.csv", ns=(1, 17))
    files = list_files(tmp_path)
    assert [file.name for file in files] == ["H.CSV", "a.parquet", "b.csv"]
    assert (files[2].path, files[2].size, files[2].mtime_ns) == (tmp_path / "b.csv", 5, 17)
    assert list_files(tmp_path / "nowhere") == ()


def test_file_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "x") == known
