"""Model inputs from raw events: raw columns, calendar parts, windows of an entity's past days."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlcicd_assets.ml.errors import DataError, NotEnoughData, SpecError
from mlcicd_assets.ml.schema import feature_columns, window_name
from mlcicd_assets.ml.spec import PipelineSpec, Windows

if TYPE_CHECKING:
    import polars as pl

LABEL = "label"
KNOWN_AT = "label_known_at"
DAY_US = 86_400_000_000
LAST_NIGHT_HOUR = 6

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def check_features(spec: PipelineSpec) -> None:
    """Check that every feature can be computed from the columns of the contract.

    Raises:
        SpecError: two features share a name or take a reserved one, or a column has a type
            that its feature cannot use.
    """
    types = {name: rule.type for name, rule in spec.contract.columns.items()}
    names = [column.name for column in feature_columns(spec)]
    faults = [f"two features are called '{n}'" for n in sorted({*names}) if names.count(n) > 1]
    faults += [f"'{n}' is reserved" for n in (LABEL, KNOWN_AT) if n in {*names, *spec.key}]
    faults += [f"'{n}' is a time" for n in spec.features.columns if types[n] == "timestamp"]
    for windows in spec.features.windows:
        if windows.of is not None and types[windows.of] not in {"integer", "number"}:
            faults.append(f"'{windows.of}' is a {types[windows.of]}: only numbers have a mean")
        if spec.contract.columns[windows.entity].nullable:
            faults.append(f"'{windows.entity}' is nullable: windows need to know whose they are")
    if faults:
        raise SpecError(f"features of '{spec.name}': {'; '.join(faults)}. Correct defs.yaml")


def compute_features(
    events: "pl.LazyFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec
) -> "pl.DataFrame":
    """Return one row for every event, sorted by (time, key).

    Columns: key, time, the entities that split and evaluation need, the model inputs as in
    `feature_columns` (numbers Float64, categories String), `label` (Int8 0 / 1, null where
    unknown) and `label_known_at` (UTC microseconds, null if never). Nothing in a row depends on
    what happened, or became known, after its time. Events must have passed the contract.

    Raises:
        SpecError: see `check_features`.
        DataError: the spec has a label source, and no labels are given.
    """
    import polars as pl

    check_features(spec)
    rows = _with_labels(events, labels, spec).sort(spec.time.column, *spec.key)
    frame = rows.collect(engine="streaming")
    inputs: dict[str, pl.Expr | pl.Series] = {
        column.name: pl.col(column.name).cast(
            pl.String if column.kind == "category" else pl.Float64
        )
        for column in feature_columns(spec)
        if column.name in spec.features.columns
    }
    inputs |= {part: _calendar(part, spec.time.column) for part in spec.features.calendar}
    for windows in spec.features.windows:
        inputs |= _window_columns(frame, windows, spec)
    kept = {name: pl.col(name) for name in (*spec.key, spec.time.column, *_entities(spec))}
    ends = {name: pl.col(name) for name in (LABEL, KNOWN_AT)}
    return frame.select(**{**kept, **inputs, **ends})


def as_of(events: "pl.LazyFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec) -> datetime:
    """Return the moment (UTC) up to which labels are known: it comes from the data, not a clock.

    Raises:
        NotEnoughData: there is no row to take it from.
    """
    import polars as pl

    if labels is not None:
        newest = labels.select(pl.col(spec.label.known_at).max())
    else:
        newest = events.select(pl.col(spec.time.column).max())
    moment = newest.collect(engine="streaming").item()
    if moment is None:
        what = "events" if labels is None else "labels"
        raise NotEnoughData(f"'{spec.name}' has no {what} yet: land some first")
    return moment.astimezone(UTC)


def _entities(spec: PipelineSpec) -> list[str]:
    ranked = spec.evaluation.entity_precision
    names = [spec.split.drop_known_positive, ranked.entity if ranked else None]
    return [name for name in names if name is not None]


def _with_labels(
    events: "pl.LazyFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec
) -> "pl.LazyFrame":
    import polars as pl

    needed = {*spec.key, spec.time.column, *_entities(spec), *spec.features.columns}
    for windows in spec.features.windows:
        needed |= {windows.entity, *([windows.of] if windows.of else [])}
    columns = [name for name in spec.contract.columns if name in needed]
    if spec.label.source is None:
        due = pl.col(spec.time.column) + pl.duration(days=spec.label.matures_after_days)
        label = _is_positive(spec).alias(LABEL)
        known_at = pl.when(label.is_not_null()).then(due).alias(KNOWN_AT)
        return events.select(*columns, label, known_at)
    if labels is None:
        raise DataError(f"'{spec.name}' has labels of its own: give their table, too")
    return events.select(columns).join(_first_labels(labels, spec), on=spec.key, how="left")


def _first_labels(labels: "pl.LazyFrame", spec: PipelineSpec) -> "pl.LazyFrame":
    """For every key the label that was known first; of two at once the positive one."""
    import polars as pl

    told = labels.select(
        *spec.key, _is_positive(spec).alias(LABEL), pl.col(spec.label.known_at).alias(KNOWN_AT)
    )
    ordered = told.drop_nulls().sort(KNOWN_AT, LABEL, descending=[False, True])
    return ordered.unique(subset=spec.key, keep="first", maintain_order=True)


def _is_positive(spec: PipelineSpec) -> "pl.Expr":
    import polars as pl

    column, positive = pl.col(spec.label.column), spec.label.positive
    if isinstance(positive, str):
        return (column == positive).cast(pl.Int8)
    return (column.cast(pl.Float64) == float(positive)).cast(pl.Int8)


def _calendar(part: str, time: str) -> "pl.Expr":
    import polars as pl

    moment = pl.col(time).dt
    parts = {
        "hour": moment.hour(),
        "weekday": moment.weekday() - 1,
        "month": moment.month(),
        "weekend": moment.weekday() >= 6,
        "night": moment.hour() <= LAST_NIGHT_HOUR,
    }
    return parts[part].cast(pl.Float64)


@dataclass(frozen=True)
class _Past:
    """Rows sorted by (entity, time), to find windows in by binary search.

    So the cost of a window does not grow with its length. `order` sorts the frame's rows;
    `spots` are entity and time of the sorted rows in one number, `start` is the first position
    of the row's entity. `times` are the frame's, in microseconds; `moments` the distinct ones.
    """

    order: npt.NDArray[np.intp]
    entity: Integers
    times: Integers
    moments: Integers
    spots: Integers
    start: Integers

    @staticmethod
    def of(entity: Integers, times: Integers) -> "_Past":
        order = np.argsort(entity, kind="stable")
        moments = np.unique(times)
        width = len(moments) + 1
        rank = np.searchsorted(moments, times, side="right")
        spots = (entity * width + rank)[order]
        start = np.searchsorted(spots, entity * width, side="right")
        return _Past(order, entity, times, moments, spots, start)

    def until(self, delay_us: int) -> Integers:
        """Per row: how many sorted rows lie at or before its time less the delay."""
        rank = np.searchsorted(self.moments, self.times - delay_us, side="right")
        spot = self.entity * (len(self.moments) + 1) + rank
        return np.searchsorted(self.spots, spot, side="right")

    def total(self, values: Integers, *, low: Integers, high: Integers) -> Integers:
        """Sum of whole numbers between two positions, exactly."""
        sums = np.concatenate(([0], np.cumsum(values[self.order])))
        return sums[high] - sums[low]

    def float_total(self, values: Floats, *, low: Integers, high: Integers) -> Floats:
        """Sum of numbers; each entity's running total starts afresh.

        Otherwise new rows of one entity would change the last bits of another one's past.
        """
        import polars as pl

        frame = pl.DataFrame({"entity": self.entity[self.order], "value": values[self.order]})
        sums = frame.select(pl.col("value").cum_sum().over("entity"))["value"].to_numpy()
        upto_low = np.where(low > self.start, sums[low - 1], 0.0)
        return np.where(high > self.start, sums[high - 1], 0.0) - upto_low


def _window_columns(
    frame: "pl.DataFrame", windows: Windows, spec: PipelineSpec
) -> "dict[str, pl.Series]":
    """Compute the columns of one `windows` entry; `frame` is sorted by time."""
    import polars as pl

    times = frame[spec.time.column].cast(pl.Int64).to_numpy()
    past = _Past.of(frame[windows.entity].rank("dense").cast(pl.Int64).to_numpy(), times)
    delay = windows.delay_days * DAY_US
    high = past.until(delay)
    columns: dict[str, pl.Series] = {}
    for days in windows.days:
        low = past.until(delay + days * DAY_US)
        for stat in windows.stats:
            if stat == "count":
                values = (high - low).astype(np.float64)
            elif stat == "mean":
                values = _mean(frame, past, windows.of or "", low=low, high=high, spec=spec)
            else:
                values = _label_rate(frame, past, windows, low=low, high=high, spec=spec)
            name = window_name(windows, stat, days)
            columns[name] = pl.Series(name, values, nan_to_null=True)
    return columns


def _mean(
    frame: "pl.DataFrame",
    past: _Past,
    of: str,
    *,
    low: Integers,
    high: Integers,
    spec: PipelineSpec,
) -> Floats:
    """Mean of the values that are there; NaN when there is none."""
    import polars as pl

    given = frame[of].is_not_null().cast(pl.Int64).to_numpy()
    values = frame[of].cast(pl.Float64).fill_null(0.0).to_numpy()
    sums = past.float_total(values, low=low, high=high)
    means = _share(sums, past.total(given, low=low, high=high))
    # Rounding of running totals must not carry a mean past the bounds of its values.
    bounds = spec.contract.columns[of]
    lowest = -np.inf if bounds.min is None else bounds.min
    return np.clip(means, lowest, np.inf if bounds.max is None else bounds.max)


def _label_rate(
    frame: "pl.DataFrame",
    past: _Past,
    windows: Windows,
    *,
    low: Integers,
    high: Integers,
    spec: PipelineSpec,
) -> Floats:
    """Share of positives among labels known `delay_days` after their row; NaN when none was."""
    import polars as pl

    due = pl.col(spec.time.column) + pl.duration(days=windows.delay_days)
    told = (pl.col(KNOWN_AT) <= due).fill_null(False)
    is_final = windows.delay_days >= spec.label.matures_after_days
    counted = pl.lit(True) if spec.label.absent == "negative" and is_final else told
    flags = frame.select(
        known=(told | counted).cast(pl.Int64), positive=(told & (pl.col(LABEL) == 1)).cast(pl.Int64)
    )
    known = past.total(flags["known"].to_numpy(), low=low, high=high)
    positive = past.total(flags["positive"].fill_null(0).to_numpy(), low=low, high=high)
    return _share(positive.astype(np.float64), known)


def _share(parts: Floats, wholes: Integers) -> Floats:
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)
