"""What a model decides by, and which decisions change when it replaces another."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.metrics import Array, rank_auc
from mlcicd_assets.ml.scored import Scored

SEED: Final = 20_260_102
MOST_ROWS: Final = ((1, 400), (0, 1_000))  # by label; a ROC AUC does not depend on their mix
SMALLEST_SLICE: Final = 30
SLICES_SHOWN: Final = 5
Flips = tuple[str, int, int, int, int, int]  # where, rows, to alert, rightly, to pass, rightly


@dataclass(frozen=True)
class Explanation:
    """What is known of the candidate, and of the champion on the rows that it never saw.

    `importance` by input, highest first: candidate's and champion's (None: not its input).
    `flips` (binary only): all rows, then the slices with the highest share of changed decisions.
    """

    importance: dict[str, tuple[float | None, float | None]]
    champion_metrics: dict[str, float]
    flips: tuple[Flips, ...]


def explain(candidate: Scored, champion: Scored | None) -> Explanation:
    """Explain a candidate; its champion was scored on the same rows, with its own `train_until`."""
    ours, theirs, metrics = permutation_importance(candidate), dict[str, float](), {}
    flips: list[Flips] = []
    ranked = sorted(ours, key=lambda name: ours[name], reverse=True)
    if champion:
        moments = candidate.split.holdout[candidate.spec.time.column]
        unseen = (moments >= champion.split.train_until).to_numpy()
        old = _only(champion, unseen)
        theirs = permutation_importance(old)
        target = old.target
        metrics = target.metrics(old.labels, old.scores, old.threshold)
        if old.spec.label.target == "binary":
            new = _only(candidate, unseen)
            everywhere, *parts = (_flips(new, old, *part) for part in _slices(new, ranked))
            parts.sort(key=lambda part: -(part[2] + part[4]) / part[1])
            changed = (part for part in parts if part[2] + part[4])
            flips = [everywhere, *changed][: SLICES_SHOWN + 1]
    both = {name: (ours.get(name), theirs.get(name)) for name in [*ranked, *theirs]}
    return Explanation(both, metrics, tuple(flips))


def permutation_importance(scored: Scored) -> dict[str, float]:
    """Return each input's loss of ROC AUC when its values are shuffled, once and seeded.

    On a bounded sample of the rows (Breiman, Machine Learning 45, 2001); NaN with one class only.
    Of several classes the mean of each against the rest, of a number what is above its median.
    """
    rng, target = np.random.default_rng(SEED), scored.target
    first = next(iter(target.truths(scored.labels).values())).astype(int)
    found = [rng.permutation(np.flatnonzero(first == of))[:most] for of, most in MOST_ROWS]
    rows = np.concatenate(found)
    inputs = column_arrays(scored.split.holdout[rows], scored.columns)
    truths = list(target.truths(scored.labels[rows]).values())

    def auc(values: dict[str, Array]) -> float:
        rankings = target.rankings(scored.scorer.score(values))
        return float(np.mean([rank_auc(*one) for one in zip(truths, rankings, strict=True)]))

    whole = auc(inputs)
    return {
        name: whole - auc({**inputs, name: rng.permutation(values)})
        for name, values in inputs.items()
    }


def _only(scored: Scored, kept: Array) -> Scored:
    split = replace(scored.split, holdout=scored.split.holdout.filter(kept))
    arrays = {name: getattr(scored, name)[kept] for name in ("labels", "scores", "decisions")}
    return replace(scored, split=split, **arrays)


def _flips(new: Scored, old: Scored, where: str, inside: Array) -> Flips:
    positive, to_alert = new.labels == 1, inside & new.decisions & ~old.decisions
    to_pass = inside & ~new.decisions & old.decisions
    masks = (inside, to_alert, to_alert & positive, to_pass, to_pass & ~positive)
    rows, alerts, alerts_right, passes, passes_right = (int(mask.sum()) for mask in masks)
    return where, rows, alerts, alerts_right, passes, passes_right


def _slices(scored: Scored, ranked: list[str]) -> Iterator[tuple[str, Array]]:
    """All rows, then those of each category's values and of the top number's thirds, if enough."""
    yield "all rows", np.ones(len(scored.labels), dtype=bool)
    inputs = column_arrays(scored.split.holdout, scored.columns)
    numbers = [name for name in ranked if inputs[name].dtype == float]
    for name, values in inputs.items():
        named = _thirds(values) if name in numbers[:1] else values
        if name not in numbers[1:]:
            kinds, counts = np.unique(named, return_counts=True)
            for kind in kinds[counts >= SMALLEST_SLICE]:
                yield f"{name} {kind or '(null)'}", named == kind


def _thirds(values: Array) -> Array:
    known = values[~np.isnan(values)]
    low, high = np.quantile(known if len(known) else [0.0], (1 / 3, 2 / 3), method="lower")
    names = (f"up to {low:.4g}", f"up to {high:.4g}", f"above {high:.4g}")
    return np.select([values <= low, values <= high, values > high], names, "")
