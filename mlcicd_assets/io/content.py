"""What is in a Delta table, by day: row counts and hash sums of each file, read once for ever.

The sums of the live files add up to the fingerprint of the table (ml/fingerprint.py), and tell
which days two versions differ in. A day is a UTC date, counted from 1970-01-01.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlcicd_assets.io.landing import normalise
from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.io.store import place_at, read
from mlcicd_assets.ml.contract import DAY
from mlcicd_assets.ml.errors import SchemaMismatch
from mlcicd_assets.ml.fingerprint import row_hash, schema_hash, write_fingerprint
from mlcicd_assets.ml.sections import TimeColumn

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

Days = dict[int, tuple[int, int]]  # rows, and the sum of their hashes mod 2^64
NO_DAY = -719_162  # of rows without a time: the first of the year 1
FILE = "__file"
FILES_AT_ONCE = 100
TOTALS = "*"  # in the place of a path


@dataclass(frozen=True)
class Content:
    """Rows and sums by day, and the days of each file (None: not known)."""

    schema: str
    days: Days
    files: Mapping[str, frozenset[int] | None]

    @property
    def rows(self) -> int:
        """Count all rows."""
        return sum(rows for rows, _ in self.days.values())

    @property
    def fingerprint(self) -> str:
        """Write the fingerprint of the whole table."""
        return write_fingerprint(
            self.rows, sum(sums for _, sums in self.days.values()), self.schema
        )


def content_of(
    table: "DeltaTable", clock: TimeColumn | None, memory: LedgerDatabase | None
) -> Content:
    """Add up the files of a table; only those that are not remembered are read.

    Without a `clock` all rows are of one day. Where files are new, but no commit since the last
    look changed rows (OPTIMIZE), the last totals hold, and nothing is read.
    """
    import polars as pl

    schema = pl.Schema(table.schema())
    recipe = f"{schema_hash(schema)}:{clock.model_dump_json() if clock else ''}"
    table_id, uris = str(table.metadata().id), table.file_uris()
    known = memory.file_sums(table_id, recipe) if memory else {}
    last: dict[str, Any] = json.loads(known.pop(TOTALS, "{}"))
    new = [uri for uri in uris if uri not in known]
    if new and last and row_changes(table.table_uri, last["version"], table.version()) == []:
        files = {uri: _keys(known[uri]) if uri in known else None for uri in uris}
        return Content(schema_hash(schema), _load(last["days"]), files)
    for first in range(0, len(new), FILES_AT_ONCE):
        read_now = _sums(table, new[first : first + FILES_AT_ONCE], clock, schema)
        known |= read_now
        if memory:
            memory.remember_file_sums(table_id, recipe, read_now)
    totals = _add(_load(json.loads(known[uri])) for uri in uris)
    if memory and table.version() > last.get("version", -1):
        told = {"version": table.version(), "days": totals}
        memory.remember_file_sums(table_id, recipe, {TOTALS: json.dumps(told)})
    return Content(schema_hash(schema), totals, {uri: _keys(known[uri]) for uri in uris})


def scan_days(
    table: "DeltaTable", content: Content, clock: TimeColumn | None, days: range | list[int] | None
) -> "pl.LazyFrame":
    """Return the rows of some days (None: of all) with their `DAY`; skips files without such.

    Files come by their first day: rows that were written in order are read in order.
    """
    import polars as pl

    uris = [
        uri
        for uri, held in sorted(content.files.items(), key=lambda file: min(file[1] or [NO_DAY]))
        if held is None or days is None or any(day in days for day in held)
    ]
    schema = pl.Schema(table.schema())
    rows = scan_files(table, uris).drop(FILE) if uris else pl.LazyFrame(schema=schema)
    dated = rows.with_columns(_day(clock, schema).alias(DAY))
    if days is None:
        return dated
    day = pl.col(DAY)
    is_range = isinstance(days, range)
    return dated.filter(day.is_between(days.start, days.stop - 1) if is_range else day.is_in(days))


def scan_files(table: "DeltaTable", uris: Sequence[str]) -> "pl.LazyFrame":
    """Scan some files of a table as Polars scans all of them, each row with its `FILE`."""
    import polars as pl

    schema, parts = pl.Schema(table.schema()), table.metadata().partition_columns
    return pl.scan_parquet(
        list(uris),
        schema={name: kind for name, kind in schema.items() if name not in parts},
        hive_schema={name: schema[name] for name in parts} or None,
        hive_partitioning=bool(parts),
        # As scan_delta: columns added later are null in older files.
        missing_columns="insert",
        extra_columns="ignore",
        cast_options=pl.ScanCastOptions(
            integer_cast="upcast",
            float_cast=["upcast", "downcast"],
            datetime_cast=["nanosecond-downcast", "millisecond-upcast", "convert-timezone"],
            categorical_to_string="allow",
        ),
        include_file_paths=FILE,
    )


def row_changes(uri: str, after: int, until: int) -> list[dict[str, Any]] | None:
    """Return what each commit that may have changed rows says of itself; None: it is not known."""
    log, found = place_at(uri) / "_delta_log", list[dict[str, Any]]()
    if until < after:
        return None
    for version in range(after + 1, until + 1):
        lines = (read(log / f"{version:020d}.json") or b"").splitlines()
        try:
            actions: list[dict[str, Any]] = [json.loads(line) for line in lines]
        except ValueError:
            return None
        if not actions:
            return None
        told = [one for action in actions for kind, one in action.items() if kind in _CHANGES]
        if any(one.get("dataChange", True) for one in told):
            found.append(next((a["commitInfo"] for a in actions if "commitInfo" in a), {}))
    return found


_CHANGES = {"add", "remove", "metaData"}


def _sums(
    table: "DeltaTable", uris: Sequence[str], clock: TimeColumn | None, schema: "pl.Schema"
) -> dict[str, str]:
    import polars as pl

    hashes = row_hash(dict(sorted(schema.items()))).cast(pl.Int128)
    by_day = scan_files(table, uris).group_by(FILE, _day(clock, schema).alias(DAY))
    sums = by_day.agg(rows=pl.len(), sum=hashes.sum()).collect(engine="streaming")
    found: dict[str, dict[int, tuple[int, int]]] = {uri: {} for uri in uris}
    for uri, day, rows, total in sums.iter_rows():
        found[uri][day] = (rows, total % 2**64)
    return {uri: json.dumps(days) for uri, days in found.items()}


def _day(clock: TimeColumn | None, schema: "pl.Schema") -> "pl.Expr":
    import polars as pl

    kind = schema.get(clock.column) if clock else None
    if clock is None or kind is None:
        return pl.lit(NO_DAY, pl.Int32)
    moment, utc = pl.col(clock.column), pl.Datetime("us", "UTC")
    if not isinstance(kind, pl.Datetime) or kind.time_zone is None:
        moment = moment.map_batches(partial(_moments, clock), utc, is_elementwise=True)
    return moment.dt.convert_time_zone("UTC").dt.date().cast(pl.Int32).fill_null(NO_DAY)


def _moments(clock: TimeColumn, values: "pl.Series") -> "pl.Series":
    """Read times as the contract will; what it refuses has no day."""
    import polars as pl
    import pyarrow as pa

    schema = pa.schema([(clock.column, pa.timestamp("us", "UTC"))])
    table = pa.table({clock.column: values.to_arrow()})
    try:
        told = normalise(table, schema=schema, time=clock, what="")
    except SchemaMismatch:
        return pl.Series([None] * len(values), dtype=pl.Datetime("us", "UTC"))
    return pl.Series(told.column(0))


def _load(days: Mapping[str, Sequence[int]]) -> Days:
    return {int(day): (rows, total) for day, (rows, total) in days.items()}


def _keys(days: str) -> frozenset[int]:
    return frozenset(map(int, json.loads(days)))


def _add(parts: Iterable[Days]) -> Days:
    added: Days = {}
    for part in parts:
        for day, (rows, total) in part.items():
            before = added.get(day, (0, 0))
            added[day] = (before[0] + rows, (before[1] + total) % 2**64)
    return added
