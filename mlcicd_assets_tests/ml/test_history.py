"""Planted faults in the newest days of small tables, and honest tables that look strange."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.ml.data_gates import history_gates
from mlcicd_assets.ml.features import as_of
from mlcicd_assets.ml.gates import data_gates
from mlcicd_assets.ml.history import History, last_share, make_history, measure_days
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.ml.specs import small_spec

START = datetime(2024, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
COLUMNS = {
    "id": {"type": "integer"},
    "at": {"type": "timestamp"},
    "who": {"type": "integer"},
    "amount": {"type": "number", "nullable": True},
    "delta": {"type": "number"},
    "kind": {"type": "string", "nullable": True},
    "plan": {"type": "string", "categories": ["a", "b"]},
    "rare": {"type": "boolean"},
    "fee": {"type": "integer"},
}
WINDOWS = [
    {"entity": "who", "days": [2], "stats": ["count", "mean"], "of": "amount"},
    {"entity": "who", "days": [4], "stats": ["count", "label_rate"], "delay_days": 3},
]
ROWS = 200
Frames = tuple[pl.DataFrame, pl.DataFrame]


def make_spec(**changes: Any) -> PipelineSpec:
    return small_spec(
        COLUMNS,
        label={"matures_after_days": 3, **changes.pop("label", {})},
        features={"columns": ["amount", "kind"], "calendar": ["hour"], "windows": WINDOWS},
        **changes,
    )


def make_world(days: int = 30, *, every: int = 1, rows: int = ROWS, seed: int = 0) -> Frames:
    """Events of `days` dates, `every` so many days; labels up to 3 days later, as known by then."""
    rng = np.random.default_rng(seed)
    size = days * rows
    day = np.repeat(np.arange(days) * every, rows)
    seconds = np.sort(day * 86_400 + rng.integers(0, 86_400 if every == 1 else 1, size))
    events = pl.DataFrame(
        {
            "id": np.arange(size),
            "at": [START + timedelta(seconds=int(second)) for second in seconds],
            "who": rng.integers(0, 40, size),
            "amount": rng.lognormal(3, 1, size),
            "delta": rng.normal(0, 1, size),
            "kind": rng.choice(["x", "y", "z"], size, p=[0.6, 0.39, 0.01]),
            "plan": rng.choice(["a", "b"], size),
            "rare": rng.random(size) < 0.02,
            "fee": np.where(rng.random(size) < 0.3, rng.integers(100, 200, size), 0),
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    delay = pl.Series(rng.integers(3_600, 3 * 86_400, size) * 1_000_000).cast(pl.Duration("us"))
    labels = events.select("id", bad=pl.Series(rng.integers(0, 2, size)), known_at="at")
    labels = labels.with_columns(pl.col("known_at") + delay)
    return events, labels.filter(pl.col("known_at") <= events["at"].max())


WORLD = make_world()
END = START + 30 * DAY
OUTSIDE = make_world(42)  # the same source, running on


def history_of(
    events: pl.DataFrame, labels: pl.DataFrame | None, moment: datetime, spec: PipelineSpec
) -> History:
    """As the feature step makes it, from whole tables."""
    days = measure_days(events, spec)

    def done() -> float:
        earlier = pl.col("at").dt.date() <= days["mlcicd_day"][-8]
        return last_share(events.filter(earlier)["at"], last)

    def orphans() -> float:
        if labels is None:
            return 0.0
        told = labels.filter(pl.col("known_at") > moment - DAY)
        return told.join(events, on="id", how="anti").height / told.height

    last = events["at"].max() or moment
    return make_history(days, spec, as_of=moment, last=last, done=done, orphans=orphans)


def failed(
    events: pl.DataFrame, labels: pl.DataFrame | None, spec: PipelineSpec | None = None
) -> dict[str, str]:
    spec = spec or make_spec()
    moment = as_of(events.lazy(), labels.lazy() if labels is not None else None, spec)
    history = history_of(events, labels, moment, spec)
    verdicts = history_gates(history, subject="d" * 64, gates=spec.gates)
    assert [v.gate for v in verdicts] == ["volume", "freshness", "column_history", "duplicates"]
    return {verdict.gate: verdict.detail for verdict in verdicts if not verdict.passed}


def within(first: float, last: float) -> pl.Expr:
    """From `first` to `last` days before the end."""
    return (pl.col("at") >= END - first * DAY) & (pl.col("at") < END - last * DAY)


def changed(first: float = 1, last: float = 0, **columns: Any) -> pl.DataFrame:
    """The events with other values in some columns of the newest day, or another one."""
    new = {
        name: pl.when(within(first, last)).then(value).otherwise(name)
        for name, value in columns.items()
    }
    return WORLD[0].with_columns(**new)


def copied(part: pl.Expr) -> pl.DataFrame:
    copies = WORLD[0].filter(part).with_columns(pl.col("id") + 1_000_000)
    return pl.concat([WORLD[0], copies])


def cut(part: pl.Expr) -> pl.DataFrame:
    return WORLD[0].filter(~part)


TENTH = pl.col("id") % 10 != 0
FAULTS: dict[str, tuple[pl.DataFrame, str, str]] = {
    "truncated": (cut(within(1, 0) & TENTH), "volume", "20 rows on 2024-03-30, usually 19"),
    "truncated before": (cut(within(6, 5) & TENTH), "volume", "20 rows on 2024-03-25"),
    "ten times": (
        pl.concat([WORLD[0], *[WORLD[0].filter(within(1, 0)) for _ in range(9)]]),
        "volume",
        "2000 rows on 2024-03-30",
    ),
    "a hole": (
        cut(within(6, 2)),
        "freshness",
        "no event between 2024-03-24 and 2024-03-29, allowed 3 days",
    ),
    "a date far ahead": (
        pl.concat([WORLD[0], WORLD[0].tail(1).with_columns(pl.col("at") + 9 * DAY)]),
        "freshness",
        "no event between 2024-03-30 and 2024-04-08",
    ),
    "cents": (changed(amount=pl.col("amount") * 100), "column_history", "amount has a median"),
    "euros": (changed(amount=pl.col("amount") / 100), "column_history", "amount has a median"),
    "cents before": (changed(4, 3, amount=pl.col("amount") * 100), "column_history", "2024-03-27"),
    "shifted": (changed(delta=pl.col("delta") + 50), "column_history", "delta has a median size"),
    "mostly 0": (changed(fee=pl.col("fee") * 100), "column_history", "fee has a median size"),
    "all null": (changed(amount=None), "column_history", "amount has a share of nulls of 1 on"),
    "some null": (
        changed(kind=pl.when(pl.col("id") % 4 > 0).then("kind")),
        "column_history",
        "kind has a share of nulls of 0.25 on 2024-03-30, allowed 0 to 0.1",
    ),
    "constant": (changed(plan=pl.lit("a")), "column_history", "plan has one value in a share"),
    "constant number": (changed(amount=20.0), "column_history", "amount has one value in a share"),
    "new category": (
        changed(kind=pl.when(pl.col("id") % 10 == 0).then(pl.lit("w")).otherwise("kind")),
        "column_history",
        "kind has the new category 'w' in 20 rows on 2024-03-30",
    ),
    "delivered twice": (copied(within(1, 0)), "duplicates", "twin of 1 on 2024-03-30"),
    "delivered twice before": (copied(within(7, 6)), "duplicates", "twin of 1 on 2024-03-24"),
    "a fifth twice": (
        copied(within(1, 0) & (pl.col("id") % 5 == 0)),
        "duplicates",
        "twin of 0.3333 on 2024-03-30, allowed 0 to 0.01",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_by_its_gate_and_named(fault: str) -> None:
    events, gate, words = FAULTS[fault]
    found = failed(events, WORLD[1])
    assert words in found[gate]
    # Ten copies are duplicates, too, and a lonely row ten days ahead is hardly a day.
    also = {"ten times": {"duplicates"}, "a date far ahead": {"volume"}}
    assert found.keys() == {gate, *also.get(fault, ())}


@pytest.mark.parametrize("days", [4.5, 10])
def test_events_that_stop_while_labels_of_new_rows_go_on_are_found(days: float) -> None:
    until = OUTSIDE[0]["at"].max()
    events = OUTSIDE[0].filter(pl.col("at") < until - days * DAY)
    (detail,) = failed(events, OUTSIDE[1]).values()
    assert f"no event for {days:.3g}" in detail
    assert "allowed 3; " in detail
    assert "of the last labels are about rows that never arrived" in detail


def honest() -> dict[str, Callable[[], tuple[pl.DataFrame, pl.DataFrame | None]]]:
    events, labels = WORLD
    all_known = events.select("id", bad=pl.lit(0, dtype=pl.Int64), known_at=pl.col("at") + 3 * DAY)
    weekday = pl.col("at").dt.weekday()
    quiet = pl.col("id") % 20 == 0
    return {
        "as it is": lambda: (events, labels),
        "few days": lambda: (events.filter(within(30, 12)), labels),
        "until 6 am": lambda: (events.filter(pl.col("at") < END - 0.75 * DAY), labels.head(100)),
        "one second of a day": lambda: (events.filter(within(30, 1) | within(1, 0.9999)), labels),
        "all labels mature": lambda: (events, all_known),
        "one snapshot of labels": lambda: (
            events,
            all_known.with_columns(known_at=pl.lit(END + 3 * DAY)),
        ),
        "quiet weekends": lambda: (events.filter((weekday < 6) | quiet), labels),
        "closed weekends": lambda: (events.filter(weekday < 6), labels),
        "monthly": lambda: make_world(24, every=30),
        "a rare value is missing": lambda: (changed(rare=pl.lit(False)), labels),
        "few rows a day": lambda: make_world(rows=5),
        "a tiny day": lambda: (
            changed(amount=None).filter(within(30, 1) | (pl.col("id") < 29 * ROWS + 5)),
            labels,
        ),
        "an always empty column": lambda: (
            events.with_columns(amount=pl.lit(None, dtype=pl.Float64)),
            labels,
        ),
        "drift": lambda: (
            changed(7, 0, amount=pl.col("amount") * 2, delta=pl.col("delta") - 1),
            labels,
        ),
        "honest twins": lambda: (
            events.select(
                "id", pl.col("at").dt.truncate("1h"), "kind", "plan", "rare", who=1
            ).with_columns(amount=1.0, delta=1.0, fee=1),
            labels,
        ),
        "entities and keys": lambda: (changed(who=pl.col("who") * 1_000), labels),
        "a dozen new ones": lambda: (
            changed(kind=pl.when(pl.col("id") % 25 == 0).then(pl.lit("w")).otherwise("kind")),
            labels,
        ),
        "many categories": lambda: (
            events.with_columns(kind=(pl.col("id") // 10).cast(pl.String)),
            labels,
        ),
    }


@pytest.mark.parametrize("case", honest())
def test_an_honest_table_passes(case: str) -> None:
    assert failed(*honest()[case]()) == {}


@pytest.mark.parametrize("seed", range(5))
def test_no_state_of_an_honest_feed_is_blocked(seed: int) -> None:
    events, labels = make_world(seed=seed)
    for hours in range(14 * 24, 30 * 24, 17):
        now = START + timedelta(hours=hours)
        known = labels.filter(pl.col("known_at") <= now)
        assert failed(events.filter(pl.col("at") <= now), known) == {}


def test_labels_in_a_column_are_not_judged_and_date_the_data() -> None:
    columns = {**COLUMNS, "bad": {"type": "integer", "nullable": True}}
    spec = make_spec(contract={"columns": columns}, label={"source": None})
    events = WORLD[0].with_columns(bad=pl.when(~within(2, 0)).then(pl.col("id") % 2))
    assert failed(events, None, spec) == {}
    assert failed(events.filter(~within(6, 1)), None, spec).keys() == {"freshness"}


@pytest.mark.parametrize(
    "setting", ["volume_factor", "max_gap_days", "shift_factor", "max_duplicate_share"]
)
def test_too_little_history_is_said_and_a_gate_can_be_off(setting: str) -> None:
    spec = make_spec(gates={"floors": {"roc_auc": 0.5}, "history": {setting: None}})
    history = history_of(*WORLD, END, spec)
    judged = {v.gate for v in history_gates(history, subject="d", gates=spec.gates)}
    others = {"contract", "feature_sanity", "point_in_time"}
    assert judged == {gate.name for gate in data_gates(spec.gates)} - others
    assert len(judged) == 3
    events = FAULTS["cents"][0].filter(within(20, 0))
    short = history_of(events, WORLD[1], END, spec)
    for verdict in history_gates(short, subject="d", gates=spec.gates):
        assert verdict.passed
        assert "13 earlier days of 14 needed" in verdict.detail


def test_nothing_passes_no_gate() -> None:
    empty = history_of(WORLD[0].clear(), WORLD[1], END, make_spec())
    verdicts = history_gates(empty, subject="d", gates=make_spec().gates)
    assert [verdict.passed for verdict in verdicts] == [False] * 4


@pytest.mark.parametrize("seed", range(6))
def test_about_as_many_honest_twins_as_usual_pass(seed: int) -> None:
    events, labels = make_world(seed=seed)
    quarter = pl.col("at").dt.truncate("15m")
    coarse = events.select(
        "id", quarter, "kind", "plan", "rare", amount=1.0, delta=1.0, fee=1, who=1
    )
    assert failed(coarse, labels) == {}
