"""Features that see the future, planted, and honest ones that do not."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from mlcicd_assets.ml import features
from mlcicd_assets.ml.features import compute_features
from mlcicd_assets.ml.point_in_time import future_seen
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
    everything = compute_features(events.lazy(), lazy, spec)
    found, rows = future_seen(events, labels, everything, spec)
    assert 250 <= rows <= 500
    return set(found)


def test_honest_features_see_no_future() -> None:
    assert seen(make_spec(), *WORLD) == set()
    assert seen(make_spec(), *make_world(24, every=30)) == set()
    plain = small_spec(COLUMNS, features={"columns": ["amount"]})
    assert seen(plain, *WORLD) == set()


def planted(spec: PipelineSpec) -> Callable[..., dict[str, pl.Expr]]:
    """Windows centred on the row, and a label rate of labels not known yet."""

    def columns(windows: Any, _: PipelineSpec) -> dict[str, pl.Expr]:
        around = {"index_column": "at", "period": "2d", "offset": "-1d"}
        rate = pl.col("label").mean().rolling("at", period="4d").over("who")
        return {
            "who_count_2d": pl.len().rolling(**around).over("who").cast(pl.Float64),
            "who_mean_amount_2d": pl.col("amount").mean().rolling("at", period="2d").over("who"),
            "who_count_4d": pl.lit(0.0),
            "who_label_rate_4d": rate,
        }

    return columns


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
    monkeypatch.setattr(features, "_window_columns", planted(spec))
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
