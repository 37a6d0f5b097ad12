"""The newest days of a table against its own earlier days: what is unusual about them.

A day is a UTC date that has rows. Usual is all between the lowest and the highest tenth of the
earlier days, so that weekends are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlcicd_assets.ml.contract import DAY
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

MIN_ROWS = 30  # a day with fewer has no median or share to speak of
FEW_ROWS = 10  # so many more or less mean nothing, whatever was expected
MAX_CATEGORIES, NEW_SHARE = 50, 0.01
MAX_KEPT = 200  # categories of a day, the most frequent ones
NULL_JUMP, SIGMAS, CHANCE = 0.1, 4, 1e-6
NUMBERS = {"integer", "number"}
ROWS, TWIN = "__rows", "a share of rows with a twin"
Allowed = Callable[[float, float, int], tuple[float, float]]


@dataclass(frozen=True)
class History:
    """One row a day, with its measures; what only some tables need is asked for.

    `last` is the newest event. `done` is the share of the rows of the usual day before that time
    of the day, `orphans` that of the last labels whose rows never arrived.
    """

    spec: PipelineSpec
    as_of: datetime
    last: datetime
    earlier: "pl.DataFrame"
    newest: "pl.DataFrame"
    done: Callable[[], float]
    orphans: Callable[[], float]


def make_history(
    days: "pl.DataFrame",
    spec: PipelineSpec,
    *,
    as_of: datetime,
    last: datetime,
    done: Callable[[], float],
    orphans: Callable[[], float],
) -> History:
    """Share out the measured days to those that are judged and those before."""
    newest = spec.gates.history.newest_days
    days = days.sort(DAY)
    return History(spec, as_of, last, days.head(-newest), days.tail(newest), done, orphans)


def measure_days(events: "pl.DataFrame", spec: PipelineSpec) -> "pl.DataFrame":
    """Measure every day of the events, which have met the contract."""
    import polars as pl

    rest = [name for name in spec.contract.columns if name not in spec.key]
    dated = events.with_columns(pl.col(spec.time.column).dt.date().alias(DAY))
    twin = dated.select(DAY, *rest).hash_rows().is_duplicated().alias(TWIN)
    measures = {ROWS: pl.len(), TWIN: pl.col(TWIN).mean()}
    for name in _judged(spec):
        value = pl.col(name)
        measures[f"{name} has a share of nulls"] = value.null_count() / pl.len()
        measures[f"{name} has one value in a share"] = value.unique_counts().max() / pl.len()
        if spec.contract.columns[name].type in NUMBERS:
            # Of what is not 0: a column that is mostly 0 still shows a change of its unit.
            size = value.filter(value != 0).abs()
            median = pl.when(size.count() >= MIN_ROWS).then(size.median())
            measures[f"{name} has a median size"] = median
        elif _is_open(name, spec):
            counts = value.drop_nulls().value_counts(sort=True).head(MAX_KEPT)
            measures[_categories(name)] = counts
    return dated.with_columns(twin).group_by(DAY).agg(**measures).sort(DAY)


def last_share(times: "pl.Series", last: datetime) -> float:
    """Return the share of these times that come before the time of day of the last one."""
    done: Any = (times.dt.time() <= last.time()).mean()
    return done


def volume_faults(history: History, factor: float) -> Iterator[str]:
    """Judge rows a day; the newest day may be unfinished, and is judged up to its last event."""
    last, done = history.last, history.done()
    for day, rows in history.newest.select(DAY, ROWS).iter_rows():
        usual = _usual(history.earlier[ROWS])
        low, high = (count * (done if day == last.date() else 1) for count in usual)
        if not (low + FEW_ROWS) / factor <= rows + FEW_ROWS <= (high + FEW_ROWS) * factor:
            yield f"{rows} rows on {day}, usually {low:.0f} to {high:.0f}"


def freshness_faults(history: History, max_gap: float) -> Iterator[str]:
    """Judge days without events; where they come less often than daily, the gap may be as longer.

    Labels go on after the newest event of any snapshot until they are mature. So they show that
    events stopped only if most of the newest are about rows that never arrived.
    """
    start, last, as_of = history.earlier[DAY][0], history.earlier[DAY][-1], history.as_of
    allowed = max_gap * max(1, (last - start).days / (history.earlier.height - 1))
    for day in history.newest[DAY]:
        if not (day - last).days <= allowed:
            yield f"no event between {last} and {day}, allowed {allowed:.3g} days"
        last = day
    silent = (as_of - history.last) / timedelta(days=1)
    unknown = history.orphans() if not silent <= allowed else 0.0
    allowed += 0 if unknown > 0.5 else history.spec.label.matures_after_days
    if not silent <= allowed:
        orphans = f"{unknown:.0%} of the last labels are about rows that never arrived"
        yield f"no event for {silent:.3g} days up to {as_of}, allowed {allowed:.3g}; {orphans}"


def column_faults(history: History, factor: float) -> Iterator[str]:
    """Judge each column of each newest day: nulls, sameness, its unit, new categories."""
    for name in _judged(history.spec):
        yield from _unusual(history, f"{name} has a share of nulls", _extra(NULL_JUMP))
        yield from _unusual(history, f"{name} has one value in a share", _not_all)
        rule = history.spec.contract.columns[name]
        if rule.type in NUMBERS:
            size = f"{name} has a median size"
            yield from _unusual(history, size, lambda low, high, _: (low / factor, high * factor))
        elif _is_open(name, history.spec):
            yield from _new_categories(history, name)


def duplicate_faults(history: History, extra: float) -> Iterator[str]:
    """Judge rows that equal another in everything but the key; as many as usual are honest."""
    return _unusual(history, TWIN, _extra(extra))


def _judged(spec: PipelineSpec) -> list[str]:
    """Keys, entities, event time and label have no usual values."""
    skipped = {*spec.key, spec.time.column, spec.label.column}
    skipped |= {windows.entity for windows in spec.features.windows}
    return [name for name in spec.contract.columns if name not in skipped]


def _usual(values: "pl.Series") -> tuple[Any, Any]:
    return values.quantile(0.1, "nearest"), values.quantile(0.9, "nearest")


def _extra(share: float) -> Allowed:
    """Allow a share as high as usual, with what chance and the policy may add."""
    return lambda _, high, rows: (0, high + share + SIGMAS * math.sqrt(high * (1 - high) / rows))


def _not_all(_: float, high: float, rows: int) -> tuple[float, float]:
    """Allow one value in all rows where that can be chance, because others are rare."""
    return 0, 1 if high**rows > CHANCE else 1 - 0.5 / rows


def _unusual(history: History, measure: str, allowed: Allowed) -> Iterator[str]:
    both = (history.earlier, history.newest)
    earlier, newest = (days.filter(days[ROWS] >= MIN_ROWS) for days in both)
    low, high = _usual(earlier[measure])
    for day, rows, value in newest.select(DAY, ROWS, measure).drop_nulls().iter_rows():
        least, most = (value, value) if high is None else allowed(low, high, rows)
        if not least <= value <= most:
            yield f"{measure} of {value:.4g} on {day}, allowed {least:.4g} to {most:.4g}"


def _new_categories(history: History, name: str) -> Iterator[str]:
    import polars as pl

    counted = [
        days.select(DAY, ROWS, pl.col(_categories(name)).alias("told"))
        .explode("told", empty_as_null=False)
        .unnest("told")
        for days in (history.earlier, history.newest)
    ]
    known = counted[0][name].unique()
    if known.len() <= MAX_CATEGORIES:
        usual: Any = history.newest[ROWS].mean()
        needed = max(FEW_ROWS, NEW_SHARE * usual)
        new = counted[1].filter(~pl.col(name).is_in(known.implode()), pl.col("count") >= needed)
        for day, value, rows in new.sort(DAY, name).select(DAY, name, "count").iter_rows():
            yield f"{name} has the new category {value!r} in {rows} rows on {day}"


def _is_open(name: str, spec: PipelineSpec) -> bool:
    """Tell whether the contract leaves open which texts a column holds."""
    rule = spec.contract.columns[name]
    return rule.type == "string" and rule.categories is None


def _categories(name: str) -> str:
    return f"{name} has the categories"
