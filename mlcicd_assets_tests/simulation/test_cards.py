import re
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.simulation.cards import Simulated, _fraudsters, _one_day, simulate
from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets.simulation.population import make_population

SMALL = CardSimulation(3, customers=300, terminals=600, start=date(2026, 1, 30))
CALM = replace(SMALL, customers=2_000, fraud_above=1e9, compromise_rate=0, leak_rate=0)


def marked(simulated: Simulated) -> pl.DataFrame:
    """The payments, with `fraud` and the number of the day."""
    labels = simulated.labels.select("transaction_id", "known_at", fraud=pl.lit(1))
    joined = simulated.transactions.join(labels, on="transaction_id", how="left")
    return joined.with_columns(pl.col("fraud").fill_null(0), day=pl.col("tx_time").dt.date())


def test_equal_knobs_give_equal_data() -> None:
    one, other = simulate(SMALL, 5), simulate(SMALL, 5)
    assert one.transactions.equals(other.transactions)
    assert one.labels.equals(other.labels)


def test_another_seed_is_another_world() -> None:
    one, other = simulate(SMALL, 2), simulate(replace(SMALL, seed=4), 2)
    assert not one.transactions["card_limit"].equals(other.transactions["card_limit"])
    assert one.transactions.height != other.transactions.height


def test_payments_and_fraudsters_depend_on_the_seed_too() -> None:
    population = make_population(SMALL, np.random.default_rng(1))
    worlds = [replace(SMALL, seed=seed, leak_rate=0.1) for seed in (3, 4)]
    leaks = [next(_fraudsters(world, 1))[1] for world in worlds]
    assert (leaks[0] != leaks[1]).any()
    calm = {"compromised": np.zeros(600, dtype=bool), "leaked": np.zeros(300, dtype=bool)}
    days = [_one_day(world, population, 0, **calm) for world in worlds]
    assert days[0].second.size != days[1].second.size


def test_more_days_never_change_the_earlier_ones() -> None:
    config = replace(SMALL, compromise_rate=0.01, leak_rate=0.01)
    short, long = simulate(config, 9), simulate(config, 40)
    rows = short.transactions.height
    assert long.transactions.head(rows).equals(short.transactions)
    assert long.labels.filter(pl.col("transaction_id") < rows).equals(short.labels)
    assert short.labels.height > 50


def test_days_are_not_repeats_of_each_other() -> None:
    days = marked(simulate(SMALL, 3)).partition_by("day")
    assert len(days) == 3
    assert len({tuple(day["amount"].head(20)) for day in days}) == 3


def test_default_volume_and_fraud_share() -> None:
    simulated = simulate(CardSimulation(0), 20)
    rows = simulated.transactions.height
    assert 20 * 5_500 < rows < 20 * 6_300
    assert 0.005 < simulated.labels.height / rows < 0.010


def test_rows_grow_with_customers() -> None:
    one, three = simulate(SMALL, 4), simulate(replace(SMALL, customers=900), 4)
    assert three.transactions.height == pytest.approx(3 * one.transactions.height, rel=0.15)


def test_payments_gather_around_noon() -> None:
    hours = simulate(SMALL, 10).transactions["tx_time"].dt.hour()
    assert hours.is_between(9, 14).mean() > 1.8 * hours.is_in([0, 1, 2, 21, 22, 23]).mean()


def test_payments_of_each_day_are_in_the_order_of_time() -> None:
    payments = simulate(SMALL, 5).transactions
    assert payments["tx_time"].is_sorted()
    assert payments["transaction_id"].to_list() == list(range(payments.height))
    # The order of a day says nothing about the customers.
    assert payments["customer_id"].head(100).mean() == pytest.approx(150, abs=30)
    days = payments["tx_time"].dt.date().unique().sort().to_list()
    assert [str(day) for day in days] == [
        "2026-01-30", "2026-01-31", "2026-02-01", "2026-02-02", "2026-02-03"
    ]  # fmt: skip


def test_customers_keep_their_habits() -> None:
    customers = simulate(CALM, 30).transactions.group_by("customer_id").agg(
        pl.col("card_limit").n_unique().alias("limits"),
        pl.col("terminal_id").n_unique().alias("terminals"),
        pl.col("amount").mean(),
        pl.len().alias("payments"),
    )  # fmt: skip
    assert customers["limits"].max() == 1
    regular = customers.filter(pl.col("payments") > 60)
    assert regular["terminals"].max() < 25
    assert regular["amount"].min() < 15
    assert regular["amount"].max() > 85


