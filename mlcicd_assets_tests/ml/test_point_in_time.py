"""Features that see the future, planted, and honest ones that do not."""

import polars as pl
import pytest

from mlcicd_assets.ml import features
from mlcicd_assets.ml.features import make_rows
from mlcicd_assets.ml.point_in_time import future_seen, judged_range
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.ml.specs import small_spec
from mlcicd_assets_tests.ml.test_history import (
    COLUMNS,
    DAY,
    END,
    WORLD,
    changed,
    make_spec,
    make_world,
)


def seen(spec: PipelineSpec, events: pl.DataFrame, labels: pl.DataFrame | None) -> set[str]:
    lazy = None if labels is None else labels.lazy()
    rows = make_rows(events, None, lazy, spec)
    days = rows.group_by(rows["at"].dt.date()).len().sort("at").rows()
    found, judged = future_seen(rows.lazy(), lazy, judged_range(days, spec), spec)
    assert 250 <= judged <= 500
    return set(found)


def test_honest_features_see_no_future() -> None:
    assert seen(make_spec(), *WORLD) == set()
    assert seen(make_spec(), *make_world(24, every=30)) == set()
    plain = small_spec(COLUMNS, features={"columns": ["amount"]})
    assert seen(plain, *WORLD) == set()


def planted(rows: pl.DataFrame, _: PipelineSpec, *, skip: int) -> dict[str, pl.Series]:
    """Windows centred on the row, and a label rate of labels not known yet."""
    around = {"index_column": "at", "period": "2d", "offset": "-1d"}
    columns = rows.select(
        who_count_2d=pl.len().rolling(**around).over("who").cast(pl.Float64),
        who_mean_amount_2d=pl.col("amount").mean().rolling("at", period="2d").over("who"),
        who_count_4d=pl.lit(0.0),
        who_label_rate_4d=pl.col("label").mean().rolling("at", period="4d").over("who"),
    )
    return {series.name: series for series in columns[skip:]}


@pytest.mark.parametrize("is_column", [False, True])
def test_features_that_see_the_future_are_named(
    is_column: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, (events, labels) = make_spec(), WORLD
    if is_column:
        columns = {**COLUMNS, "bad": {"type": "integer"}}
        spec = make_spec(contract={"columns": columns}, label={"source": None})
        events = events.with_columns(bad=pl.col("id") % 2)
        labels = None
    assert seen(spec, events, labels) == set()
    monkeypatch.setattr(features, "window_columns", planted)
    assert seen(spec, events, labels) == {"who_count_2d", "who_label_rate_4d"}


def test_a_value_learned_from_the_whole_table_is_the_future(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaled = {"hour": pl.col("amount") / pl.col("amount").max()}
    monkeypatch.setattr(features, "_calendar", lambda part, _: scaled[part])
    events = changed(amount=pl.col("amount") * 100)
    assert seen(make_spec(), events, WORLD[1]) == {"hour"}


def test_a_value_that_only_the_future_fills_in_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    later = pl.when(pl.col("at").max() > END - DAY).then(1.0)
    monkeypatch.setattr(features, "_calendar", lambda *_: later)
    assert seen(make_spec(), *WORLD) == {"hour"}
