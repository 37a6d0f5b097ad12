"""Landing files: which are there, what they contain, as the contract's exact Arrow types.

Parquet files may differ from the contract only in the ways of this list, none of which can lose
or invent anything; all else is refused:

- narrower integers (int8 to int32, uint8 to uint32) become int64
- float32 becomes float64
- large_string, string_view and dictionary-encoded strings become string
- timestamps of any unit and zone become UTC microseconds, those without a zone being read in
  `time.zone` (the event time) or UTC (others); nanoseconds that do not fit are refused
- times may also be text: ISO 8601, the event time as `time.format` says (or an integer, if that
  counts an epoch)

CSV files (UTF-8, with or without BOM, comma, RFC 4180 quotes) are text, read as the declared
types: integers and decimal numbers as digits, booleans as true or false, timestamps as ISO 8601.
An empty field is null.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcicd_assets.ml.contract import check_schema
from mlcicd_assets.ml.errors import SchemaMismatch, UnreadableFile
from mlcicd_assets.ml.spec import TimeColumn

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

SUFFIXES = (".csv", ".parquet")
BOM = b"\xef\xbb\xbf"
DIGITS = r"^[+-]?\d+$"
TEXT_FORMS = {
    "int64": (DIGITS, "whole numbers such as 12"),
    "double": (
        r"^[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|(?i:nan|inf|infinity))$",
        "numbers such as 12.5",
    ),
    "bool": (r"^(?i:true|false)$", "true or false"),
}
ISO = (
    r"^(?<day>\d{4}-\d\d-\d\d)[T ](?<minute>\d\d:\d\d)(?<second>:\d\d(?:\.\d{1,6})?)?"
    r"(?<offset>Z|[+-]\d\d:?\d\d)?$"
)
EPOCHS = {"epoch_s": 1_000_000, "epoch_ms": 1_000}
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
    paths = [path for path in sorted(folder.iterdir()) if _is_landed(path)]
    stats = [(path, path.stat()) for path in paths]
    return tuple(
        LandingFile(path, path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats
    )


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_file(path: Path, *, schema: "pa.Schema", time: TimeColumn | None) -> "pa.Table":
    """Read a landing file strictly, as exactly `schema`; `time` is for a file of events.

    Raises:
        SchemaMismatch: columns, types or values are not those of the contract.
        UnreadableFile: the file as a whole cannot be parsed.
    """
    if path.suffix.lower() == ".csv":
        table = _typed(_read_csv(path, schema), schema, time=time, what=str(path))
    else:
        table = _read_parquet(path)
    return normalise(table, schema=schema, time=time, what=str(path))


def normalise(
    table: "pa.Table", *, schema: "pa.Schema", time: TimeColumn | None, what: str
) -> "pa.Table":
    """Apply the allowed normalisations (see the module), then insist on exactly `schema`.

    Raises:
        SchemaMismatch: columns, types or values differ; names `what` and the column.
    """
    import pyarrow as pa

    _check_names(table, schema, what=what)
    columns = [
        _normal(table[field.name], field, rule=_time_rule(field, time), what=_at(what, field))
        for field in schema
    ]
    found = pa.table(columns, names=schema.names)
    check_schema(found.schema, schema, what=what)
    return found


def _is_landed(path: Path) -> bool:
    hidden = path.name.startswith((".", "_"))
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()


def _at(what: str, field: "pa.Field") -> str:
    return f"{what}, column '{field.name}'"


def _time_rule(field: "pa.Field", time: TimeColumn | None) -> TimeColumn:
    """How times of a column are written: as the spec says, else ISO in UTC."""
    is_event_time = time is not None and field.name == time.column
    return time if time is not None and is_event_time else TimeColumn(column=field.name)


def _check_names(table: "pa.Table", schema: "pa.Schema", *, what: str) -> None:
    import pyarrow as pa

    known = {field.name: field for field in schema}
    found = [known.get(name, pa.field(name, pa.null())) for name in table.column_names]
    check_schema(pa.schema(found), schema, what=what)


def _read_csv(path: Path, schema: "pa.Schema") -> "pa.Table":
    """Read every field as text: what a text means is decided by the contract, not guessed."""
    import pyarrow as pa
    from pyarrow import csv

    content = path.read_bytes().removeprefix(BOM)
    if not content.strip():
        raise UnreadableFile(f"{path} is empty: a file needs at least its header line")
    if b"\0" in content:
        raise UnreadableFile(f"{path} contains NUL bytes: deliver it again as UTF-8 text")
    options = csv.ConvertOptions(
        column_types=dict.fromkeys(schema.names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    quotes = csv.ParseOptions(newlines_in_values=True)
    try:
        content.decode()
        # A header without the end of its line would be taken for an empty file.
        lines = io.BytesIO(content + b"\n")
        return csv.read_csv(lines, parse_options=quotes, convert_options=options)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UnreadableFile(f"{path} is not CSV in UTF-8: {error}; correct the file") from error


def _read_parquet(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (pa.ArrowException, OSError) as error:
        raise UnreadableFile(
            f"{path} is no whole Parquet file: {error}; deliver it again"
        ) from error


def _typed(
    table: "pa.Table", schema: "pa.Schema", *, time: TimeColumn | None, what: str
) -> "pa.Table":
    """Parse the texts of numbers and booleans; times stay text unless they count an epoch."""
    import polars as pl
    import pyarrow as pa

    _check_names(table, schema, what=what)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in schema:
        kind = str(field.type)
        if pa.types.is_timestamp(field.type) and _time_rule(field, time).format in EPOCHS:
            kind = "int64"
        columns[field.name] = (
            _parsed(pl.Series(table[field.name]), kind, what=_at(what, field)).to_arrow()
            if kind in TEXT_FORMS
            else table[field.name]
        )
    return pa.table(columns)


def _parsed(text: "pl.Series", kind: str, *, what: str) -> "pl.Series":
    import polars as pl

    pattern, form = TEXT_FORMS[kind]
    fits = text.str.contains(pattern)
    clean = text.to_frame("text").select(pl.when(fits).then("text"))["text"]
    if kind == "bool":
        values = clean.str.to_lowercase() == "true"
    else:
        values = clean.cast(pl.Int64 if kind == "int64" else pl.Float64, strict=False)
    _refuse_unread(text, values, form=form, what=what)
    return values


def _refuse_unread(text: "pl.Series", values: "pl.Series", *, form: str, what: str) -> None:
    unread = text.is_not_null() & values.is_null()
    if unread.any():
        row = unread.arg_max() or 0
        value = text.to_physical()[row]
        raise SchemaMismatch(
            f"{what}: '{str(value)[:40]}' in data row {row + 1} (and {unread.sum() - 1} more) "
            f"cannot be read as {form}; correct the file, or the contract"
        )


def _normal(
    column: "pa.ChunkedArray", field: "pa.Field", *, rule: TimeColumn, what: str
) -> "pa.ChunkedArray | pa.Array":
    """Bring a column to its type where the list allows it; else return it as it is."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_string(kind):
        column = column.cast(pa.string())
    try:
        if pa.types.is_timestamp(field.type):
            return _moments(column, rule, what=what)
        return column.cast(field.type) if _is_lossless(column.type, field.type) else column
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(f"{what}: {error}; correct the file") from error


