"""The gates for models: pure functions from what was observed on the holdout to a `Verdict`.

Everything unexpected (nothing observed, NaN) fails.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mlcicd_assets.ml.gate import Gate, judge
from mlcicd_assets.ml.groups import find_poisoned_sources, find_unfairness, find_weak_slices
from mlcicd_assets.ml.leakage import find_early_labels, find_leaks
from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.robustness import find_instability, find_miscalibration, find_wrong_cases
from mlcicd_assets.ml.scored import Finding, Scored
from mlcicd_assets.ml.values import Verdict


def _has(section: str) -> Callable[[Gates], bool]:
    return lambda gates: bool(getattr(gates, section, True))


METRIC_FLOORS = Gate(
    "metric_floors",
    1,
    "Every metric with a floor reaches it on the holdout.",
    "the old version stays live; new data or a changed spec makes a new candidate",
)
NOT_WORSE = Gate(
    "not_worse_than_champion",
    1,
    "Not worse than the live model on the same holdout rows (paired).",
    "the old version stays live; compare the two models' features and training windows",
)
SCORER_PARITY = Gate(
    "scorer_parity",
    1,
    "The served scorer equals scikit-learn on every holdout row.",
    "do not serve it: report the estimator and its parameters as a bug of ml/export.py",
)
SERVING_TRIAL = Gate(
    "serving_trial",
    1,
    "The bundle serves from a clean process: right scores, in time, in little memory.",
    "read the server's words in the detail; a smaller model is faster; or raise gates.serving",
    lambda gates: gates.serving is not None,
)
# Judged from the scored holdout and the policy's section of that name; the promise is what
# the first line of the function says.
_FINDERS = (
    (find_leaks, "leakage", 1, "drop the feature named, or allow it in gates.leakage.may_exceed"),
    (find_early_labels, "label_maturity", 1, "correct known_at, or label.matures_after_days"),
    (find_miscalibration, "calibration", 2, "has the share of positives changed? Train on newer"),
    (find_weak_slices, "slices", 1, "look at that slice's features and its training rows"),
    (find_wrong_cases, "golden_set", 1, "the old version stays; correct only a wrong case"),
    (find_unfairness, "fairness", 1, "compare the groups' training rows and features"),
    (find_poisoned_sources, "poisoning", 1, "ask the source's owner; leave its rows out till then"),
    (find_instability, "stability", 1, "regularise the model more, or raise max_flipped"),
)
FINDERS: dict[Gate, Callable[[Scored, Any], Finding]] = {
    Gate(name, version, (find.__doc__ or name).partition("\n")[0], remedy, _has(name)): find
    for find, name, version, remedy in _FINDERS
}
MODEL_GATES = (METRIC_FLOORS, NOT_WORSE, SCORER_PARITY, SERVING_TRIAL, *FINDERS)

PARITY_TOLERANCE = 1e-12
ERRORS = frozenset({"brier", "log_loss", "ece", "rmse", "mae", "bias"})  # nearer 0 is better


def finding_gates(scored: Scored, *, subject: str) -> list[Verdict]:
    """Judge the scored holdout by each of the `FINDERS` that the policy asks for."""
    gates = scored.spec.gates
    return [
        finding_gate(gate, find(scored, getattr(gates, gate.name, gates)), subject, gates)
        for gate, find in FINDERS.items()
        if gate.is_on(gates)
    ]


def finding_gate(gate: Gate, found: Finding, subject: str, gates: Gates) -> Verdict:
    """Judge what was found: there must be rows to judge by, and no fault."""
    return judge(
        gate,
        subject=subject,
        gates=gates,
        passed=found.rows > 0 and not found.faults,
        observed=found.observed,
        threshold=found.threshold,
        sample_size=found.rows,
        detail="; ".join([*found.faults, *found.told]),
    )


def metric_floors_gate(
    metrics: Mapping[str, float], *, rows: int, subject: str, gates: Gates
) -> Verdict:
    """Judge every floor of the policy; a metric equal to its floor passes.

    The size of an error (`ERRORS`) must not be above its floor, all else not below. Where costs
    are given, a model that costs more than no model is below one, too.
    """
    floors = {**({"saving": 0.0} if gates.costs else {}), **gates.floors}
    seen = {name: metrics.get(name, math.nan) for name in floors}
    signs = {name: -1 if name in ERRORS else 1 for name in floors}
    sizes = {name: abs(value) if name in ERRORS else value for name, value in seen.items()}
    below = [name for name, sign in signs.items() if not sign * sizes[name] >= sign * floors[name]]
    told = [
        f"{name} misses its floor, or is undefined"
        if name in metrics
        else f"there is no metric {name}, only {', '.join(sorted(metrics))}"
        for name in below
    ]
    return judge(
        METRIC_FLOORS,
        subject=subject,
        gates=gates,
        passed=rows > 0 and not below,
        observed=", ".join(f"{name} {value:.6g}" for name, value in seen.items()),
        threshold=", ".join(
            f"{name} {'<=' if name in ERRORS else '>='} {floor:g}" for name, floor in floors.items()
        ),
        sample_size=rows,
        detail="; ".join(told),
    )


def champion_gate(
    comparison: Comparison | None, *, gates: Gates, subject: str, champion_digest: str | None
) -> Verdict:
    """Judge whether the candidate is worse than the champion beyond doubt and margin.

    Without a comparison it passes only when there is no champion, or when the candidate is the
    champion. The context names the champion, so that the verdict ends with its reign.
    """
    rule = gates.champion
    faults: list[str] = []
    numbers: dict[str, Any] = {}
    if champion_digest is None:
        observed = "no champion yet: the floors decide"
    elif subject == champion_digest:
        observed = "the candidate is the champion itself"
    elif comparison is None:
        observed = "no comparison"
        faults.append("it was not compared with the champion")
    else:
        observed = str(comparison)
        numbers = msgspec.json.decode(msgspec.json.encode(comparison))  # not finite: None
        if comparison.positives < rule.min_positives:
            faults.append(f"{comparison.positives} positives are too few to judge by")
        if None in numbers.values():
            faults.append("a number of the comparison is undefined")
        elif comparison.upper_95 < -rule.margin:
            faults.append("worse than the champion beyond doubt and margin")
    return judge(
        NOT_WORSE,
        subject=subject,
        gates=gates,
        passed=not faults,
        observed=observed,
        threshold=f"upper bound >= {0 - rule.margin:g}, positives >= {rule.min_positives}",
        sample_size=numbers.get("rows", 0),
        detail="; ".join(faults),
        context={"champion_digest": champion_digest, **numbers},
    )


def parity_gate(
    max_difference: float, *, flipped: int, rows: int, subject: str, gates: Gates
) -> Verdict:
    """Judge the plain-array scorer: scores as scikit-learn's, and no decision flipped."""
    return judge(
        SCORER_PARITY,
        subject=subject,
        gates=gates,
        passed=rows > 0 and max_difference <= PARITY_TOLERANCE and flipped == 0,
        observed=f"difference {max_difference:.3g}, {flipped} of {rows} decisions flipped",
        threshold=f"difference <= {PARITY_TOLERANCE:g}, 0 decisions flipped",
        sample_size=rows,
    )
