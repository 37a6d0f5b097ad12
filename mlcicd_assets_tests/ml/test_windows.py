"""Windows are the same bit for bit, however the rows are shared out."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.ml import windows
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.windows import reach_days, window_columns
from mlcicd_assets_tests.ml.specs import small_spec

COLUMNS = {
    "id": {"type": "integer"},
    "at": {"type": "timestamp"},
    "who": {"type": "integer"},
    "amount": {"type": "number", "nullable": True},
}
WINDOWS = [
    {"entity": "who", "days": [1, 3], "stats": ["count", "mean"], "of": "amount"},
    {"entity": "who", "days": [2], "stats": ["count", "label_rate"], "delay_days": 2},
]
SPEC = small_spec(COLUMNS, features={"windows": WINDOWS}, label={"matures_after_days": 3})
ROWS = 400


def make_rows(seed: int, *, years: int = 0, text: bool = False) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    hours = np.sort(rng.integers(0, 24 * 12, ROWS)) * 3_600_000_000
    hours[: ROWS // 10] -= years * 365 * 24 * 3_600_000_000
    who = pl.Series(rng.integers(-3, 9, ROWS) * (1 if seed % 2 else 2**40))
    return pl.DataFrame(
        {
            "at": pl.Series(hours + 1_700_000_000_000_000).cast(pl.Datetime("us", "UTC")),
            "who": who.cast(pl.String) if text else who,
            "amount": pl.Series(rng.lognormal(3, 4, ROWS)).set(
                pl.Series(rng.random(ROWS) < 0.1), None
            ),
            "label": pl.Series(rng.integers(0, 2, ROWS)).cast(pl.Int8),
            "label_known_at": pl.Series(
                hours + 1_700_000_000_000_000 + rng.integers(-24, 99, ROWS) * 3_600_000_000
            ).cast(pl.Datetime("us", "UTC")),
        }
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("years", [0, 2_000])
@pytest.mark.parametrize("block", [1, 37, 10_000])
def test_parts_equal_the_whole(
    seed: int, years: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(seed, years=years, text=seed == 3)
    whole = pl.DataFrame(window_columns(rows, SPEC, skip=0))
    assert whole["who_mean_amount_3d"].null_count() < ROWS / 4
    monkeypatch.setattr(windows, "BLOCK", block)
    parts = []
    for days in range(12):
        day = datetime(2023, 11, 14, 22, tzinfo=UTC) + pl.duration(days=days)
        near = pl.col("at") >= day - pl.duration(days=reach_days(SPEC) if days else 3_000_000)
        seen = rows.filter(near, pl.col("at") < day + pl.duration(days=1))
        skip = seen.filter(pl.col("at") < day).height if days else 0
        parts.append(pl.DataFrame(window_columns(seen, SPEC, skip=skip)))
    known = pl.concat(parts)
    assert known.equals(whole[: known.height])
    assert known.height > ROWS * 0.9


def test_no_rows_have_no_windows() -> None:
    found = window_columns(make_rows(1).clear(), SPEC, skip=0)
    assert {name: series.dtype for name, series in found.items()} == dict.fromkeys(
        [f"who_{stat}" for stat in ("count_1d", "mean_amount_1d", "count_3d", "mean_amount_3d")]
        + ["who_count_2d", "who_label_rate_2d"],
        pl.Float64,
    )


@pytest.mark.parametrize("value", [2.0**43, -(2.0**43), 1e300])
def test_what_cannot_be_summed_exactly_is_refused(value: Any) -> None:
    rows = make_rows(1).with_columns(amount=pl.lit(value))
    with pytest.raises(DataError, match=r"'amount' holds .* too large for exact sums"):
        window_columns(rows, SPEC, skip=0)


def test_a_label_known_before_its_row_or_too_late_does_not_count() -> None:
    hours = [0, 0, 0, 0, 48 + 1]
    known = [-1, 0, 48, 49, None]
    start, hour = 1_700_000_000_000_000, 3_600_000_000
    stamp = pl.Datetime("us", "UTC")
    rows = pl.DataFrame(
        {
            "at": pl.Series([start + h * hour for h in hours]).cast(stamp),
            "who": [1] * 5,
            "amount": [1.0] * 5,
            "label": pl.Series([1, 1, 0, 1, None], dtype=pl.Int8),
            "label_known_at": pl.Series(
                [None if k is None else start + k * hour for k in known], dtype=pl.Int64
            ).cast(stamp),
        }
    )
    assert window_columns(rows, SPEC, skip=4)["who_label_rate_2d"].to_list() == [0.5]


def test_means_are_those_of_the_values() -> None:
    rows = make_rows(1)
    mean = pl.col("amount").mean().rolling("at", period="3d").over("who")
    expected = rows.select(mean).to_series()
    found = window_columns(rows, SPEC, skip=0)["who_mean_amount_3d"]
    assert found.is_null().equals(expected.is_null())
    assert ((found - expected).abs() <= 1e-9 * expected.abs()).drop_nulls().all()
