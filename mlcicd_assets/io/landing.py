"""Landing files: which are there, what they contain, as the contract's exact Arrow types.

A Parquet file or a foreign table may differ from the contract only in the ways of this list, none
of which can lose or invent anything; all else is refused:

- narrower integers (int8 to int32, uint8 to uint32) become int64
- float32 becomes float64
- large_string, string_view and dictionary-encoded strings become string
- timestamps of any unit and zone become UTC microseconds, those without a zone being read in
  `time.zone` (the event time) or UTC (others); nanoseconds that do not fit are refused
- times may also be text: ISO 8601, the event time as `time.format` says (or an integer, if that
  counts an epoch); either every text of a column carries an offset or none does

CSV files (UTF-8, with or without BOM, comma, RFC 4180 quotes) are text, read as the declared types
by Arrow's own strict parsers (to which 0x1F is an integer, 1 is true and a date its midnight). An
empty field is null.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcicd_assets.ml.contract import check_schema
from mlcicd_assets.ml.errors import DataError, SchemaMismatch, UnreadableFile
from mlcicd_assets.ml.sections import TimeColumn

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet")
NARROWER = {
    "int64": {"int8", "int16", "int32", "uint8", "uint16", "uint32"},
    "double": {"float"},
}
EPOCHS = {"epoch_s": "s", "epoch_ms": "ms"}
MOST_ROWS = 100_000_000  # of a file
MORE_COLUMNS = 100  # than the contract has; up to so many are named
OFFSET = r":.*(Z|[+-]\d\d(:?\d\d)?)$"
# Years 1 to 9999, in microseconds: what Python's datetime can hold.
FIRST_MOMENT, LAST_MOMENT = -62_135_596_800_000_000, 253_402_300_799_999_999


@dataclass(frozen=True)
class LandingFile:
    """One file of a landing folder; size in bytes."""

    path: Path
    name: str
    size: int
    mtime_ns: int


def list_files(folder: Path) -> tuple[LandingFile, ...]:
    """Return the CSV and Parquet files of a folder by name; none when it does not exist.

    Hidden and unfinished files (`.x`, `_x`, `x.tmp`, `x.part`) are left out.
    """
    if not folder.is_dir():
        return ()
    found: list[LandingFile] = []
    for path in sorted(folder.iterdir()):
        is_landed = path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "_"))
        if is_landed and path.is_file():
            stat = path.stat()
            found.append(LandingFile(path, path.name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(
    path: Path, *, schema: "pa.Schema", time: TimeColumn | None, most: int = MOST_ROWS
) -> "pa.Table":
    """Read a landing file strictly, as exactly `schema`; `time` is for a file of events.

    Raises:
        SchemaMismatch: columns, types or values are not those of the contract.
        UnreadableFile: the file as a whole cannot be parsed, or claims more than `most` rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    is_csv = path.suffix.lower() == ".csv"
    try:
        if is_csv:
            # Every field as text: what a text means is decided by the contract, not guessed.
            texts = csv.ConvertOptions(
                column_types=dict.fromkeys(schema.names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            )
            quotes = csv.ParseOptions(newlines_in_values=True)
            table = csv.read_csv(path, parse_options=quotes, convert_options=texts)
        else:
            with pq.ParquetFile(path) as file:
                # A few bytes may stand for any number of rows.
                if (rows := file.metadata.num_rows) > most:
                    raise UnreadableFile(
                        f"{path} holds {rows:,} rows: deliver at most {most:,} in a file, or raise "
                        "contract.rows.max"
                    )
                table = file.read()
        _ = table.column_names  # decodes them
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "CSV in UTF-8" if is_csv else "Parquet"
        raise UnreadableFile(f"{path} is not {kind}: {error}; deliver it again") from error
    if table.num_columns > len(schema) + MORE_COLUMNS:
        raise UnreadableFile(f"{path} has {table.num_columns:,} columns; deliver it again")
    return normalise(table, schema=schema, time=time, what=str(path), is_text=is_csv)


def normalise(
    table: "pa.Table",
    *,
    schema: "pa.Schema",
    time: TimeColumn | None,
    what: str,
    is_text: bool = False,
) -> "pa.Table":
    """Apply the allowed normalisations (see the module), then insist on exactly `schema`.

    `time` says how the event time is written; with `is_text` every value is text, as in CSV.

    Raises:
        SchemaMismatch: columns, types or values differ; names `what` and the column.
    """
    import polars as pl
    import pyarrow as pa

    wanted = {field.name: field.type for field in schema}
    columns: list[pa.Array | pa.ChunkedArray] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name not in wanted:
            columns.append(column)
            continue
        rule = time if time is not None and time.column == name else TimeColumn(column=name)
        try:
            columns.append(_normal(column, wanted[name], rule=rule, is_text=is_text))
        except (pa.ArrowException, pl.exceptions.PolarsError, DataError) as error:
            reason = str(error).partition("\n")[0]
            raise SchemaMismatch(
                f"{what}, column '{name}': {reason}; correct the file, or the contract"
            ) from error
    found = pa.table(columns, names=table.column_names)
    check_schema(found.schema, schema, what=what)
    return found.select(schema.names)


def _normal(
    column: "pa.ChunkedArray", wanted: "pa.DataType", *, rule: TimeColumn, is_text: bool
) -> "pa.ChunkedArray | pa.Array":
    """Bring a column to its type where the list allows it; else return it as it is."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_string(kind):
        column = column.cast(pa.string())
    if pa.types.is_timestamp(wanted):
        return _moments(column, rule, is_text=is_text)
    is_lossless = is_text or str(column.type) in NARROWER.get(str(wanted), ())
    return column.cast(wanted) if is_lossless else column


def _moments(
    column: "pa.ChunkedArray", rule: TimeColumn, *, is_text: bool
) -> "pa.ChunkedArray | pa.Array":
    """Read times as UTC microseconds, or return a column that holds none as it is."""
    import polars as pl
    import pyarrow as pa

    is_string = pa.types.is_string(column.type)
    if rule.format in EPOCHS and (is_text or pa.types.is_integer(column.type)):
        column = column.cast(pa.int64()).cast(pa.timestamp(EPOCHS[rule.format], "UTC"))
    elif is_string and rule.format == "iso":
        has_offset = pl.Series(column).str.contains(OFFSET).any()
        column = column.cast(pa.timestamp("us", "UTC" if has_offset else None))
    elif is_string and rule.format not in EPOCHS:
        column = pl.Series(column).str.to_datetime(rule.format, time_unit="us").to_arrow()
    if not pa.types.is_timestamp(column.type):
        return column
    if column.type.tz is None:
        # Raises where a change of the clock makes a time ambiguous or impossible.
        local = pl.Series(column.cast(pa.timestamp("us"))).dt.replace_time_zone(rule.zone)
        column = local.dt.convert_time_zone("UTC").to_arrow()
    moments = column.cast(pa.timestamp("us", "UTC"))
    if not pl.Series(moments).cast(pl.Int64).is_between(FIRST_MOMENT, LAST_MOMENT).all():
        raise DataError("it has times outside the years 1 to 9999")
    return moments