def test_campaigns_last_as_long_as_the_knobs_say() -> None:
    config = replace(SMALL, compromise_rate=0.01, compromise_days=6, leak_rate=0.01, leak_days=4)
    for part, days in enumerate((6, 4)):
        states = np.array([state[part] for state in _fraudsters(config, 60)]).astype(int)
        lines = ["".join(map(str, line)) for line in states.T]
        runs = [len(run) for line in lines for run in re.findall("(?<=0)1+(?=0)", line)]
        assert len(runs) > 50
        # A second campaign may prolong the first one; none is shorter.
        assert min(runs) == days
        assert np.median(runs) == days


def test_no_fraudster_no_fraud() -> None:
    assert simulate(CALM, 10).labels.height == 0


def test_scenario_1_every_payment_above_the_limit_is_fraud() -> None:
    payments = marked(simulate(replace(CALM, fraud_above=220), 30))
    assert payments.filter(pl.col("amount") > 220)["fraud"].min() == 1
    assert payments.filter(pl.col("amount") <= 220)["fraud"].max() == 0
    assert 0.000_1 < payments["fraud"].mean() < 0.001


@pytest.mark.parametrize("days", [7, 28])
def test_scenario_2_all_payments_at_a_compromised_terminal_are_fraud(days: int) -> None:
    config = replace(CALM, terminals=3_000, compromise_rate=0.002, compromise_days=days)
    payments = marked(simulate(config, 30))
    by_terminal = payments.group_by("terminal_id", "day").agg(pl.col("fraud").mean())
    assert set(by_terminal["fraud"]) == {0.0, 1.0}
    expected = 1 - (1 - 0.002) ** days
    assert payments["fraud"].mean() == pytest.approx(expected, rel=0.15)


def test_fraud_is_in_full_swing_on_the_first_day() -> None:
    config = replace(CALM, terminals=4_000, compromise_rate=0.01)
    fraud = marked(simulate(config, 1))["fraud"]
    assert fraud.mean() == pytest.approx(1 - (1 - 0.01) ** 28, rel=0.15)


@pytest.mark.parametrize("days", [4, 14])
def test_scenario_3_thieves_take_five_times_as_much_online(days: int) -> None:
    payments = marked(simulate(replace(CALM, leak_rate=0.004, leak_days=days), 30))
    expected = (1 - (1 - 0.004) ** days) / 3
    assert payments["fraud"].mean() == pytest.approx(expected, rel=0.15)
    stolen = payments.filter(pl.col("fraud") == 1)
    # Compared with the same customers' own payments, for a thief's victims are not a fair draw.
    own = payments.filter(pl.col("fraud") == 0).group_by("customer_id").agg(
        pl.col("amount").mean().alias("usual")
    )  # fmt: skip
    multiple = stolen.join(own, on="customer_id").select(pl.col("amount") / pl.col("usual"))
    assert multiple["amount"].mean() == pytest.approx(5, rel=0.1)
    assert stolen["channel"].eq("online").mean() == pytest.approx(0.85, abs=0.05)


def test_channels_carry_signal() -> None:
    payments = marked(simulate(replace(SMALL, customers=2_000), 20))
    shares = dict(payments["channel"].value_counts(normalize=True).iter_rows())
    assert shares["online"] == pytest.approx(0.2, abs=0.02)
    assert shares["contactless"] > 0.2
    assert payments.filter(pl.col("channel") == "contactless")["amount"].max() <= 50
    fraud = dict(payments.group_by("channel").agg(pl.col("fraud").mean()).iter_rows())
    assert fraud["online"] > 2 * fraud["chip"]


def test_chargebacks_come_one_to_seven_days_later() -> None:
    simulated = simulate(replace(SMALL, compromise_rate=0.02), 20)
    labels = simulated.labels.join(simulated.transactions, on="transaction_id")
    days = (labels["known_at"] - labels["tx_time"]).dt.total_seconds() / 86_400
    assert days.min() >= 1
    assert days.max() <= 7
    assert days.min() < 1.1
    assert days.max() > 6.9
    assert simulated.labels["known_at"].is_sorted()
    assert simulated.labels["is_fraud"].unique().to_list() == [1]


def test_days_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="days is 0"):
        simulate(SMALL, 0)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("seed", -1),
        ("customers", 0),
        ("terminals", 0),
        ("reach", -0.1),
        ("fraud_above", float("nan")),
        ("compromise_rate", 1.01),
        ("leak_rate", -0.01),
        ("leaked_share", 2),
        ("compromise_days", 0),
        ("leak_days", 0),
    ],
)
def test_a_knob_out_of_range_is_named(knob: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"CardSimulation\.{knob} is {value}: give a number"):
        replace(SMALL, **{knob: value})
