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
from mlcicd_assets.ml.spec import TimeColumn

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
        {
            **VALUES,
            "id": -2,
            "amount": -1000.0,
            "name": 'a "b",\nc',
            "online": False,
            "known_at": None,
        },
    ]


def test_line_ends_within_quotes_survive_in_large_files(read_csv: Read) -> None:
    # More than one block of the CSV reader (1 MiB): a block border falls within quotes.
    text = "\n" * 100
    table = read_csv(HEADER + ROW.replace("x", f'"{text}"') * 10_000)
    assert table["name"].to_pylist() == [text] * 10_000


def test_columns_may_come_in_any_order(read_csv: Read) -> None:
    names, values = HEADER.strip().split(","), ROW.strip().split(",")
    text = f"{','.join(names[::-1])}\n{','.join(values[::-1])}\n"
    assert read_csv(text).to_pylist() == [VALUES]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bom_and_line_ends_do_not_matter(read_csv: Read, start: bytes, end: str) -> None:
    content = start + (HEADER + ROW).replace("\n", end).encode()
    assert read_csv(content).to_pylist() == [VALUES]


def test_a_header_alone_is_a_file_of_no_rows(read_csv: Read) -> None:
    for text in (HEADER, HEADER.strip()):
        table = read_csv(text)
        assert (table.schema, table.num_rows) == (SCHEMA, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\n", "is empty"),
        ((HEADER + ROW).encode() + b"\0", "NUL bytes"),
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
        (HEADER.replace("name", "Name"), "'Name' is not expected"),
        (HEADER.replace("name", "id"), "'id' occurs twice"),
        (HEADER.replace("name", " name"), "' name' is not expected"),
    ],
)
def test_another_header_is_refused(read_csv: Read, header: str, message: str) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        read_csv(header)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", "12.0"),
        ("id", "1e3"),
        ("id", " 1"),
        ("id", "0x1F"),
        ("id", "99999999999999999999"),
        ("id", "true"),
        ("amount", "1,5"),
        ("amount", "12 EUR"),
        ("amount", "0x1F"),
        ("online", "1"),
        ("online", "yes"),
        ("at", "2024-03-01"),
        ("at", "2024-02-30T10:00:00"),
        ("at", "2024-03-01T25:00:00"),
        ("at", "1709287200"),
        ("at", "2024-03-01T10:00:00.1234567"),
        ("at", "0000-01-01T00:00:00"),
        ("known_at", "01.03.2024 10:00"),
    ],
)
def test_no_text_is_forced_into_a_type(read_csv: Read, column: str, value: str) -> None:
    fields = dict(zip(SCHEMA.names, ROW.strip().split(","), strict=True))
    bad = ",".join({**fields, column: f'"{value}"'}.values())
    with pytest.raises(SchemaMismatch) as error:
        read_csv(HEADER + ROW + bad + "\n")
    assert f"x.csv, column '{column}': '{value}' in data row 2 (and 0 more)" in str(error.value)


@pytest.mark.parametrize(
    ("text", "time", "moment"),
    [
        ("2024-03-01T10:00:00Z", {"zone": "Asia/Tokyo"}, MOMENT),
        ("2024-03-01T12:00:00+02:00", {}, MOMENT),
        ("2024-03-01 05:00:00.000001-0500", {}, MOMENT.replace(microsecond=1)),
        ("2024-03-01T19:00:00", {"zone": "Asia/Tokyo"}, MOMENT),
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
        ("id", pa.array([7], pa.int8()), 7),
        ("id", pa.array([7], pa.uint32()), 7),
        ("amount", pa.array([1.5], pa.float32()), 1.5),
        ("name", pa.array(["x"], pa.large_string()), "x"),
        ("name", pa.array(["x"], pa.string_view()), "x"),
        ("name", pa.array(["x"]).dictionary_encode(), "x"),
        ("at", pa.array([1709287200], pa.timestamp("s")), MOMENT),
        ("at", pa.array([1709287200000], pa.timestamp("ms", "America/Lima")), MOMENT),
        ("at", pa.array([1709287200000000000], pa.timestamp("ns", "+02:00")), MOMENT),
        ("at", pa.array(["2024-03-01T10:00:00Z"]), MOMENT),
        ("known_at", pa.array([1709337600], pa.timestamp("s")), DAY_LATER),
        ("name", pa.array([None], pa.string()), None),
    ],
)
def test_the_allowed_normalisations_of_parquet(
    read_parquet: Read, name: str, array: pa.Array, value: Any
) -> None:
    table = read_parquet(**{name: array})
    assert table.schema.field(name) == SCHEMA.field(name)
    assert table[name].to_pylist() == [value]


def test_naive_parquet_times_are_in_the_zone_of_the_event_time(read_parquet: Read) -> None:
    naive = pa.array([datetime(2024, 3, 1, 19)], pa.timestamp("ms"))
    row = read_parquet(TimeColumn(column="at", zone="Asia/Tokyo"), at=naive, known_at=naive)
    assert row.to_pylist()[0]["at"] == MOMENT
    assert row.to_pylist()[0]["known_at"] == MOMENT.replace(hour=19)


def test_integer_epochs_of_parquet(read_parquet: Read) -> None:
    seconds = TimeColumn(column="at", format="epoch_s")
    assert read_parquet(seconds, at=pa.array([1709287200], pa.int32()))["at"].to_pylist() == [
        MOMENT
    ]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("id", pa.array([1], pa.uint64())),
        ("id", pa.array([1.0])),
        ("id", pa.array(["1"])),
        ("id", pa.array([True])),
        ("amount", pa.array([1])),
        ("amount", pa.array(["1.5"])),
        ("amount", pa.array([None], pa.null())),
        ("name", pa.array([1])),
        ("name", pa.array([b"x"])),
        ("online", pa.array([1])),
        ("online", pa.array(["true"])),
        ("at", pa.array([1709287200])),
        ("at", pa.array([datetime(2024, 3, 1, tzinfo=UTC).date()])),
        ("at", pa.array([1709287200000000001], pa.timestamp("ns", "UTC"))),
        ("at", pa.array([2**50], pa.timestamp("s"))),
        ("at", pa.array([2**62], pa.timestamp("us"))),
        ("known_at", pa.array(["soon"])),
    ],
)
def test_nothing_else_is_normalised(read_parquet: Read, name: str, array: pa.Array) -> None:
    with pytest.raises(SchemaMismatch, match=f"x.parquet.*column '{name}'"):
        read_parquet(**{name: array})


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_what_is_no_parquet_is_unreadable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(UnreadableFile, match="deliver it again"):
        read_file(tmp_path / "x.parquet", schema=SCHEMA, time=TIME)


def test_a_cut_parquet_file_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": pa.array(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnreadableFile):
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
    names = [
        "b.csv",
        "a.parquet",
        ".c.csv",
        "_d.csv",
        "e.csv.tmp",
        "f.parquet.part",
        "g.txt",
        "H.CSV",
    ]
    for name in names:
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
