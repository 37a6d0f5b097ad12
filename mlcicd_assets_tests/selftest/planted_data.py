"""Planted bad data: what must never become a model, or reach one."""

from collections.abc import Callable

import polars as pl
import pytest

from mlcicd_assets.ml import features
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.selftest.bench import Bench, Case
from mlcicd_assets_tests.selftest.world import COLUMNS, DAYS, LABELS, day_of, write

Change = Callable[[pl.DataFrame], pl.DataFrame]
Plant = Callable[[Bench, pytest.MonkeyPatch], object]
NEW_IDS = 10_000_000


def arrives(change: Change, days: int = 2) -> Plant:
    """The next days arrive, each changed on the way."""
    after = range(DAYS + 1, DAYS + days + 1)
    return lambda bench, _: bench.world.land(bench.settings.landing, after, change)


def columns(**changes: pl.Expr) -> Plant:
    return arrives(lambda day: day.with_columns(**changes))


def copied(day: pl.DataFrame, times: int, *, seconds: int = 0) -> pl.DataFrame:
    """Rows again under new ids, each copy some seconds later."""
    copies = [
        day.with_columns(
            pl.col("transaction_id") + NEW_IDS * n,
            pl.col("tx_time") + pl.duration(seconds=n * seconds),
        )
        for n in range(times)
    ]
    return pl.concat(copies).sort("tx_time", "transaction_id")


def some_rows_twice(day: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([copied(day[:40], 2), day[40:]])


def resent_under_old_ids(day: pl.DataFrame) -> pl.DataFrame:
    return day.with_columns(pl.col("transaction_id") - day.height)


def feed_stops(bench: Bench, _: pytest.MonkeyPatch) -> None:
    """Chargebacks go on about payments that never arrived."""
    for number in range(DAYS + 1, DAYS + 15):
        write(bench.world.labels_of(number), bench.settings.landing / LABELS / f"{number}.parquet")


def feed_has_a_hole(bench: Bench, _: pytest.MonkeyPatch) -> None:
    bench.world.land(bench.settings.landing, range(DAYS + 6, DAYS + 8))


def told(select: pl.Expr, share: float = 1.0, *, after_days: int = 1) -> Plant:
    """Chargebacks for chosen payments of the newest training days, known so many days later."""

    def plant(bench: Bench, _: pytest.MonkeyPatch) -> None:
        recent = pl.col("tx_time").dt.date().is_between(day_of(DAYS - 30), day_of(DAYS - 25))
        chosen = bench.world.events.filter(recent, select).sample(fraction=share, seed=1)
        labels = chosen.select(
            "transaction_id",
            is_fraud=pl.lit(1, dtype=pl.Int64),
            known_at=pl.col("tx_time") + pl.duration(days=after_days),
        )
        write(labels, bench.settings.landing / LABELS / "late.parquet")

    return plant


def windows_see_the_future(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """Each window covers the days around a payment instead of those before it."""
    honest = features.window_columns

    def centred(rows: pl.DataFrame, spec: PipelineSpec, *, skip: int) -> dict[str, pl.Series]:
        name, around = "customer_id_count_1d", {"period": "1d", "offset": "-12h"}
        count = pl.len().rolling(spec.time.column, **around).over("customer_id")
        planted = rows.select(count.cast(pl.Float64).alias(name)).to_series()
        return {**honest(rows, spec, skip=skip), name: planted[skip:]}

    patch.setattr(features, "window_columns", centred)


def label_rates_see_the_future(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """All labels of the past payments count, those too that were not known yet."""
    honest = features.window_columns

    def early(rows: pl.DataFrame, spec: PipelineSpec, *, skip: int) -> dict[str, pl.Series]:
        name = "terminal_id_label_rate_7d"
        rate = pl.col("label").fill_null(0).mean().rolling(spec.time.column, period="7d")
        planted = rows.select(rate.over("terminal_id").alias(name)).to_series()
        return {**honest(rows, spec, skip=skip), name: planted[skip:]}

    patch.setattr(features, "window_columns", early)


# A patched feature computation needs a table of its own.
OTHER_FEATURES = {"features__calendar": ["hour", "night"]}
IS_BANK_1 = pl.col("acquirer") == "bank 1"

DATA = (
    Case("wrong_schema", "contract", plant=columns(amount=pl.col("amount").cast(pl.String))),
    Case("category_not_allowed", "contract", plant=columns(channel=pl.lit("pigeon"))),
    Case("nulls_where_none_may_be", "contract", plant=columns(amount=pl.lit(None, pl.Float64))),
    Case("old_ids_used_again", "contract", plant=arrives(resent_under_old_ids)),
    Case("contract_tightened", "contract", {"contract__columns__amount__max": 100}),
    Case("feature_never_filled", "feature_sanity", {"features__columns": [*COLUMNS, "fee"]}),
    Case("truncated_batch", "volume", plant=arrives(lambda day: day.sample(fraction=0.1, seed=1))),
    Case("batch_eight_times", "volume", plant=arrives(lambda day: copied(day, 8, seconds=1))),
    Case("batch_twice", "duplicates", plant=arrives(lambda day: copied(day, 2))),
    Case("some_rows_twice", "duplicates", plant=arrives(some_rows_twice)),
    Case("stale_data", "freshness", plant=feed_stops),
    Case("hole_in_the_feed", "freshness", plant=feed_has_a_hole),
    Case(
        "newest_day_all_null", "column_history", plant=columns(device_age=pl.lit(None, pl.Float64))
    ),
    Case("newly_constant", "column_history", plant=columns(device_age=pl.lit(7.0))),
    Case(
        "amounts_in_cents",
        "column_history",
        plant=columns(amount=pl.col("amount") * 100, card_limit=pl.col("card_limit") * 100),
    ),
    Case(
        "category_never_seen",
        "column_history",
        plant=columns(acquirer=pl.when(IS_BANK_1).then(pl.lit("bank 9")).otherwise("acquirer")),
    ),
    Case("window_sees_the_future", "point_in_time", OTHER_FEATURES, windows_see_the_future),
    Case("label_rate_sees_the_future", "point_in_time", OTHER_FEATURES, label_rates_see_the_future),
    Case("labels_flipped_in_one_source", "poisoning", plant=told(IS_BANK_1, 0.2)),
    Case("one_source_floods_the_positives", "poisoning", plant=told(IS_BANK_1)),
)
