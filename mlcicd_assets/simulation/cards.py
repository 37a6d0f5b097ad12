"""Card payments with three kinds of fraud, day by day, and the chargebacks that follow."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets.simulation.population import Population, make_population

if TYPE_CHECKING:
    import polars as pl

DAY = 86_400
CHANNELS = ("chip", "contactless", "online")
CONTACTLESS_UP_TO = 50.0
CONTACTLESS_SHARE = 0.6
ONLINE_SHARE = 0.2
ONLINE_SHARE_OF_THIEVES = 0.85
LEAK_MULTIPLE = 5

# Streams of random numbers; each also has the seed, the latter two the day.
POPULATION, FRAUDSTERS, PAYMENTS = range(3)


@dataclass(frozen=True)
class Simulated:
    """Payments in the order of time, and chargebacks in the order in which they became known.

    `transactions`: transaction_id, tx_time (us UTC), customer_id, terminal_id, amount, channel,
    card_limit. `labels`: transaction_id, is_fraud (always 1), known_at (us UTC): frauds only, 1
    to 7 days after the payment, thus partly after the last simulated day.
    """

    transactions: "pl.DataFrame"
    labels: "pl.DataFrame"


@dataclass(frozen=True)
class _Day:
    """The payments of one day, all arrays (n,), sorted by time; `delay` in s, 0: no fraud."""

    second: np.ndarray
    customer: np.ndarray
    terminal: np.ndarray
    amount: np.ndarray
    channel: np.ndarray
    delay: np.ndarray


def simulate(config: CardSimulation, days: int) -> Simulated:
    """Simulate the first `days` days; more days never change the earlier ones.

    Raises:
        ValueError: `days` is below 1.
    """
    if days < 1:
        raise ValueError(f"days is {days}: simulate at least one day")
    population = make_population(config, np.random.default_rng([config.seed, POPULATION]))
    states = _fraudsters(config, days)
    simulated = [
        _one_day(config, population, day, compromised=compromised, leaked=leaked)
        for day, (compromised, leaked) in enumerate(states)
    ]
    return _frames(config.start, population, simulated)


def _fraudsters(config: CardSimulation, days: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each day which terminals are compromised and which customers' data leaked."""
    # Fraud is in full swing on the first day: the draws begin one longest campaign earlier.
    before = max(config.compromise_days, config.leak_days)
    compromised_until = np.zeros(config.terminals, dtype=np.int64)
    leaked_until = np.zeros(config.customers, dtype=np.int64)
    for day in range(before + days):
        rng = np.random.default_rng([config.seed, FRAUDSTERS, day])
        new = rng.random(config.terminals) < config.compromise_rate
        compromised_until[new] = day + config.compromise_days
        new = rng.random(config.customers) < config.leak_rate
        leaked_until[new] = day + config.leak_days
        if day >= before:
            yield compromised_until > day, leaked_until > day


def _one_day(
    config: CardSimulation,
    population: Population,
    day: int,
    *,
    compromised: np.ndarray,
    leaked: np.ndarray,
) -> _Day:
    rng = np.random.default_rng([config.seed, PAYMENTS, day])
    payments = rng.poisson(population.payments_a_day)
    customer = np.repeat(np.arange(config.customers), payments)
    size = customer.size
    second = np.sort(rng.normal(DAY / 2, 20_000, size).astype(np.int64) % DAY)
    rng.shuffle(customer)
    choice = (rng.random(size) * population.count[customer]).astype(np.int64)
    terminal = population.reachable[population.first[customer] + choice]
    stolen = leaked[customer] & (rng.random(size) < config.leaked_share)
    amount = _amounts(population, customer, stolen=stolen, rng=rng)
    fraud = (amount > config.fraud_above) | compromised[terminal] | stolen
    delay = np.where(fraud, rng.integers(DAY, 7 * DAY, size, endpoint=True), 0)
    channel = _channels(amount, stolen=stolen, rng=rng)
    return _Day(second, customer, terminal, amount, channel, delay)


def _amounts(
    population: Population, customer: np.ndarray, *, stolen: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    mean = population.mean_amount[customer]
    amount = rng.normal(mean, mean / 2)
    amount = np.where(amount < 0, rng.uniform(0, 2 * mean), amount)
    amount = np.where(stolen, LEAK_MULTIPLE * amount, amount)
    return np.minimum(np.round(amount, 2), population.card_limit[customer])


def _channels(amount: np.ndarray, *, stolen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    online = rng.random(amount.size) < np.where(stolen, ONLINE_SHARE_OF_THIEVES, ONLINE_SHARE)
    tap = (rng.random(amount.size) < CONTACTLESS_SHARE) & (amount <= CONTACTLESS_UP_TO)
    chip, contactless, remote = range(len(CHANNELS))
    return np.where(online, remote, np.where(tap, contactless, chip))


def _frames(start: date, population: Population, days: list[_Day]) -> Simulated:
    import polars as pl

    midnight = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp())
    time = np.concatenate([midnight + n * DAY + day.second for n, day in enumerate(days)])
    customer = np.concatenate([day.customer for day in days])
    delay = np.concatenate([day.delay for day in days])
    identity = np.arange(time.size)
    transactions = pl.DataFrame(
        {
            "transaction_id": identity,
            "tx_time": _utc(time),
            "customer_id": customer,
            "terminal_id": np.concatenate([day.terminal for day in days]),
            "amount": np.concatenate([day.amount for day in days]),
            "channel": pl.Series(CHANNELS).gather(np.concatenate([day.channel for day in days])),
            "card_limit": population.card_limit[customer],
        }
    )
    fraud = delay > 0
    labels = pl.DataFrame(
        {
            "transaction_id": identity[fraud],
            "is_fraud": np.ones(int(fraud.sum()), dtype=np.int64),
            "known_at": _utc((time + delay)[fraud]),
        }
    )
    return Simulated(transactions, labels.sort("known_at", "transaction_id"))


def _utc(seconds: np.ndarray) -> "pl.Series":
    import polars as pl

    return pl.Series(seconds * 1_000_000).cast(pl.Datetime("us", "UTC"))
