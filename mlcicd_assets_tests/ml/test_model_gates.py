import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest

from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.model_gates import (
    champion_gate,
    metric_floors_gate,
    parity_gate,
)
from mlcicd_assets.ml.policy import ChampionGate, Costs, Gates
from mlcicd_assets.ml.values import Verdict

NAN = math.nan
POLICY = Gates(
    floors={"roc_auc": 0.8, "average_precision": 0.3},
    champion=ChampionGate(margin=0.02, min_positives=20),
)
MODEL, CHAMPION = "b" * 64, "c" * 64
METRICS = {"roc_auc": 0.8, "average_precision": 0.3, "recall": 0.1}
EQUAL = Comparison("average_precision", 0.31, 0.3, 0.01, -0.015, 0.03, 5000, 20)


def floors(metrics: dict[str, float], *, rows: int = 1000, gates: Gates = POLICY) -> Verdict:
    return metric_floors_gate(metrics, rows=rows, subject=MODEL, gates=gates)


def champion(
    comparison: Comparison | None, *, subject: str = MODEL, digest: str | None = CHAMPION
) -> Verdict:
    return champion_gate(comparison, gates=POLICY, subject=subject, champion_digest=digest)


def parity(difference: float = 1e-12, *, flipped: int = 0, rows: int = 1000) -> Verdict:
    return parity_gate(difference, flipped=flipped, rows=rows, subject=MODEL, gates=POLICY)


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [
        (floors(METRICS), True),
        (floors(METRICS | {"roc_auc": 0.7999999}), False),
        (floors(METRICS | {"average_precision": 0.2999999}), False),
        (floors(METRICS | {"roc_auc": NAN}), False),
        (floors(METRICS | {"recall": NAN}), True),
        (floors(METRICS, rows=0), False),
        (champion(EQUAL), True),
        (champion(replace(EQUAL, upper_95=-0.02)), True),
        (champion(replace(EQUAL, upper_95=-0.0200001)), False),
        (champion(replace(EQUAL, positives=19)), False),
        (champion(replace(EQUAL, upper_95=NAN)), False),
        (champion(replace(EQUAL, lower_90=NAN)), False),
        (champion(replace(EQUAL, upper_95=math.inf)), False),
        (parity(0.0), True),
        (parity(1e-12), True),
        (parity(1.01e-12), False),
        (parity(NAN), False),
        (parity(0.0, flipped=1), False),
        (parity(0.0, rows=0), False),
    ],
)
def test_each_gate_at_its_edges(verdict: Verdict, passed: bool) -> None:
    assert verdict.passed is passed
    assert verdict.subject == MODEL


def test_metric_floors_say_what_is_below_and_which_metrics_there_are() -> None:
    verdict = floors({"recall": 0.9, "roc_auc": 0.5})
    assert verdict.observed == "roc_auc 0.5, average_precision nan"
    assert verdict.threshold == "roc_auc >= 0.8, average_precision >= 0.3"
    assert verdict.detail == (
        "roc_auc misses its floor, or is undefined; "
        "there is no metric average_precision, only recall, roc_auc"
    )


@pytest.mark.parametrize(
    ("saving", "own_floor", "passed"),
    [(0.0, None, True), (-1e-9, None, False), (NAN, None, False), (0.1, 0.2, False)],
)
def test_with_costs_a_model_must_save_money(
    saving: float, own_floor: float | None, passed: bool
) -> None:
    named = {} if own_floor is None else {"saving": own_floor}
    costs = Costs(false_positive=1, false_negative=10)
    gates = Gates(floors={"roc_auc": 0.8, **named}, costs=costs)
    assert floors(METRICS | {"saving": saving}, gates=gates).passed is passed
    assert floors(METRICS, gates=gates).passed is False


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"upper_95": -0.1}, "worse than the champion beyond doubt and margin"),
        ({"upper_95": NAN}, "undefined"),
        ({"positives": 19}, "19 positives are too few"),
    ],
)
def test_a_lost_comparison_says_why_and_keeps_its_numbers_as_json(
    changed: dict[str, Any], words: str
) -> None:
    verdict = champion(replace(EQUAL, **changed))
    assert words in verdict.detail
    assert verdict.context["champion_digest"] == CHAMPION
    assert verdict.context["difference"] == 0.01
    json.dumps(asdict(verdict), allow_nan=False)


@pytest.mark.parametrize(
    ("subject", "digest", "passed", "words"),
    [
        (MODEL, None, True, "no champion yet"),
        (CHAMPION, CHAMPION, True, "champion itself"),
        (MODEL, CHAMPION, False, "was not compared"),
    ],
)
def test_champion_without_a_comparison(
    subject: str, digest: str | None, passed: bool, words: str
) -> None:
    verdict = champion(None, subject=subject, digest=digest)
    assert verdict.passed is passed
    assert words in str(verdict)
    assert verdict.context == {"champion_digest": digest}
