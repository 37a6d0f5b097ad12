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

    So the cost of a window does not grow with its length. `moments` are the distinct times
    (microseconds), `spots` entity and time of each row in one number that sorts like the rows,
    `start` the position of the first row of each row's entity.
    """

    entity: Integers
    times: Integers
    moments: Integers
    spots: Integers
    start: Integers

    @staticmethod
    def of(ranks: "pl.Series", microseconds: "pl.Series") -> "_Past":
        moments = microseconds.unique().sort().to_numpy()
        entity, times = ranks.to_numpy().astype(np.int64), microseconds.to_numpy()
        floor = entity * (len(moments) + 1)
        spots = floor + np.searchsorted(moments, times, side="right")
        return _Past(entity, times, moments, spots, np.searchsorted(spots, floor, side="right"))

    def until(self, delay_us: int) -> Integers:
        """Per row: the position behind the entity's rows at or before its time less the delay."""
        rank = np.searchsorted(self.moments, self.times - delay_us, side="right")
        spot = self.entity * (len(self.moments) + 1) + rank
        return np.searchsorted(self.spots, spot, side="right")


@dataclass(frozen=True)
class _Window:
    """Per row of `rows` (sorted like `past`): the positions [low, high) that its window covers."""

    rows: "pl.DataFrame"
    past: _Past
    low: Integers
    high: Integers

    def total(self, flags: "pl.Series") -> Integers:
        """How many rows of the window carry the flag; nulls do not."""
        sums = np.concatenate(([0], np.cumsum(flags.fill_null(False).to_numpy(), dtype=np.int64)))
        return sums[self.high] - sums[self.low]

    def float_total(self, values: "pl.Series") -> Floats:
        """Sum of the numbers of each window; each entity's running total starts afresh.

        Otherwise new rows of one entity would change the last bits of another one's past.
        """
        import polars as pl

        frame = pl.DataFrame({"entity": self.past.entity, "value": values.fill_null(0)})
        sums = frame.select(pl.col("value").cum_sum().over("entity"))["value"].to_numpy()
        start = self.past.start
        upto_low = np.where(self.low > start, sums[self.low - 1], 0.0)
        return np.where(self.high > start, sums[self.high - 1], 0.0) - upto_low


def _window_columns(
    frame: "pl.DataFrame", windows: Windows, spec: PipelineSpec
) -> "dict[str, pl.Series]":
    """Compute the columns of one `windows` entry, in the row order of the frame."""
    import polars as pl

    order = frame.select(pl.arg_sort_by(windows.entity, spec.time.column)).to_series()
    rows = frame[order]
    past = _Past.of(rows[windows.entity].rank("dense"), rows[spec.time.column].cast(pl.Int64))
    delay = windows.delay_days * DAY_US
    high = past.until(delay)
    columns: dict[str, pl.Series] = {}
    for days in windows.days:
        window = _Window(rows, past, past.until(delay + days * DAY_US), high)
        for stat in windows.stats:
            values = np.empty(len(rows))
            values[order.to_numpy()] = _statistic(stat, window, windows, spec=spec)
            name = window_name(windows, stat, days)
            columns[name] = pl.Series(name, values, nan_to_null=True)
    return columns


def _statistic(stat: str, window: _Window, windows: Windows, *, spec: PipelineSpec) -> Floats:
    if stat == "count":
        return (window.high - window.low).astype(np.float64)
    if stat == "mean" and windows.of is not None:
        return _mean(window, windows.of, spec)
    return _label_rate(window, windows, spec)


def _mean(window: _Window, of: str, spec: PipelineSpec) -> Floats:
    """Mean of the values that are there; NaN when there is none."""
    import polars as pl

    values = window.rows[of].cast(pl.Float64)
    means = _share(window.float_total(values), window.total(values.is_not_null()))
    # Rounding of running totals must not carry a mean past the bounds of its values.
    bounds = spec.contract.columns[of]
    lowest = -np.inf if bounds.min is None else bounds.min
    return np.clip(means, lowest, np.inf if bounds.max is None else bounds.max)


def _label_rate(window: _Window, windows: Windows, spec: PipelineSpec) -> Floats:
    """Share of positives among labels known `delay_days` after their row; NaN when none was."""
    import polars as pl

    due = pl.col(spec.time.column) + pl.duration(days=windows.delay_days)
    told = (pl.col(KNOWN_AT) <= due).fill_null(False)
    is_final = windows.delay_days >= spec.label.matures_after_days
    counted = pl.lit(True) if spec.label.absent == "negative" and is_final else told
    flags = window.rows.select(known=told | counted, positive=told & (pl.col(LABEL) == 1))
    positive = window.total(flags["positive"]).astype(np.float64)
    return _share(positive, window.total(flags["known"]))


def _share(parts: Floats, wholes: Integers) -> Floats:
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)
