"""Who pays where: the customers' habits and the terminals within their reach."""

from dataclasses import dataclass

import numpy as np

from mlcicd_assets.simulation.config import CardSimulation

SIDE = 100.0
# A thief multiplies the amount by 5; the limit leaves room for nearly all of that.
LIMIT_IN_MEANS = 12.5


@dataclass(frozen=True)
class Population:
    """Habits by customer, shape (customers,), and a flat list of reachable terminals.

    Customer c reaches `reachable[first[c] : first[c] + count[c]]`, never an empty range.
    Amounts and limits in currency units, limits in whole hundreds.
    """

    mean_amount: np.ndarray
    card_limit: np.ndarray
    payments_a_day: np.ndarray
    reachable: np.ndarray
    first: np.ndarray
    count: np.ndarray


def make_population(config: CardSimulation, rng: np.random.Generator) -> Population:
    """Draw the customers and terminals that stay the same for all days."""
    customers = rng.uniform(0, SIDE, (config.customers, 2))
    terminals = rng.uniform(0, SIDE, (config.terminals, 2))
    mean_amount = rng.uniform(5, 100, config.customers)
    reached = _reach(customers, terminals, config.reach)
    count = np.array([len(part) for part in reached])
    return Population(
        mean_amount=mean_amount,
        card_limit=np.ceil(mean_amount * LIMIT_IN_MEANS / 100) * 100,
        payments_a_day=rng.uniform(0, 4, config.customers),
        reachable=np.concatenate(reached),
        first=np.cumsum(count) - count,
        count=count,
    )


def _reach(customers: np.ndarray, terminals: np.ndarray, reach: float) -> list[np.ndarray]:
    # Sorted by x, the candidates of a customer are one slice: a tenth of the terminals or so.
    order = np.argsort(terminals[:, 0], kind="stable")
    places = terminals[order]
    low = np.searchsorted(places[:, 0], customers[:, 0] - reach, side="left")
    high = np.searchsorted(places[:, 0], customers[:, 0] + reach, side="right")
    reached = []
    for place, start, stop in zip(customers, low, high, strict=True):
        near = np.square(places[start:stop] - place).sum(axis=1) <= reach**2
        inside = order[start:stop][near]
        reached.append(inside if inside.size else _nearest(place, terminals))
    return reached


def _nearest(place: np.ndarray, terminals: np.ndarray) -> np.ndarray:
    return np.array([np.square(terminals - place).sum(axis=1).argmin()])
