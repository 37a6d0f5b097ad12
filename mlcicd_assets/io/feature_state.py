"""Feature tables by day: what each day was made from, which must be made again, and the writing.

A day is named by the content of all days that can matter for it. So it does not matter how a
table came to hold its rows: a day is made again exactly when something that it depends on is
another. The state stands beside the table and is written after it. A commit says which days it
wrote: of these the state knows nothing, should a crash have come between.
"""

import hashlib
import io
import json
import time
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING

from mlcicd_assets.io.content import Days, row_changes
from mlcicd_assets.io.delta import KEEP_LOG, open_table
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import Place, check_store, place_at, read, write
from mlcicd_assets.ml.contract import DAY
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.features import kept_columns
from mlcicd_assets.ml.schema import feature_definitions
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl
    from deltalake.transaction import AddAction

RECIPE = 1  # another one makes all feature tables anew
CHUNK_ROWS = 5_000_000  # about 3 GiB of memory, with the rows that windows reach back to
WRITTEN = "mlcicd.days"


@dataclass(frozen=True)
class FeatureTables:
    """Where features, quarantine and state of all models with the same definitions are."""

    name: str
    features: str
    quarantine: str
    state: Place

    def named(self) -> dict[str, str]:
        """Return the address of each table."""
        return {"features": self.features, "quarantine": self.quarantine}


def tables_of(settings: Settings, spec: PipelineSpec) -> FeatureTables:
    """Name them by all that decides what they hold, but for the raw data."""
    parts = {
        "recipe": RECIPE,
        "source": spec.source.model_dump(mode="json"),
        "contract": spec.contract.model_dump(mode="json"),
        "definitions": feature_definitions(spec),
        "kept": kept_columns(spec),
    }
    name = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    features = f"{settings.lake}/features/{name}"
    quarantine = f"{settings.lake}/quarantine/{name}"
    return FeatureTables(name, features, quarantine, place_at(f"{features}.state"))


def load_state(tables: FeatureTables) -> "pl.DataFrame | None":
    """Return what is known of the days that both tables hold; None: nothing."""
    import polars as pl

    stored = read(tables.state)
    if stored is None:
        return None
    try:
        days = pl.read_parquet(io.BytesIO(stored))
        told = json.loads(pl.read_parquet_metadata(io.BytesIO(stored))["tables"])
    except (pl.exceptions.PolarsError, KeyError, ValueError):
        return None  # damaged: everything can be made again
    for name, uri in tables.named().items():
        table_id, version = told[name]
        now = _version(uri)
        changes = row_changes(uri, version, now[1]) if now and now[0] == table_id else None
        if changes is None or any(WRITTEN not in change for change in changes):
            return None
        for change in changes:
            first, stop = map(int, change[WRITTEN].split())
            days = days.filter(~pl.col(DAY).is_between(to_date(first), to_date(stop - 1)))
    return days


def save_state(tables: FeatureTables, days: "pl.DataFrame") -> None:
    """Write down what the tables hold now."""
    buffer = io.BytesIO()
    told = {name: _version(uri) for name, uri in tables.named().items()}
    days.sort(DAY).write_parquet(buffer, metadata={"tables": json.dumps(told)})
    write(tables.state, buffer.getvalue())


def present_days(tables: FeatureTables) -> set[int]:
    """Return the days that one of the tables has rows of."""
    days: set[int] = set()
    for uri in tables.named().values():
        parts = open_table(uri).partitions() if _version(uri) else []
        days |= {to_number(date.fromisoformat(part[DAY])) for part in parts}
    return days


def replace_days(
    uri: str, frame: "pl.DataFrame", days: range, *, metadata: Mapping[str, str]
) -> None:
    """Make `frame` (with its `DAY`) the rows of these days, in one commit that names them.

    Polars writes the files, delta-rs commits them (docs/decisions/0010).

    Raises:
        DataError: another writer was faster.
    """
    import polars as pl
    from deltalake import CommitProperties, DeltaTable, Schema
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import RemoveAction

    check_store(place_at(uri).parent)
    told = {**metadata, WRITTEN: f"{days.start} {days.stop}"}
    alone = CommitProperties(custom_metadata=told, max_commit_retries=0)
    schema = Schema.from_arrow(frame.head(0).to_arrow().schema)
    try:
        if not DeltaTable.is_deltatable(uri):
            DeltaTable.create(
                uri, schema, partition_by=DAY, commit_properties=alone, configuration=KEEP_LOG
            )
        table = open_table(uri)
        now, part = time.time_ns() // 10**6, f"partition.{DAY}"
        files = pl.DataFrame(table.get_add_actions(flatten=True)).select("path", part)
        written: list[AddAction | RemoveAction] = [
            RemoveAction(path, True, now, None, {DAY: str(day)})
            for path, day in files.iter_rows()
            if to_number(day) in days
        ]
        by_day = frame.partition_by(DAY, as_dict=True, include_key=False)
        written += [_write_day(uri, day, rows, now) for (day,), rows in by_day.items()]
        if written:
            table.create_write_transaction(written, "append", schema, DAY, commit_properties=alone)
    except CommitFailedError as error:
        raise DataError(f"{uri} was written by another run meanwhile: run it again") from error


def _write_day(uri: str, day: date, rows: "pl.DataFrame", now: int) -> "AddAction":
    from deltalake.transaction import AddAction

    path, buffer = f"{DAY}={day}/{uuid.uuid4().hex}.parquet", io.BytesIO()
    rows.write_parquet(buffer, compression="snappy", statistics=False)  # a day is read whole
    write(place_at(uri) / path, buffer.getvalue())
    stats = json.dumps({"numRecords": rows.height})
    return AddAction(path, buffer.tell(), {DAY: str(day)}, now, True, stats)


def name_days(events: Mapping[int, str], labels: Mapping[int, str], reach: int) -> dict[int, str]:
    """Name each day of the events by what it and the `reach` days before it hold."""
    event_sum, label_sum = _running(events), _running(labels)
    named: dict[int, str] = {}
    for day in events:
        parts = (event_sum(day - reach, day), label_sum(day - reach, day))
        named[day] = hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
    return named


def chunks(touched: Collection[int], days: Collection[int], rows: Days) -> Iterator[range]:
    """Share out the touched ones of all `days` to ranges without another day in them."""
    part: list[int] = []
    count = 0
    for day in sorted(days):
        if part and (day not in touched or count >= CHUNK_ROWS):
            yield range(part[0], part[-1] + 1)
            part, count = [], 0
        if day in touched:
            part.append(day)
            count += rows.get(day, (0, 0))[0]
    if part:
        yield range(part[0], part[-1] + 1)


def to_date(day: int) -> date:
    """Return the date of a day's number."""
    return date(1970, 1, 1) + timedelta(days=day)


def to_number(day: date) -> int:
    """Return the number of a date."""
    return (day - date(1970, 1, 1)).days


def _version(uri: str) -> tuple[str, int] | None:
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(uri):
        return None
    table = open_table(uri)
    return str(table.metadata().id), table.version()


def _running(days: Mapping[int, str]) -> Callable[[int, int], int]:
    """Return a function that adds up a hash of each day from one to another."""
    order = sorted(days)
    hashes = (hashlib.sha256(f"{day} {days[day]}".encode()).digest() for day in order)
    totals = list(accumulate((int.from_bytes(one, "big") for one in hashes), initial=0))
    return lambda first, last: totals[bisect_right(order, last)] - totals[bisect_left(order, first)]
