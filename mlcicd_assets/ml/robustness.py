"""Gates on scores: what they mean, golden cases, and decisions under noise."""

import numpy as np

from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.metrics import NAN, calibration_curve, calibration_error
from mlcicd_assets.ml.policy import CalibrationGate, GoldenCase, StabilityGate
from mlcicd_assets.ml.scored import Finding, Scored

SEED = 20_260_101


def find_miscalibration(scored: Scored, rule: CalibrationGate) -> Finding:
    """A score of p means that a share of p is positive."""
    curve = calibration_curve(scored.labels, scored.scores)
    error = calibration_error(curve)
    ratio = float(scored.scores.mean() / scored.labels.mean()) if curve else NAN
    good = error <= rule.max_error and 1 / rule.max_ratio <= ratio <= rule.max_ratio
    return Finding(
        f"error {error:.4f}, mean score {ratio:.3f} times the share of positives",
        f"error <= {rule.max_error:g}, within a factor of {rule.max_ratio:g}",
        len(scored.scores),
        [] if good else ["scores are no probabilities here"],
    )


def find_wrong_cases(scored: Scored, cases: tuple[GoldenCase, ...]) -> Finding:
    """Each golden case scores within its bounds; a feature left out of it is null."""
    rows = {
        column.name: np.array([case.row.get(column.name) for case in cases], dtype=np.float64)
        if column.kind == "number"
        else np.array([case.row.get(column.name) or "" for case in cases], dtype=object)
        for column in scored.columns
    }
    faults = [
        f"{case.name} scores {score:.4f}, must be from {case.at_least:g} to {case.at_most:g}"
        for case, score in zip(cases, scored.scorer.score(rows), strict=True)
        if not case.at_least <= score <= case.at_most
    ]
    return Finding(f"{len(faults)} wrong", "0 wrong", len(cases), faults)


def find_instability(scored: Scored, rule: StabilityGate) -> Finding:
    """Decisions stand small Gaussian noise on the numeric features."""
    rng = np.random.default_rng(SEED)
    rows = column_arrays(scored.split.holdout, scored.columns)
    for name, values in rows.items():
        if values.dtype != object and np.isfinite(values).any():
            rows[name] = values + rng.normal(0, rule.noise * np.nanstd(values), len(values))
    alerts, noisy = int(scored.alerts.sum()), scored.scorer.score(rows) >= scored.threshold
    share = float((noisy != scored.alerts).sum() / alerts) if alerts else NAN
    return Finding(
        f"decisions flipped: {share:.4f} of {alerts} alerts",
        f"flipped <= {rule.max_flipped:g} of the alerts, at noise of {rule.noise:g} sd",
        len(scored.scores),
        [] if share <= rule.max_flipped else ["decisions hang on noise, or there is no alert"],
    )
