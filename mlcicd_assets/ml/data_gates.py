"""The gates for data: pure functions from what was observed in a table to a `Verdict`.

Everything unexpected (nothing observed, NaN) fails.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlcicd_assets.ml import history as past
from mlcicd_assets.ml.gate import Gate, judge
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import Verdict

CONTRACT = Gate(
    "contract",
    1,
    "The data meets its contract; what was quarantined stays below the allowed share.",
    "correct or remove the file, or look at the quarantine table (column broken_rules)",
)
FEATURE_SANITY = Gate(
    "feature_sanity",
    1,
    "No feature is constant or has too many nulls.",
    "look at the feature that is named in its source; a constant may be allowed by name",
)
VOLUME = Gate(
    "volume",
    1,
    "The newest days have about as many rows as usual.",
    "deliver what is missing, remove what came twice, or widen history.volume_factor",
    lambda gates: gates.history.volume_factor is not None,
)
FRESHNESS = Gate(
    "freshness",
    1,
    "Events still arrive, without holes in the newest days.",
    "deliver the missing days; where they are lost, raise history.max_gap_days for a while",
    lambda gates: gates.history.max_gap_days is not None,
)
COLUMN_HISTORY = Gate(
    "column_history",
    1,
    "No column became null or constant, changed its unit or has a new category.",
    "ask the source what changed; a new category that is right belongs into the contract",
    lambda gates: gates.history.shift_factor is not None,
)
DUPLICATES = Gate(
    "duplicates",
    1,
    "Rows are not delivered twice under new keys.",
    "remove the copies from the raw table, or raise history.max_duplicate_share",
    lambda gates: gates.history.max_duplicate_share is not None,
)
POINT_IN_TIME = Gate(
    "point_in_time",
    1,
    "Rows and labels of the future change no feature of the past.",
    "do not train on it: a feature's code sees the future; see ml/features.py",
)
DATA_GATES = (
    *(CONTRACT, FEATURE_SANITY, POINT_IN_TIME),
    *(VOLUME, FRESHNESS, COLUMN_HISTORY, DUPLICATES),
)


@dataclass(frozen=True)
class FeatureStats:
    """One feature over all rows; `distinct` counts values other than null (2 means 2 or more)."""

    name: str
    null_share: float
    distinct: int


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
    return judge(
        CONTRACT,
        subject=subject,
        gates=gates,
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
    return judge(
        FEATURE_SANITY,
        subject=subject,
        gates=gates,
        passed=rows > 0 and len(stats) > 0 and not faults,
        observed=f"{len(faults)} faults in {len(stats)} features of {rows} rows",
        threshold=f"0 faults: not constant, null share <= {rule.max_null_share:g}",
        sample_size=rows,
        detail="; ".join(faults),
    )


def history_gates(history: past.History, *, subject: str, gates: Gates) -> tuple[Verdict, ...]:
    """Judge the newest days by the earlier ones, with each gate that the policy asks for."""
    rule, earlier, newest = gates.history, history.earlier.height, history.newest.height
    rows = sum(int(days[past.ROWS].sum()) for days in (history.earlier, history.newest))
    asked = (
        (VOLUME, past.volume_faults, rule.volume_factor, "rows within {:g} times the usual"),
        (FRESHNESS, past.freshness_faults, rule.max_gap_days, "gaps <= {:g} usual ones"),
        (COLUMN_HISTORY, past.column_faults, rule.shift_factor, "sizes within {:g} times usual"),
        (DUPLICATES, past.duplicate_faults, rule.max_duplicate_share, "twins <= usual + {:g}"),
    )
    few = f"{earlier} earlier days of {rule.needs_days} needed: nothing to judge by yet"
    is_judged = earlier >= rule.needs_days
    return tuple(
        judge(
            gate,
            subject=subject,
            gates=gates,
            passed=newest > 0 and not faults,
            observed=f"{len(faults)} faults in the newest {newest} days",
            threshold=f"0 faults: {words.format(limit)}",
            sample_size=rows,
            detail="; ".join(faults) if is_judged else few,
        )
        for gate, find, limit, words in asked
        if limit is not None
        for faults in [list(find(history, limit)) if is_judged else []]
    )


def point_in_time_gate(
    changed: Mapping[str, int], *, rows: int, subject: str, gates: Gates
) -> Verdict:
    """Judge how many values, by feature, changed when the future was taken away."""
    return judge(
        POINT_IN_TIME,
        subject=subject,
        gates=gates,
        passed=rows > 0 and not changed,
        observed=f"{sum(changed.values())} values in {rows} rows changed",
        threshold="0 values changed",
        sample_size=rows,
        detail="; ".join(f"{name} in {count} rows" for name, count in changed.items()),
    )
