"""The gates: pure functions from what was observed to a `Verdict`, and the reading of them.

Everything unexpected (nothing observed, NaN, an impossible count) fails.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.spec import ChampionGate, Gates
from mlcicd_assets.ml.values import Verdict

CONTRACT = "contract"
FEATURE_SANITY = "feature_sanity"
METRIC_FLOORS = "metric_floors"
NOT_WORSE = "not_worse_than_champion"
SCORER_PARITY = "scorer_parity"

# Raise a version when its gate judges differently: verdicts of the old one count no more.
GATE_VERSIONS = {
    CONTRACT: 1,
    FEATURE_SANITY: 1,
    METRIC_FLOORS: 1,
    NOT_WORSE: 1,
    SCORER_PARITY: 1,
}
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
        gate=CONTRACT,
        gate_version=GATE_VERSIONS[CONTRACT],
        subject=subject,
        policy=policy_digest(gates),
        passed=not failures and 0 <= share <= limit,
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
    offenders = [
        f"{one.name} is constant"
        for one in stats
        if one.distinct < 2 and one.name not in rule.may_be_constant
    ]
    offenders += [
        f"{one.name} is null in {one.null_share:.4g} of the rows"
        for one in stats
        if not one.null_share <= rule.max_null_share
    ]
    return Verdict(
        gate=FEATURE_SANITY,
        gate_version=GATE_VERSIONS[FEATURE_SANITY],
        subject=subject,
        policy=policy_digest(gates),
        passed=rows > 0 and len(stats) > 0 and not offenders,
        observed=f"{len(offenders)} faults in {len(stats)} features of {rows} rows",
        threshold=f"0 faults: not constant, null share <= {rule.max_null_share:g}",
        sample_size=rows,
        detail="; ".join(offenders),
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
        gate=METRIC_FLOORS,
        gate_version=GATE_VERSIONS[METRIC_FLOORS],
        subject=subject,
        policy=policy_digest(gates),
        passed=rows > 0 and len(seen) > 0 and not below,
        observed=", ".join(f"{name} {value:.6g}" for name, value in seen.items()),
        threshold=", ".join(f"{name} >= {floor:g}" for name, floor in gates.floors.items()),
        sample_size=rows,
        detail="; ".join(told),
    )


def champion_gate(
    comparison: Comparison | None,
    *,
    same_bundle: bool,
    gates: Gates,
    subject: str,
    champion_digest: str | None,
) -> Verdict:
    """Judge whether the candidate is worse than the champion beyond doubt and margin.

    Without a comparison it passes only when there is no champion, or when the candidate is the
    champion. The context names the champion, so that the verdict ends with its reign.
    """
    rule = gates.champion
    is_consistent = same_bundle == (subject == champion_digest)
    if comparison is None:
        passed, detail = _uncompared(same_bundle=same_bundle, champion_digest=champion_digest)
        observed, sample_size, numbers = "no comparison", 0, {}
    else:
        faults = _comparison_faults(comparison, rule, champion_digest)
        passed, detail = not faults, "; ".join(faults)
        observed, sample_size, numbers = str(comparison), comparison.rows, _numbers(comparison)
    if not is_consistent:
        passed, detail = False, "whether it is the champion itself is said in two ways"
    return Verdict(
        gate=NOT_WORSE,
        gate_version=GATE_VERSIONS[NOT_WORSE],
        subject=subject,
        policy=policy_digest(gates),
        passed=passed,
        observed=observed,
        threshold=f"upper bound >= {0 - rule.margin:g}, positives >= {rule.min_positives}",
        sample_size=sample_size,
        detail=detail,
        context={"champion_digest": champion_digest, **numbers},
    )


def parity_gate(
    max_difference: float, *, flipped: int, rows: int, subject: str, gates: Gates
) -> Verdict:
    """Judge the plain-array scorer: scores as scikit-learn's, and no decision flipped."""
    return Verdict(
        gate=SCORER_PARITY,
        gate_version=GATE_VERSIONS[SCORER_PARITY],
        subject=subject,
        policy=policy_digest(gates),
        passed=rows > 0 and 0 <= max_difference <= PARITY_TOLERANCE and flipped == 0,
        observed=f"difference {max_difference:.3g}, {flipped} of {rows} decisions flipped",
        threshold=f"difference <= {PARITY_TOLERANCE:g}, 0 decisions flipped",
        sample_size=rows,
    )


def refusals(
    *,
    required: Sequence[str] = REQUIRED_GATES,
    verdicts: Mapping[tuple[str, str], Verdict],
    data_subject: str,
    model_subject: str,
    policy: str,
    champion_digest: str | None,
) -> list[str]:
    """Return every reason why these verdicts, by (gate, subject), allow no release.

    An empty list allows it: each required gate has passed, in its present version, for exactly
    this data or bundle under exactly this policy, and against the champion of this moment.
    """
    if not required:
        return ["no gate is required: name the gates that a release needs"]
    reasons: list[str] = []
    for gate in required:
        subject = data_subject if gate in DATA_GATES else model_subject
        verdict = verdicts.get((gate, subject))
        if verdict is None:
            reasons.append(
                f"gate '{gate}' has no verdict on {_short(subject)} under this policy: run it"
            )
        elif fault := _mismatch(verdict, gate, subject, policy, champion_digest):
            reasons.append(f"the verdict of gate '{gate}' {fault}: run the gate again")
        elif verdict.passed is not True:
            reasons.append(str(verdict))
    return reasons


def _uncompared(*, same_bundle: bool, champion_digest: str | None) -> tuple[bool, str]:
    if champion_digest is None:
        return True, "no champion yet: the floors decide"
    if same_bundle:
        return True, "the candidate is the champion itself"
    return False, "it was not compared with the champion"


def _comparison_faults(
    comparison: Comparison, rule: ChampionGate, champion_digest: str | None
) -> list[str]:
    faults: list[str] = []
    if champion_digest is None:
        faults.append("the champion it was compared with is not named")
    if comparison.metric != rule.metric:
        faults.append(f"{comparison.metric} was compared, the policy asks for {rule.metric}")
    if comparison.positives < rule.min_positives:
        faults.append(f"{comparison.positives} positives are too few to judge by")
    if None in _numbers(comparison).values():
        faults.append("a number of the comparison is undefined")
    elif comparison.upper_95 < -rule.margin:
        faults.append("worse than the champion beyond doubt and margin")
    return faults


def _numbers(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON values: what is not finite is None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(comparison).items()
    }


def _mismatch(
    verdict: Verdict, gate: str, subject: str, policy: str, champion_digest: str | None
) -> str | None:
    if (verdict.gate, verdict.subject) != (gate, subject):
        return f"is one of '{verdict.gate}' on {_short(verdict.subject)}"
    if verdict.policy != policy:
        return "was given under another policy"
    if gate not in GATE_VERSIONS:
        return "is of no known gate"
    if verdict.gate_version != GATE_VERSIONS[gate]:
        return f"is of version {verdict.gate_version}, not {GATE_VERSIONS[gate]}"
    judged_against = verdict.context.get("champion_digest", "unknown")
    if gate == NOT_WORSE and judged_against != champion_digest:
        return f"is against champion {_short(judged_against)}, not {_short(champion_digest)}"
    return None


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
