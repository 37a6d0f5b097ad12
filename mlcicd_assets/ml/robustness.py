"""Gates on scores: what they mean, golden cases, and decisions under noise."""

import numpy as np

from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.metrics import (
    NAN,
    calibration_bins,
    calibration_curve,
    calibration_error,
)
from mlcicd_assets.ml.policy import CalibrationGate, GoldenCase, StabilityGate
from mlcicd_assets.ml.scored import Finding, Scored
from mlcicd_assets.ml.scoring import decide

SEED = 20_260_101
CHANCE = 1.1  # of sizes of normal errors: mean .80, sd .60, ten of them


def find_miscalibration(scored: Scored, rule: CalibrationGate) -> Finding:
    """A score of p means that a share of p is positive; a number is right on average."""
    happened, expected = scored.target.claims(scored.labels, scored.scores)
    is_number = scored.spec.label.target == "regression"
    several = scored.spec.label.target == "multiclass"  # its model may be right everywhere
    curve = (calibration_bins if is_number or several else calibration_curve)(happened, expected)
    error, rows = calibration_error(curve), np.array([one.rows for one in curve])
    # Bins of few rows scatter: what a perfect model stays below here, 19 times in 20.
    chance = CHANCE * float(np.std(happened - expected) * np.mean(rows**-0.5)) if curve else NAN
    observed, allowed = (
        f"error {error:.4f}",
        f"error <= {rule.max_error:g} + {chance:.4f} by chance",
    )
    good = error <= rule.max_error + chance
    if not is_number:
        ratio = float(expected.mean() / happened.mean()) if curve and happened.any() else NAN
        of = "right classes" if several else "positives"
        observed += f", mean score {ratio:.3f} times the share of {of}"
        allowed += f", within a factor of {rule.max_ratio:g}"
        good = good and 1 / rule.max_ratio <= ratio <= rule.max_ratio
    fault = (
        "rows with like predictions are off on average" if is_number else "no probabilities here"
    )
    unit = " sd of the label" if is_number else ""
    return Finding(observed + unit, allowed, len(expected), [] if good else [fault])


def find_wrong_cases(scored: Scored, cases: tuple[GoldenCase, ...]) -> Finding:
    """Each golden case scores within its bounds; a feature left out of it is null."""
    rows = {
        column.name: np.array([case.row.get(column.name) for case in cases], dtype=np.float64)
        if column.kind == "number"
        else np.array([case.row.get(column.name) or "" for case in cases], dtype=object)
        for column in scored.columns
    }
    classes, faults = scored.spec.label.classes, list[str]()
    for case, found in zip(cases, scored.scorer.score(rows), strict=True):
        score = found if case.of is None else found[classes.index(case.of)]
        if case.at_least is not None and not score >= case.at_least:
            faults.append(f"{case.name} scores {score:.4f}, must be at least {case.at_least:g}")
        if case.at_most is not None and not score <= case.at_most:
            faults.append(f"{case.name} scores {score:.4f}, must be at most {case.at_most:g}")
    return Finding(f"{len(faults)} wrong", "0 wrong", len(cases), faults)


def find_instability(scored: Scored, rule: StabilityGate) -> Finding:
    """Decisions stand small Gaussian noise on the numeric features."""
    rng = np.random.default_rng(SEED)
    rows = column_arrays(scored.split.holdout, scored.columns)
    for name, values in rows.items():
        if values.dtype != object and np.isfinite(values).any():
            rows[name] = values + rng.normal(0, rule.noise * np.nanstd(values), len(values))
    target, decisions = scored.target, scored.decisions
    noisy = decide(scored.scorer.score(rows), scored.threshold)
    is_binary = scored.spec.label.target == "binary"
    of, count = ("alerts", int(decisions.sum())) if is_binary else ("rows", len(decisions))
    flipped = target.changed(scored.labels, decisions, noisy).sum()
    share = float(flipped / count) if count else NAN
    return Finding(
        f"decisions flipped: {share:.4f} of {count} {of}",
        f"flipped <= {rule.max_flipped:g} of the {of}, at noise of {rule.noise:g} sd",
        len(scored.scores),
        [] if share <= rule.max_flipped else ["decisions hang on noise, or there is no alert"],
    )
