import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcicd_assets.ml.costs import RowCosts, row_costs
from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.features import check_features, compute_features
from mlcicd_assets.ml.policy import Costs
from mlcicd_assets.ml.training import best_cost_threshold
from mlcicd_assets_tests.small_model import small_spec

ROWS = pl.DataFrame({"label": [1, 1, 0, 0], "amount": [100.0, 10.0, 1.0, 5.0]})
COSTS = row_costs(ROWS, Costs(false_positive=4, false_negative="amount", true_positive=2))


def test_a_decision_costs_an_amount_or_what_its_column_says() -> None:
    assert COSTS.alert.tolist() == [2, 2, 4, 4]
    assert COSTS.silent.tolist() == [100, 10, 0, 0]


@pytest.mark.parametrize(
    ("alerts", "saving"),
    [
        ([1, 1, 1, 1], 0.0),  # 12 to always alert, 110 never to
        ([1, 1, 0, 0], 1 - 4 / 12),
        ([0, 0, 0, 0], 1 - 110 / 12),
        ([1, 0, 1, 0], 1 - 16 / 12),
    ],
)
def test_a_saving_is_against_the_better_of_always_and_never(alerts: list, saving: float) -> None:
    assert COSTS.saving(np.array(alerts, dtype=bool)) == pytest.approx(saving)


@pytest.mark.parametrize(
    ("alert", "silent"), [([], []), ([0.0], [0.0]), ([1.0], [0.0]), ([math.nan], [1.0])]
)
def test_a_saving_of_nothing_or_of_an_unknown_cost_is_nan(alert: list, silent: list) -> None:
    costs = RowCosts(np.array(alert), np.array(silent))
    assert math.isnan(costs.saving(np.ones(len(alert), dtype=bool)))


def test_resamples_weigh_rows_and_are_the_same_for_two_models() -> None:
    alerts = np.array([1, 0, 0, 1], dtype=bool)
    first = COSTS.savings(alerts, 60, 5)
    assert first[0] == COSTS.saving(alerts)
    assert np.array_equal(first, COSTS.savings(alerts, 60, 5), equal_nan=True)
    weights = np.random.default_rng(5).poisson(1.0, 4)
    rows = np.repeat(np.arange(4), weights)
    repeated = RowCosts(COSTS.alert[rows], COSTS.silent[rows])
    assert first[1] == pytest.approx(repeated.saving(alerts[rows]))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 5)), min_size=1))
def test_the_threshold_is_the_cheapest_of_all_cuts(rows: list[tuple[bool, int, int]]) -> None:
    labels = np.array([label for label, _, _ in rows])
    scores = np.array([score / 9 for _, score, _ in rows])
    dear = np.array([cost for _, _, cost in rows], dtype=float)
    costs = RowCosts(np.where(labels, 0.5, 1.0), np.where(labels, dear, 0.0))

    def cost(threshold: float) -> float:
        return float(np.where(scores >= threshold, costs.alert, costs.silent).sum())

    chosen = best_cost_threshold(scores, costs)
    assert cost(chosen) == pytest.approx(min(map(cost, [*scores, 3.0])))
    # Midway: only "every row" is at a score, and only where the lowest is 0.
    assert chosen == 0 or not np.any(np.isclose(scores, chosen, rtol=0, atol=1e-9))


@pytest.mark.parametrize("highest", [0.9, 1.0])
def test_no_alert_at_all_is_a_threshold_above_every_score(highest: float) -> None:
    costs = RowCosts(np.array([5.0, 5.0]), np.array([1.0, 0.0]))
    assert best_cost_threshold(np.array([highest, 0.1]), costs) > highest


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ({"gates__costs": {"false_positive": 1, "false_negative": "gone"}}, "'gone', which is no"),
        ({"gates__costs": {"false_positive": 1, "false_negative": "channel"}}, "'channel' is no c"),
        ({"gates__champion": {"metric": "saving"}}, "'saving' needs gates.costs"),
        ({"gates__slices": {"columns": ["gone"]}}, "'gone', which is no column"),
        ({"gates__leakage": {"disjoint": "gone"}}, "'gone', which is no column"),
        ({"gates__fairness": {"group": "gone"}}, "'gone', which is no column"),
        ({"gates__poisoning": {"source": "gone"}}, "'gone', which is no column"),
        (
            {"gates__golden_set": [{"name": "one", "row": {"gone": 1}, "at_most": 1}]},
            "case 'one': 'gone' is no",
        ),
        (
            {"gates__golden_set": [{"name": "one", "row": {"amount": ""}, "at_most": 1}]},
            "'amount' is no",
        ),
        (
            {"gates__golden_set": [{"name": "one", "row": {"channel": 0}, "at_most": 1}]},
            "'channel' is no",
        ),
    ],
)
def test_a_gate_that_asks_for_what_there_is_not_is_refused_at_once(gates: dict, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        check_features(small_spec(**gates))


def test_a_cost_that_may_be_null_is_refused() -> None:
    nullable = {"contract__columns__amount__nullable": True}
    costs = {"gates__costs": {"false_positive": 1, "false_negative": "amount"}}
    check_features(small_spec(**costs))
    with pytest.raises(SpecError, match="not nullable"):
        check_features(small_spec(**nullable, **costs))


def test_the_columns_that_gates_read_stand_in_the_feature_table() -> None:
    spec = small_spec(
        features={"columns": ["channel"]},
        gates__costs={"false_positive": 1, "false_negative": "card_limit"},
        gates__slices={"columns": ["terminal_id"]},
        gates__fairness={"group": "customer_id"},
        gates__poisoning={"source": "terminal_id"},
        gates__leakage={"disjoint": "customer_id"},
        gates__golden_set=[
            {"name": "one", "row": {"channel": None}, "at_most": 1},
            {"name": "two", "row": {"channel": "chip"}, "at_most": 1},
        ],
    )
    check_features(spec)
    schema = {"transaction_id": pl.Int64, "tx_time": pl.Datetime("us", "UTC"), "channel": pl.String}
    schema |= dict.fromkeys(("customer_id", "terminal_id"), pl.Int64)
    schema |= dict.fromkeys(("amount", "card_limit"), pl.Float64)
    labels = {"transaction_id": pl.Int64, "is_fraud": pl.Int64, "known_at": schema["tx_time"]}
    made = compute_features(pl.LazyFrame(schema=schema), pl.LazyFrame(schema=labels), spec)
    assert {"card_limit", "terminal_id", "customer_id"} <= set(made.columns)
