"""The gates for data at their edges, in the words that people read."""

import math

import pytest

from mlcicd_assets.ml.data_gates import (
    FeatureStats,
    contract_gate,
    feature_sanity_gate,
    point_in_time_gate,
)
from mlcicd_assets.ml.policy import FeatureGate, Gates

NAN = math.nan
POLICY = Gates(
    max_quarantined_share=0.01,
    features=FeatureGate(max_null_share=0.2, may_be_constant=("night",)),
    floors={"roc_auc": 0.8},
)
DATA = "d" * 64
GOOD = FeatureStats("good", 0.0, 2)


def contract(*, rows=1000, quarantined=10, failures=(), broken=None):
    return contract_gate(
        rows=rows,
        quarantined=quarantined,
        failures=failures,
        broken=broken or {},
        subject=DATA,
        gates=POLICY,
    )


def features(*stats, rows=1000):
    return feature_sanity_gate(stats, rows=rows, subject=DATA, gates=POLICY)


def point_in_time(changed, *, rows=500):
    return point_in_time_gate(changed, rows=rows, subject=DATA, gates=POLICY)


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [
        (contract(quarantined=10), True),
        (contract(quarantined=11), False),
        (contract(rows=0, quarantined=0), False),
        (contract(failures=[("key:unique", "3 rows", "0 rows")]), False),
        (features(GOOD, FeatureStats("amount", 0.2, 2)), True),
        (features(GOOD, FeatureStats("amount", 0.2000001, 2)), False),
        (features(GOOD, FeatureStats("amount", NAN, 2)), False),
        (features(GOOD, FeatureStats("amount", 0.0, 1)), False),
        (features(GOOD, FeatureStats("night", 0.0, 1)), True),
        (features(GOOD, FeatureStats("night", 0.3, 1)), False),
        (features(GOOD, rows=0), False),
        (features(), False),
        (point_in_time({}), True),
        (point_in_time({}, rows=0), False),
        (point_in_time({"amount": 1}), False),
    ],
)
def test_each_gate_at_its_edges(verdict, passed):
    assert verdict.passed is passed


def test_contract_names_every_broken_rule():
    verdict = contract(
        quarantined=12,
        failures=[("rows:min", "12 rows", "100 rows")],
        broken={"b:max": 5, "a:min": 7},
    )
    assert str(verdict) == (
        "gate 'contract' FAILED: observed 1 failed rules, 12 of 1000 rows quarantined, threshold "
        "0 failed rules, quarantined share <= 0.01 (rows:min: 12 rows, allowed 100 rows; "
        "a:min quarantined 7 rows; b:max quarantined 5 rows)"
    )


def test_feature_sanity_names_all_faults():
    verdict = features(FeatureStats("flat", 0.0, 1), GOOD, FeatureStats("gone", 1, 0))
    assert verdict.detail == "flat is constant; gone is constant; gone is null in 1 of the rows"
    assert verdict.observed == "3 faults in 3 features of 1000 rows"


def test_point_in_time_names_the_features():
    assert str(point_in_time({"rate_7d": 3, "count_1d": 2})) == (
        "gate 'point_in_time' FAILED: observed 5 values in 500 rows changed, threshold 0 values "
        "changed (rate_7d in 3 rows; count_1d in 2 rows)"
    )
