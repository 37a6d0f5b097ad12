"""The newest days of a table against its own earlier days: what is unusual about them.

A day is a UTC date that has rows. Usual is all between the lowest and the highest tenth of the
earlier days, so that weekends are.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

MIN_ROWS = 30  # a day with fewer has no median or share to speak of
FEW_ROWS = 10  # so many more or less mean nothing, whatever was expected
MAX_CATEGORIES, NEW_SHARE = 50, 0.01
NULL_JUMP, SIGMAS, CHANCE = 0.1, 4, 1e-6
NUMBERS = {"integer", "number"}
DAY, ROWS, TWIN = "__day", "__rows", "a share of rows with a twin"
Allowed = Callable[[float, float, int], tuple[float, float]]


@dataclass(frozen=True)
class History:
    """Good events with their `DAY`; `earlier` and `newest` have one row a day, with measures."""

    spec: PipelineSpec
    events: "pl.DataFrame"
    labels: "pl.DataFrame | None"
    as_of: datetime
    earlier: "pl.DataFrame"
    newest: "pl.DataFrame"


def make_history(
    events: "pl.DataFrame", labels: "pl.DataFrame | None", as_of: datetime, spec: PipelineSpec
) -> History:
    """Measure every day of the events, which have met the contract."""
    import polars as pl

    rest = [name for name in spec.contract.columns if name not in spec.key]
    twin = events.select(rest).hash_rows().is_duplicated().alias(TWIN)
    dated = events.with_columns(pl.col(spec.time.column).dt.date().alias(DAY), twin)
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
    days = dated.group_by(DAY).agg(**measures).sort(DAY)
    newest = spec.gates.history.newest_days
    return History(spec, dated, labels, as_of, days.head(-newest), days.tail(newest))


def volume_faults(history: History, factor: float) -> Iterator[str]:
    """Judge rows a day; the newest day may be unfinished, and is judged up to its last event."""
    times, days = history.events[history.spec.time.column], history.events[DAY]
    last: Any = times.max()
    done = (times.dt.time() <= last.time()).filter(days <= history.earlier[DAY][-1]).mean()
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
    label, labels, unknown = history.spec.label, history.labels, 0.0
    if labels is not None:
        told = labels.filter(labels[label.known_at] > as_of - timedelta(days=1))
        unknown = told.join(history.events, on=history.spec.key, how="anti").height / told.height
    allowed += 0 if unknown > 0.5 else label.matures_after_days
    newest: Any = history.events[history.spec.time.column].max()
    if not (silent := (as_of - newest) / timedelta(days=1)) <= allowed:
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
        elif rule.type == "string" and rule.categories is None:
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
    known = history.events.join(history.earlier, on=DAY, how="semi")[name].unique()
    if known.len() <= MAX_CATEGORIES:
        newest = history.events.join(history.newest, on=DAY, how="semi")
        needed = max(FEW_ROWS, NEW_SHARE * newest.height / history.newest.height)
        new = newest.filter(~newest[name].is_in(known.implode())).group_by(DAY, name).len(ROWS)
        for day, value, rows in new.filter(new[ROWS] >= needed).sort(DAY, name).iter_rows():
            yield f"{name} has the new category {value!r} in {rows} rows on {day}"
