"""Gates that look into groups of rows: weak slices, unfair decisions, poisoned sources."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.ml.features import LABEL
from mlcicd_assets.ml.metrics import NAN, Array, rank_auc
from mlcicd_assets.ml.policy import FairnessGate, PoisoningGate, SliceGate
from mlcicd_assets.ml.scored import Finding, Scored

if TYPE_CHECKING:
    import polars as pl

SLICE_ALARM = 0.05  # chance that any of the slices looks weak though it is just good enough
ALARM = 0.01  # chance of a false alarm of the poisoning gate, over all sources together


def find_weak_slices(scored: Scored, rule: SliceGate) -> Finding:
    """The model ranks well inside each slice, not only overall.

    Each class against the rest; a number by what is above the slice's median. The more slices
    are judged, the more chance allows each (Bonferroni): of fifty, one looks weak.
    """
    from scipy.special import ndtri

    slices = dict(_slices(scored, rule))
    faults, told = list[str](), list[str]()
    sigmas = float(ndtri(1 - SLICE_ALARM / max(len(slices), 1)))
    for name, (truth, ranking) in slices.items():
        positives = int(truth.sum())
        auc = rank_auc(truth, ranking)
        error = auc_error(rule.min_roc_auc, positives=positives, negatives=len(truth) - positives)
        lowest = rule.min_roc_auc - sigmas * error
        line = f"{name}: AUC {auc:.3f}, allowed from {lowest:.3f}, {positives} positives"
        (told if auc >= lowest else faults).append(line)
    return Finding(
        f"{len(faults)} of {len(faults + told)} slices with {rule.min_positives} positives weak",
        f"0: no AUC below {rule.min_roc_auc:g} beyond chance (5 %, all slices together)",
        len(scored.scores),
        faults,
        told[:5],
    )


def find_unfairness(scored: Scored, rule: FairnessGate) -> Finding:
    """Groups are treated alike."""
    target, rates = scored.target, dict[str, float]()
    metric = rule.metric or target.quality
    quality = target.groups_quality(scored.labels, scored.decisions, metric)
    is_binary = scored.spec.label.target == "binary"
    counted = scored.labels == 1 if is_binary else np.ones(len(quality), dtype=bool)
    for value, inside in _groups(scored.split.holdout, rule.group):
        if (inside & counted).sum() >= rule.min_positives:
            mean = np.nanmean if is_binary else np.mean  # NaN: of a row that does not count
            rates[value] = float(mean(quality[inside]))
    highest = np.max([*rates.values(), 0])  # NaN where one of them is
    ratio = float(min(rates.values()) / highest) if highest > 0 and len(rates) > 1 else NAN
    return Finding(
        f"{metric} ratio {ratio:.3f} between {len(rates)} groups of {rule.group}",
        f"ratio >= {rule.min_ratio:g}, 2 groups with {rule.min_positives} positives",
        len(scored.scores),
        [] if ratio >= rule.min_ratio else ["unequal, or too few to compare"],
        [f"{value} {rate:.3f}" for value, rate in rates.items()],
    )


def find_poisoned_sources(scored: Scored, rule: PoisoningGate) -> Finding:
    """No single source of training rows bends what is learned.

    The label rate of a source in the newest third of the training window is compared with its
    own before, that of a new source with everybody's: exact conditional test of two rates
    (Przyborowski & Wilenski, Biometrika 31, 1940), two-sided, Bonferroni over the sources (and
    classes). A number is judged by what lies above its median.
    """
    groups = list(_groups(scored.split.train, rule.source))
    truths = scored.target.truths(scored.split.train[LABEL].to_numpy())
    if scored.spec.label.target == "regression":  # from one half a rate can fall far, not rise
        (above,) = truths.values()
        truths["labels up to the median"] = ~above
    alarm = ALARM / (len(groups) * len(truths))
    faults = [
        fault
        for name, labels in truths.items()
        for fault in _poisoned(scored, rule, groups, name, labels, alarm)
    ]
    return Finding(
        f"{len(faults)} faults in {len(groups)} sources",
        f"0: share of positives <= {rule.max_positive_share:g}, label rates within a factor of "
        f"{rule.max_rate_factor:g}",
        scored.split.train.height,
        faults,
    )


def _poisoned(
    scored: Scored,
    rule: PoisoningGate,
    groups: list[tuple[str, Array]],
    question: str,
    labels: Array,
    alarm: float,
) -> Iterator[str]:
    from scipy.special import bdtr, bdtrc

    split = scored.split
    start = split.train_until - (split.train_until - split.train_from) / 3
    is_new = (split.train[scored.spec.time.column] >= start).to_numpy()
    for value, inside in groups:
        share = labels[inside].sum() / labels.sum()
        if not share <= rule.max_positive_share:
            yield f"{rule.source} {value} brings {share:.3f} of all {question}"
        before = inside & ~is_new if (inside & ~is_new).any() else ~is_new
        new, old = labels[inside & is_new], labels[before]
        factor = (new.sum() + 0.5) / (len(new) + 1) * (len(old) + 1) / (old.sum() + 0.5)
        drawn = (new.sum() + old.sum(), len(new) / (len(new) + len(old)))
        chance = 2 * min(bdtr(new.sum(), *drawn), bdtrc(new.sum() - 1, *drawn))
        if max(factor, 1 / factor) > rule.max_rate_factor and chance < alarm:
            rates = f"{new.mean():.4f} in the newest third, {old.mean():.4f} before"
            yield f"{rule.source} {value}: rate of {question} {rates}"


def _slices(scored: Scored, rule: SliceGate) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Each slice and question with enough rows of both answers: its truth and its ranking."""
    target = scored.target
    default = [column.name for column in scored.columns if column.kind == "category"]
    for column in rule.columns or default:
        for value, inside in _groups(scored.split.holdout, column):
            truths = target.truths(scored.labels[inside])
            rankings = target.rankings(scored.scores[inside])
            for (name, truth), ranking in zip(truths.items(), rankings, strict=True):
                if min(truth.sum(), (~truth).sum()) >= rule.min_positives:
                    more = f", {name}" if len(truths) > 1 else ""
                    yield f"{column} {value}{more}", (truth, ranking)


def auc_error(auc: float, *, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC (Hanley & McNeil, Radiology 143, 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return max((auc * (1 - auc) + spread) / (positives * negatives), 0) ** 0.5


def _groups(rows: "pl.DataFrame", column: str) -> Iterator[tuple[str, Array]]:
    """Each value of a column with where it stands, a mask of shape (rows,); null is a value."""
    import polars as pl

    value = pl.col(column).cast(pl.String).fill_null("(null)").alias("value")
    places = rows.select(value).with_row_index().group_by("value").agg("index")
    for name, places_of in places.sort("value").iter_rows():
        inside = np.zeros(rows.height, dtype=bool)
        inside[places_of] = True
        yield name, inside
