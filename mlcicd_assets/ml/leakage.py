"""What a candidate must not have known: leaking features, shared rows, labels of the future."""

from collections.abc import Iterator
from datetime import timedelta

import numpy as np

from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.features import KNOWN_AT, LABEL
from mlcicd_assets.ml.metrics import Array, rank_auc
from mlcicd_assets.ml.policy import Gates, LeakageGate
from mlcicd_assets.ml.scored import Finding, Scored
from mlcicd_assets.ml.training import training_key

PRIOR_ROWS = 10
BINS, ROWS_OF_A_BIN = 100, 20


def find_leaks(scored: Scored, rule: LeakageGate) -> Finding:
    """No feature knows the label, and the holdout is new to the model."""
    spec, train, holdout = scored.spec, scored.split.train, scored.split.holdout
    labels, arrays = train[LABEL].to_numpy(), column_arrays(train, scored.columns)
    is_number = spec.label.target == "regression"
    words, most = ("R2", rule.max_feature_r2) if is_number else ("ROC AUC", rule.max_feature_auc)
    told = {name: _told(values, labels, spec.label.target) for name, values in arrays.items()}
    faults = [
        f"{name} alone has {words} {found:.3f} in training: it may know the label"
        for name, found in told.items()
        if not found <= most and name not in rule.may_exceed
    ]
    faults += [
        f"{shared} holdout rows share {', '.join(names)} with training rows"
        for names in [list(spec.key), *([[rule.disjoint]] if rule.disjoint else [])]
        if (shared := holdout.join(train, on=names, how="semi").height)
    ]
    if training_key(train, spec) != scored.training_key:
        faults.append("it was not trained on these rows by this spec: train it again")
    highest = sorted(told, key=lambda name: -told[name])[:3]
    return Finding(
        f"{len(faults)} faults in {len(told)} features and {holdout.height} holdout rows",
        f"0 faults: single-feature {words} <= {most:g}, no shared rows",
        train.height,
        faults,
        ["highest alone: " + ", ".join(f"{name} {told[name]:.3f}" for name in highest)],
    )


def find_early_labels(scored: Scored, _: Gates) -> Finding:
    """Training and metrics use only labels that were known, and final, by then.

    Judged from times alone; of ml/splitting.py it takes only the latest start of the holdout.
    """
    import polars as pl

    spec, split = scored.spec, scored.split
    time, due = pl.col(spec.time.column), timedelta(days=spec.label.matures_after_days)
    begins = min(split.holdout_from, *split.holdout.select(time.min()).row(0))
    # A negative may have been assumed because no label was known; a positive never is.
    is_used = pl.col(LABEL) == 1 if spec.label.absent == "negative" else pl.lit(True)
    faults: list[str] = []
    for part, rows, now in (
        ("training", split.train, begins),
        ("holdout", split.holdout, scored.as_of),
    ):
        last = now - due  # a label due as the holdout begins is known by then
        is_known = (pl.col(KNOWN_AT) <= now).fill_null(False)
        counts = rows.select(
            (time > last).sum().alias(f"rows are younger than {last:%Y-%m-%d %H:%M}"),
            (is_used & ~is_known).sum().alias(f"labels were unknown at {now:%Y-%m-%d %H:%M}"),
            (pl.col(KNOWN_AT) < time).sum().alias("labels were known before their event"),
        )
        faults += [f"{n} {part} {what}" for what, n in counts.row(0, named=True).items() if n]
    return Finding(
        f"{len(faults)} kinds of early rows or labels",
        f"0: rows {due.days} days old, labels known when they were used",
        min(split.train.height, split.holdout.height),
        faults,
        [f"metrics are final: each label of the holdout was due by {scored.as_of:%Y-%m-%d}"],
    )


def _told(values: Array, labels: Array, target: str) -> float:
    """How much a single feature tells: ROC AUC (of several classes the lowest), or R2 of ranks.

    Of ranks, since a long tail of the label would hide a leak.
    """
    import polars as pl

    if target == "binary":
        return _rate_auc(values, labels) if values.dtype == object else _auc(values, labels)
    codes = values if values.dtype == object else _bins(values)
    if target == "regression":
        labels = pl.Series(labels).rank("average").to_numpy()
        halves = _other_half(codes, labels, prior_rows=1)
        off = [((labels[half] - told) ** 2).sum() for half, told in halves]
        return float(1 - sum(off) / ((labels - labels.mean()) ** 2).sum())
    return min(_rate_auc(codes, (labels == index).astype(int)) for index in np.unique(labels))


def _auc(values: Array, labels: Array) -> float:
    """The larger ROC AUC of a number and its negative; a null is below, or above, all others."""
    ends = (-np.inf, np.inf) if np.isnan(values).any() else (0,)
    both = [rank_auc(labels, np.where(np.isnan(values), end, values)) for end in ends]
    return float(np.max([*both, *(1 - auc for auc in both)]))


def _rate_auc(values: Array, labels: Array) -> float:
    """ROC AUC of a value's smoothed label rate in the other half of the rows."""
    halves = _other_half(values, labels)
    return float(np.mean([rank_auc(labels[half], told) for half, told in halves]))


def _other_half(
    values: Array, labels: Array, prior_rows: int = PRIOR_ROWS
) -> Iterator[tuple[Array, Array]]:
    """Each half of the rows as a mask, with the smoothed mean label of its values in the other.

    Of the other half, since in its own half a value of one row would look like a leak.
    """
    names = values.astype(str) if values.dtype == object else values
    found, codes = np.unique(names, return_inverse=True)
    for half in (0, 1):
        told = np.arange(len(labels)) % 2 == half
        prior = labels[told].mean()
        rows = np.bincount(codes[told], minlength=len(found)) + prior_rows
        sums = np.bincount(codes[told], labels[told], len(found)) + prior * prior_rows
        yield ~told, (sums / rows)[codes[~told]]


def _bins(values: Array) -> Array:
    """Number up to `BINS` bins of about equal mass; a null is one of its own."""
    known = values[~np.isnan(values)]
    bins = min(BINS, max(len(known) // ROWS_OF_A_BIN, 2))
    edges = np.unique(np.quantile(known, np.arange(1, bins) / bins)) if len(known) else []
    return np.where(np.isnan(values), -1, np.searchsorted(edges, values))
