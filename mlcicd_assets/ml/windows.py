"""Counts, means and label rates over an entity's past days, exact whatever else is in the frame.

Rows are sorted by (entity, time); every window is then the difference of two running totals. The
totals are integers, so that no rounding of earlier rows can reach a later one, and days that are
computed alone equal those computed with all others, bit for bit. A number counts as its whole
part and its fraction in units of 2^-40.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.schema import window_name
from mlcicd_assets.ml.sections import Windows
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

Ints = NDArray[np.int64]
Columns = dict[str, NDArray[Any]]
LABEL, KNOWN_AT = "label", "label_known_at"
DAY_US = 86_400_000_000
FRACTION = 2.0**40
LARGEST = 2.0**43  # a window then has an exact sum up to half a million such rows
BLOCK = 2**19  # rows that are worked on at once stay in the processor's cache


@dataclass(frozen=True)
class _Block:
    """Rows of some entities by (entity, time): their numbers in the frame, and sorted keys.

    A key is the time, moved for each entity so far that its windows stay its own. `asked` are the
    positions of the rows that get a value.
    """

    order: Ints
    keys: Ints
    asked: Ints

    def starts(self, back: int) -> Ints:
        """Return, for each asked row, the first position of its entity after `time - back`."""
        if not back and (self.keys[1:] > self.keys[:-1]).all():
            return self.asked + 1  # no two rows of a moment: known without a search
        return np.searchsorted(self.keys, self.keys[self.asked] - back, side="right")

    def totals(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Ints]:
        """Return running totals by position, each with a first 0."""
        totals = {name: np.zeros(len(self.order) + 1, dtype=np.int64) for name in columns}
        for name, column in columns.items():
            np.cumsum(column[self.order].astype(np.int64), out=totals[name][1:])
        return totals


def reach_days(spec: PipelineSpec) -> int:
    """Return how many days before its own a row's windows reach back to; 0 without windows."""
    return max((max(one.days) + one.delay_days for one in spec.features.windows), default=0)


def window_columns(
    rows: "pl.DataFrame", spec: PipelineSpec, *, skip: int
) -> "dict[str, pl.Series]":
    """Return the windowed features of all rows but the first `skip`, which are only looked at.

    `rows` are sorted by time and hold entities, averaged columns and, for label rates, `label` and
    `label_known_at`. A label counts where it was known between its row and `delay_days` later.
    Rows of the same entity and time see each other; an empty window is null, or a count of 0.

    Raises:
        DataError: an averaged number is too large to be summed exactly.
    """
    import polars as pl

    found: dict[str, pl.Series] = {}
    for windows in spec.features.windows:
        asked = [(stat, days) for days in windows.days for stat in windows.stats]
        columns = {stat: _summed(rows, windows, stat, spec) for stat in windows.stats}
        # The places of a block lie far apart: all values of a row are moved at once.
        values, row = np.empty((rows.height - skip, len(asked))), np.dtype(f"V{8 * len(asked)}")
        for block in _blocks(rows, windows.entity, spec, skip):
            made = np.empty((len(block.asked), len(asked)))
            for number, told in enumerate(_statistics(block, columns, windows, spec)):
                made[:, number] = told
            values.view(row)[block.order[block.asked] - skip] = made.view(row)
        for number, (stat, days) in enumerate(asked):
            name = window_name(windows, stat, days)
            # A count is never NaN: none is looked for.
            found[name] = pl.Series(name, values[:, number], nan_to_null=stat != "count")
    return found


def _blocks(rows: "pl.DataFrame", entity: str, spec: PipelineSpec, skip: int) -> Iterator[_Block]:
    """Yield all rows, those of one entity always in one block."""
    if rows.is_empty():
        return
    times = rows[spec.time.column].dt.epoch("us").to_numpy()
    # Sorting number and row at once is faster than a stable argsort.
    bits = rows.height.bit_length()
    both = np.sort((_codes(rows[entity]) << bits) | np.arange(rows.height))
    order, codes = both & ((1 << bits) - 1), both >> bits
    span = int(times[-1] - times[0]) + (reach_days(spec) + 1) * DAY_US
    start = 0
    while start < rows.height:
        # At least one entity, and no more than fit into one range of numbers.
        full = codes[min(start + BLOCK, rows.height) - 1]
        last = min(full, codes[start] + 2**62 // span)
        end = int(np.searchsorted(codes, last, side="right"))
        rest = order[start:end]
        keys = (codes[start:end] - codes[start]) * span + (times[rest] - times[0])
        yield _Block(rest, keys, np.flatnonzero(rest >= skip))
        start = end


def _codes(values: "pl.Series") -> Ints:
    """Return a number from 0 on for each different value."""
    import polars as pl

    if values.dtype == pl.Int64 and len(values):
        low, high = cast("int", values.min()), cast("int", values.max())
        if high - low < 8 * len(values):
            return values.to_numpy() - low
    return values.rank("dense").cast(pl.Int64).to_numpy() - 1


def _statistics(
    block: _Block,
    columns: Mapping[str, Columns],
    windows: Windows,
    spec: PipelineSpec,
) -> Iterator[NDArray[np.float64]]:
    """Yield the values of each length and statistic, in the order of `block.asked`."""
    end = block.starts(windows.delay_days * DAY_US)
    totals = {stat: block.totals(summed) for stat, summed in columns.items()}
    ends = {stat: {name: one[end] for name, one in total.items()} for stat, total in totals.items()}
    for days in windows.days:
        start = block.starts((windows.delay_days + days) * DAY_US)
        count = end - start
        for stat, total in totals.items():
            values = count.astype(np.float64)
            if stat != "count":
                sums = {name: ends[stat][name] - one[start] for name, one in total.items()}
                whole = sums["whole"] + sums.get("fraction", 0) / FRACTION
                with np.errstate(invalid="ignore"):
                    values = whole / sums.get("number", count)
            if stat == "mean":
                bounds = spec.contract.columns[windows.of or ""]
                values = np.clip(values, bounds.min, bounds.max)
            yield values


def _summed(rows: "pl.DataFrame", windows: Windows, stat: str, spec: PipelineSpec) -> Columns:
    """Return what a statistic sums up, row by row; no `number` where every row counts."""
    import polars as pl

    found: Columns = {}
    if stat == "mean":
        values = rows[windows.of or ""].cast(pl.Float64)
        numbers = (values.fill_null(0) if values.null_count() else values).to_numpy()
        found["whole"] = np.floor(numbers)
        largest = max(numbers.max(initial=0.0), -numbers.min(initial=0.0))
        if not largest < LARGEST:
            raise DataError(
                f"'{windows.of}' holds {largest:g}, too large for exact sums: give the contract a "
                "max, or the column a larger unit"
            )
        found["fraction"] = np.rint((numbers - found["whole"]) * FRACTION)
        if values.null_count():
            found["number"] = values.is_not_null().to_numpy()
    elif stat == "label_rate":
        time, late = pl.col(spec.time.column), pl.duration(days=windows.delay_days)
        is_told = pl.col(KNOWN_AT).is_between(time, time + late).fill_null(False)
        told = rows.select(label=pl.when(is_told).then(LABEL)).to_series()
        found["whole"] = told.fill_null(0).to_numpy()
        is_final = windows.delay_days >= spec.label.matures_after_days
        if not (spec.label.absent == "negative" and is_final):
            found["number"] = told.is_not_null().to_numpy()
    return found
