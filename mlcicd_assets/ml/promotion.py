"""The decision whether a candidate that passes its gates replaces the champion."""

from dataclasses import dataclass
from typing import Literal

import msgspec

from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.values import Verdict


@dataclass(frozen=True)
class Decision:
    """What happens if every gate passes, and why, for people."""

    outcome: Literal["released", "kept", "awaiting"]
    reason: str


def comparison_of(verdict: Verdict | None) -> Comparison | None:
    """Return the comparison that a passed champion verdict was based on, as the ledger kept it."""
    context = verdict.context if verdict else {}
    numbers = {key: value for key, value in context.items() if key != "champion_digest"}
    return msgspec.convert(numbers, Comparison) if numbers else None


def decide(
    *, comparison: Comparison | None, champion_digest: str | None, candidate_digest: str
) -> Decision:
    """Release a first model, or one whose lower bound of the difference is above zero.

    The bound is the 5 % quantile of the paired bootstrap; anything undefined keeps what is live.
    """
    if champion_digest is None:
        return Decision("released", "first release: the floors decide")
    if candidate_digest == champion_digest:
        return Decision("kept", "the candidate is already live")
    if comparison is None:
        return Decision("kept", "the candidate was not compared with the live model")
    if comparison.lower_90 > 0:
        return Decision("released", f"better than the live model: {comparison}")
    return Decision("kept", f"not shown to be better: {comparison}")
