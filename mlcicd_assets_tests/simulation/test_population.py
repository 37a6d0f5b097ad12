import numpy as np
import pytest

from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets.simulation.population import _reach, make_population


@pytest.mark.parametrize("reach", [0.0, 3.0, 40.0])
def test_reach_is_all_terminals_within_it_or_else_the_nearest(reach: float) -> None:
    rng = np.random.default_rng(5)
    customers, terminals = rng.uniform(0, 100, (60, 2)), rng.uniform(0, 100, (200, 2))
    distances = np.linalg.norm(customers[:, None] - terminals[None], axis=2)
    for reached, row in zip(_reach(customers, terminals, reach), distances, strict=True):
        within = set(np.flatnonzero(row <= reach)) or {row.argmin()}
        assert set(reached) == within


def test_every_customer_has_a_range_of_reachable_terminals() -> None:
    config = CardSimulation(1, customers=500, terminals=40)
    population = make_population(config, np.random.default_rng(1))
    assert population.count.min() == 1
    assert population.count.max() > 1
    assert (population.first + population.count)[-1] == population.reachable.size
    assert population.reachable.max() < 40


def test_limits_are_whole_hundreds_well_above_the_usual_amounts() -> None:
    population = make_population(CardSimulation(1), np.random.default_rng(1))
    assert (population.card_limit % 100 == 0).all()
    assert (population.card_limit >= 12 * population.mean_amount).all()
    assert population.card_limit.max() == 1_300
