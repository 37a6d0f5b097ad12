"""The gates: pure functions from what was observed to a `Verdict`, and the reading of them.

Everything unexpected (nothing observed, NaN) fails.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.spec import Gates
from mlcicd_assets.ml.values import Verdict

CONTRACT = "contract"
FEATURE_SANITY = "feature_sanity"
METRIC_FLOORS = "metric_floors"
NOT_WORSE = "not_worse_than_champion"
SCORER_PARITY = "scorer_parity"

# Raise a version when its gate judges differently: verdicts of the old one count no more.
GATE_VERSIONS = {CONTRACT: 1, FEATURE_SANITY: 1, METRIC_FLOORS: 1, NOT_WORSE: 1, SCORER_PARITY: 1}
DATA_GATES = (CONTRACT, FEATURE_SANITY)
MODEL_GATES = (METRIC_FLOORS, NOT_WORSE, SCORER_PARITY)
REQUIRED_GATES = DATA_GATES + MODEL_GATES

PARITY_TOLERANCE = 1e-12


@dataclass(frozen=True)
class FeatureStats:
    """One feature over all rows; `distinct` counts values other than null (2 means 2 or more)."""

    name: str
    null_share: float
    distinct: int


def policy_digest(gates: Gates) -> str:
    """Return the sha256 of the gates section, whatever its order or layout in the YAML."""
    text = json.dumps(gates.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def contract_gate(
    *,
    rows: int,
    quarantined: int,
    failures: Sequence[tuple[str, str, str]],
    broken: Mapping[str, int],
    subject: str,
    gates: Gates,
) -> Verdict:
    """Judge how a batch of `rows`, the quarantined ones included, met the data contract.

    `failures` are the broken rules that fail a batch: (rule, observed, threshold). `broken`
    counts rows per rule, for the detail.
    """
    limit = gates.max_quarantined_share
    share = quarantined / rows if rows > 0 else math.nan
    told = [f"{rule}: {observed}, allowed {allowed}" for rule, observed, allowed in failures]
    told += [f"{rule} quarantined {count} rows" for rule, count in sorted(broken.items())]
    return Verdict(
        **_bound(CONTRACT, subject, gates),
        passed=not failures and share <= limit,
        observed=f"{len(failures)} failed rules, {quarantined} of {rows} rows quarantined",
        threshold=f"0 failed rules, quarantined share <= {limit:g}",
        sample_size=rows,
        detail="; ".join(told),
    )


def feature_sanity_gate(
    stats: Sequence[FeatureStats], *, rows: int, subject: str, gates: Gates
) -> Verdict:
    """Judge the feature table: no feature may be constant, nor null too often."""
    rule = gates.features
    faults = [
        f"{one.name} is constant"
        for one in stats
        if one.distinct < 2 and one.name not in rule.may_be_constant
    ]
    faults += [
        f"{one.name} is null in {one.null_share:.4g} of the rows"
        for one in stats
        if not one.null_share <= rule.max_null_share
    ]
    return Verdict(
        **_bound(FEATURE_SANITY, subject, gates),
        passed=rows > 0 and len(stats) > 0 and not faults,
        observed=f"{len(faults)} faults in {len(stats)} features of {rows} rows",
        threshold=f"0 faults: not constant, null share <= {rule.max_null_share:g}",
        sample_size=rows,
        detail="; ".join(faults),
    )


def metric_floors_gate(
    metrics: Mapping[str, float], *, rows: int, subject: str, gates: Gates
) -> Verdict:
    """Judge every floor of the policy; a metric equal to its floor passes."""
    seen = {name: metrics.get(name, math.nan) for name in gates.floors}
    below = [name for name, floor in gates.floors.items() if not seen[name] >= floor]
    told = [
        f"{name} is below its floor, or undefined"
        if name in metrics
        else f"there is no metric {name}, only {', '.join(sorted(metrics))}"
        for name in below
    ]
    return Verdict(
        **_bound(METRIC_FLOORS, subject, gates),
        passed=rows > 0 and not below,
        observed=", ".join(f"{name} {value:.6g}" for name, value in seen.items()),
        threshold=", ".join(f"{name} >= {floor:g}" for name, floor in gates.floors.items()),
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
    return Verdict(
        **_bound(NOT_WORSE, subject, gates),
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
    return Verdict(
        **_bound(SCORER_PARITY, subject, gates),
        passed=rows > 0 and max_difference <= PARITY_TOLERANCE and flipped == 0,
        observed=f"difference {max_difference:.3g}, {flipped} of {rows} decisions flipped",
        threshold=f"difference <= {PARITY_TOLERANCE:g}, 0 decisions flipped",
        sample_size=rows,
    )


def refusals(
    *,
    verdicts: Mapping[tuple[str, str], Verdict],
    data_subject: str,
    model_subject: str,
    policy: str,
    champion_digest: str | None,
) -> list[str]:
    """Return every reason why these verdicts, by (gate, subject), allow no release.

    An empty list allows it: each required gate has passed, in its present version, for exactly
    this data or bundle under exactly this policy, and against the champion of this moment. The
    champion itself is compared with nothing.
    """
    reasons: list[str] = []
    for gate in REQUIRED_GATES:
        if gate == NOT_WORSE and model_subject == champion_digest:
            continue
        subject = data_subject if gate in DATA_GATES else model_subject
        verdict = verdicts.get((gate, subject))
        run = f"run gate '{gate}' again"
        if verdict is None or verdict.policy != policy:
            reasons.append(
                f"gate '{gate}' has no verdict on {subject[:12]} and this policy: run it"
            )
        elif verdict.gate_version != GATE_VERSIONS[gate]:
            reasons.append(f"{run}: its verdict is of version {verdict.gate_version}")
        elif gate == NOT_WORSE and verdict.context.get("champion_digest", "") != champion_digest:
            reasons.append(f"{run}: the live model is not the one it compared with")
        elif verdict.passed is not True:
            reasons.append(str(verdict))
    return reasons


def _bound(gate: str, subject: str, gates: Gates) -> dict[str, Any]:
    version, policy = GATE_VERSIONS[gate], policy_digest(gates)
    return {"gate": gate, "gate_version": version, "subject": subject, "policy": policy}