def _is_lossless(found: "pa.DataType", wanted: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_integer(wanted):
        return pa.types.is_integer(found) and not pa.types.is_uint64(found)
    return pa.types.is_float64(wanted) and pa.types.is_float32(found)


def _moments(
    column: "pa.ChunkedArray", rule: TimeColumn, *, what: str
) -> "pa.ChunkedArray | pa.Array":
    """Read times as UTC microseconds, or return a column that holds none as it is."""
    import polars as pl
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        exact = column.cast(pa.timestamp("us", tz=None if kind.tz is None else "UTC"))
        given = pl.Series(exact)
        moments = given if kind.tz else _localised(given, rule.zone)
    elif pa.types.is_string(kind) and rule.format not in EPOCHS:
        given = pl.Series(column)
        moments = _iso(given, rule.zone) if rule.format == "iso" else _patterned(given, rule)
    elif _is_lossless(kind, pa.int64()) and rule.format in EPOCHS:
        given = pl.Series(column.cast(pa.int64()))
        unit = EPOCHS[rule.format]
        inside = given.is_between(FIRST_MOMENT // unit, LAST_MOMENT // unit)
        moments = (given.set(~inside, None) * unit).cast(pl.Datetime("us", "UTC"))
    else:
        return column
    numbers = moments.cast(pl.Int64)
    moments = moments.set(~numbers.is_between(FIRST_MOMENT, LAST_MOMENT), None)
    form = f"a time of format '{rule.format}' (zone {rule.zone}, years 1 to 9999)"
    _refuse_unread(given, moments, form=form, what=what)
    return moments.to_arrow()


def _localised(naive: "pl.Series", zone: str) -> "pl.Series":
    """Times that a change of the clock makes ambiguous or impossible become null."""
    local = naive.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    return local.dt.convert_time_zone("UTC")


def _iso(text: "pl.Series", zone: str) -> "pl.Series":
    import polars as pl

    parts = text.str.extract_groups(ISO).struct.unnest()
    day, minute, second, offset = (parts[name] for name in ("day", "minute", "second", "offset"))
    plain = day + "T" + minute + second.fill_null(":00")
    naive = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    exact = (plain + offset.str.replace("Z", "+0000")).str.to_datetime(
        "%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False
    )
    local = _localised(naive, zone).set(offset.is_not_null(), None)
    return pl.select(pl.coalesce(exact, local)).to_series()


def _patterned(text: "pl.Series", rule: TimeColumn) -> "pl.Series":
    import polars as pl

    moments = text.str.to_datetime(rule.format, time_unit="us", strict=False)
    is_local = moments.dtype == pl.Datetime("us")
    return _localised(moments, rule.zone) if is_local else moments
