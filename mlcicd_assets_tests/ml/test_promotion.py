import math

import pytest

from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.model_gates import champion_gate
from mlcicd_assets.ml.promotion import Decision, comparison_of, decide
from mlcicd_assets.ml.spec import Gates

OLD, NEW = "a" * 64, "b" * 64


def compared(lower: float, upper: float = 0.09) -> Comparison:
    return Comparison("average_precision", 0.35, 0.31, 0.04, lower, upper, 5000, 50)


def judged(comparison: Comparison | None, champion: str | None = OLD):
    gates = Gates(floors={"roc_auc": 0.5})
    return champion_gate(comparison, gates=gates, subject=NEW, champion_digest=champion)


def test_the_comparison_is_read_back_from_its_verdict():
    assert comparison_of(judged(compared(0.01))) == compared(0.01)


def test_a_verdict_without_numbers_has_no_comparison():
    assert comparison_of(judged(None, champion=None)) is None


def test_without_a_champion_the_floors_decide():
    decision = decide(comparison=None, champion_digest=None, candidate_digest=NEW)
    assert decision == Decision("released", "first release: the floors decide")


def test_the_champion_is_not_released_again_whatever_the_numbers():
    for comparison in (None, compared(0.5)):
        decision = decide(comparison=comparison, champion_digest=OLD, candidate_digest=OLD)
        assert decision == Decision("kept", "the candidate is already live")


def test_nobody_beats_a_champion_without_a_comparison():
    decision = decide(comparison=None, champion_digest=OLD, candidate_digest=NEW)
    assert decision.outcome == "kept"
    assert "not compared" in decision.reason


@pytest.mark.parametrize(
    ("lower", "released"),
    [(1e-9, True), (0.0, False), (-0.01, False), (math.nan, False), (-math.inf, False)],
)
def test_only_a_lower_bound_above_zero_releases(lower, released):
    decision = decide(comparison=compared(lower), champion_digest=OLD, candidate_digest=NEW)
    assert decision.outcome == ("released" if released else "kept")
    assert ("not shown to be better" in decision.reason) is not released
    assert "average_precision 0.3500 against 0.3100, difference +0.0400" in decision.reason
