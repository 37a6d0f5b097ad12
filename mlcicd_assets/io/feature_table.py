"""Bring a feature table up to date: only the days that a change can reach are made again."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from mlcicd_assets.io.content import NO_DAY, Days
from mlcicd_assets.io.delta import open_table
from mlcicd_assets.io.delta_faults import writable
from mlcicd_assets.io.feature_inputs import Inputs
from mlcicd_assets.io.feature_state import (
    FeatureTables,
    chunks,
    load_state,
    name_days,
    present_days,
    replace_days,
    save_state,
    to_date,
    to_number,
)
from mlcicd_assets.ml.contract import DAY, check_batch, find_twins
from mlcicd_assets.ml.days import BROKEN, describe_days
from mlcicd_assets.ml.features import look_back_columns, make_rows, needs_labels
from mlcicd_assets.ml.windows import reach_days

if TYPE_CHECKING:
    import polars as pl

MANY_ROWS = 5_000_000  # changed ones, from which all keys are looked through
MADE_OF, HELD = "made_of", "held"


def update_table(
    inputs: Inputs,
    tables: FeatureTables,
    *,
    metadata: Mapping[str, str],
    tell: Callable[[str], None],
) -> "tuple[pl.DataFrame, int]":
    """Make every day that is not what the pinned data give; return all days, and how many.

    After a crash at any point the next call goes on: see io/feature_state.py.
    """
    import polars as pl

    inputs.events_of(range(0))  # its schema, whatever has changed
    held = {day: f"{rows} {total}" for day, (rows, total) in inputs.events.days.items()}
    state = load_state(tables)
    if state is None:  # any day, so that both tables are there
        state = _make_days(inputs, tables, range(1), {}, None, metadata)
    known, made = (_told(state, name) for name in (HELD, MADE_OF))
    changed = [day for day, told in held.items() if known.get(day) != told]
    twins = _twins(inputs, tables, changed)
    named = _named(inputs, held, twins)
    present = present_days(tables)
    touched = {day for day, name in named.items() if made.get(day) != name}
    touched |= present - named.keys()
    done = 0
    for days in chunks(touched, {*named, *present}, inputs.events.days):
        wanted = {day: name for day, name in sorted(named.items()) if day in days}
        described = _make_days(inputs, tables, days, wanted, twins, metadata)
        gone = pl.col(DAY).is_between(to_date(days.start), to_date(days.stop - 1))
        state = pl.concat([state.filter(~gone), described]).sort(DAY)
        save_state(tables, state)
        done += sum(day in days for day in touched)
        tell(f"made the features of {done} of {len(touched)} days, until {to_date(days.stop - 1)}")
    if changed:
        # Not before every day that shares a key with them has been made again.
        now = [held.get(to_number(day)) for day in state[DAY]]
        state = state.with_columns(pl.Series(HELD, now, pl.String))
        save_state(tables, state)
    return state, len(touched)


def _told(state: "pl.DataFrame", name: str) -> dict[int, str]:
    return {to_number(day): told for day, told in state.select(DAY, name).iter_rows()}


def _twins(inputs: Inputs, tables: FeatureTables, changed: list[int]) -> "pl.DataFrame":
    """Find the keys of several days: of changed days, and those in quarantine for it so far."""
    import polars as pl
    from deltalake import DeltaTable

    keys, names = inputs.keys(), list(inputs.spec.key)
    if sum(inputs.events.days[day][0] for day in changed) > MANY_ROWS:
        return find_twins(keys, None, names)
    wanted = [inputs.keys(changed).select(names)]
    if DeltaTable.is_deltatable(tables.quarantine):
        set_aside = pl.scan_delta(open_table(tables.quarantine))
        twin = set_aside.filter(pl.col(BROKEN).list.contains("unique_key"))
        wanted.append(twin.select(names))
    return find_twins(keys, pl.concat(wanted).unique().collect(engine="streaming"), names)


def _named(inputs: Inputs, held: Mapping[int, str], twins: "pl.DataFrame") -> dict[int, str]:
    """Name each day by all that its rows depend on."""
    import polars as pl

    spec, key = inputs.spec, list(inputs.spec.key)
    later = twins.filter(pl.col(DAY) > pl.col(DAY).min().over(key)).sort(key)
    by_day = later.group_by(DAY, maintain_order=True).agg(key)
    losers = {day: repr(keys) for day, *keys in by_day.iter_rows()}
    events = {day: f"{told} {losers.get(day, '')}" for day, told in held.items()}
    told: Days = inputs.labels.days if inputs.labels and needs_labels(spec) else {}
    labels = {day: f"{rows} {total}" for day, (rows, total) in told.items()}
    return name_days(events, labels, reach_days(spec))


def _make_days(
    inputs: Inputs,
    tables: FeatureTables,
    days: range,
    named: Mapping[int, str],
    twins: "pl.DataFrame | None",
    metadata: Mapping[str, str],
) -> "pl.DataFrame":
    """Make features and quarantine of some days, and describe them."""
    import polars as pl

    spec = inputs.spec
    day = pl.col(spec.time.column).dt.date().fill_null(to_date(NO_DAY)).alias(DAY)
    if twins is not None:
        twins = twins.filter(pl.col(DAY) < days.start).select(spec.key).unique()
    report = check_batch(inputs.events_of(days), spec, twins)
    earlier = range(days.start - reach_days(spec), days.stop)
    labels = inputs.labels_of(earlier) if needs_labels(spec) else None
    rows = make_rows(report.good, look_back(inputs, tables, days), labels, spec)
    rows, quarantined = rows.with_columns(day), report.quarantined.with_columns(day)
    with writable(tables.quarantine, tables.features):
        replace_days(tables.quarantine, quarantined, days, metadata=metadata)
        replace_days(tables.features, rows, days, metadata=metadata)
    columns = {DAY: map(to_date, named), HELD: [None] * len(named), MADE_OF: named.values()}
    schema = {DAY: pl.Date, HELD: pl.String, MADE_OF: pl.String}
    described = pl.DataFrame({name: list(of) for name, of in columns.items()}, schema=schema)
    return describe_days(described, quarantined, report, rows, spec)


def look_back(inputs: Inputs, tables: FeatureTables, days: range) -> "pl.DataFrame | None":
    """Read the rows that windows of these days reach back to: they have been made before."""
    import polars as pl
    from deltalake import DeltaTable

    spec = inputs.spec
    first = max(days.start - reach_days(spec), NO_DAY)
    if first == days.start or not DeltaTable.is_deltatable(tables.features):
        return None
    near = pl.col(DAY).is_between(to_date(first), to_date(days.start - 1))
    rows = pl.scan_delta(open_table(tables.features)).filter(near)
    return rows.select(look_back_columns(spec)).sort(spec.time.column).collect(engine="streaming")
