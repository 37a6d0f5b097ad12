"""The pinned raw data as the contract's exact types, whole or some days of it."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mlcicd_assets.io.content import NO_DAY, Content, scan_days
from mlcicd_assets.io.delta import content_of, open_pinned, scan
from mlcicd_assets.io.landing import normalise
from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.ml.contract import DAY, event_schema, label_schema
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.sections import TimeColumn
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import RawData, TableVersion

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

LAST_DAY = 2_932_896  # 9999-12-31


def clock_of(spec: PipelineSpec, own: str) -> TimeColumn:
    """Return the time by which the rows of a source (`raw` or `labels`) are kept by day."""
    return spec.time if own == "raw" else TimeColumn(column=spec.label.known_at)


@dataclass(frozen=True)
class Inputs:
    """Pinned events and labels, and what they hold by day."""

    spec: PipelineSpec
    raw: RawData
    memory: LedgerDatabase | None

    @cached_property
    def events(self) -> Content:
        """What the events hold by day.

        Raises:
            DataError: times are outside the years 1 to 9999, or the schema is another one.
        """
        found = content_of(self.raw.events, clock_of(self.spec, "raw"), self.memory)
        if found.days and not NO_DAY <= min(found.days) <= max(found.days) <= LAST_DAY:
            raise DataError(f"{self.raw.events} has times outside the years 1 to 9999: correct it")
        return found

    @cached_property
    def labels(self) -> Content | None:
        """What labels of their own hold, by the day on which they became known."""
        version, clock = self.raw.labels, clock_of(self.spec, "labels")
        return content_of(version, clock, self.memory) if version else None

    @cached_property
    def _tables(self) -> "dict[str, DeltaTable]":
        pinned = {"raw": self.raw.events, "labels": self.raw.labels}
        return {own: open_pinned(version) for own, version in pinned.items() if version}

    def keys(self, days: list[int] | None = None) -> "pl.LazyFrame":
        """Return key and `DAY` of the events of some days; default: of all."""
        import polars as pl

        types = pl.DataFrame(event_schema(self.spec).empty_table()).schema
        rows = self._scan(self.events, "raw", days)
        found = rows.collect_schema()
        # Files are skipped by their bounds only where nothing is cast.
        other = [name for name in self.spec.key if found[name] != types[name]]
        rows = rows.with_columns(pl.col(name).cast(types[name]) for name in other)
        return rows.select(*self.spec.key, DAY)

    def events_of(self, days: range) -> "pl.DataFrame":
        """Return the events of some days; of none, to see that their schema is right."""
        rows = self._scan(self.events, "raw", days).drop(DAY)
        return _exact(rows, event_schema(self.spec), self.raw.events, self.spec.time)

    def labels_of(self, days: range) -> "pl.LazyFrame | None":
        """Return the labels that became known on some days."""
        if self.raw.labels is None or self.labels is None:
            return None
        rows = self._scan(self.labels, "labels", days).drop(DAY)
        return _exact(rows, label_schema(self.spec), self.raw.labels, None).lazy()

    def _scan(self, content: Content, own: str, days: range | list[int] | None) -> "pl.LazyFrame":
        return scan_days(self._tables[own], content, clock_of(self.spec, own), days)


def load_raw(spec: PipelineSpec, raw: RawData) -> "tuple[pl.DataFrame, pl.DataFrame | None]":
    """Read all pinned events and labels as exactly the contract's types."""
    labels = read_labels(spec, raw)
    events = _exact(scan(raw.events), event_schema(spec), raw.events, spec.time)
    return events, labels.collect() if labels is not None else None


def read_labels(spec: PipelineSpec, raw: RawData) -> "pl.LazyFrame | None":
    """Read all pinned labels as exactly the contract's types."""
    if raw.labels is None:
        return None
    return _exact(scan(raw.labels), label_schema(spec), raw.labels, None).lazy()


def _exact(
    rows: "pl.LazyFrame", schema: "pa.Schema", version: TableVersion, time: TimeColumn | None
) -> "pl.DataFrame":
    """A foreign table may store narrower types; the same written list decides as for files."""
    import polars as pl

    wanted = pl.DataFrame(schema.empty_table()).schema
    if dict(rows.collect_schema()) == dict(wanted):
        return rows.select(wanted.names()).collect(engine="streaming")
    table = rows.collect(engine="streaming").to_arrow()
    return pl.DataFrame(normalise(table, schema=schema, time=time, what=str(version)))
