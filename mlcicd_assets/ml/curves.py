"""What the pictures of an evaluation show, as plain numbers: one `Chart` per picture."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import partial
from typing import Final, Literal

import numpy as np

from mlcicd_assets.ml.costs import RowCosts, row_costs
from mlcicd_assets.ml.metrics import Array, calibration_bins
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets.ml.target import Regression, Target

FINEST: Final = 400  # points that are closer than a 400th of an axis, nobody can tell apart
MOST_CLASSES: Final = 4
MOST_BARS: Final = 12
LEAST_SAVING: Final = -0.5
MODELS: Final = ("candidate", "champion")
Models = Mapping[str, tuple[Array, float | None]]  # by name: scores, threshold
Importance = Mapping[str, tuple[float | None, float | None]]  # by input: of both MODELS


@dataclass(frozen=True, eq=False)
class Line:
    """Points (n,); `mark` is the threshold's, `dashed` goes with the line before."""

    name: str
    x: Array
    y: Array
    mark: tuple[float, float] | None = None
    dashed: bool = False


@dataclass(frozen=True, eq=False)
class Chart:
    """One picture: `lines` in a style, or a `matrix` of counts (true, predicted).

    `names` are those of the classes, or of the bars, which stand at 0, -1, -2 and so on.
    """

    name: str
    x: str
    y: str
    lines: tuple[Line, ...] = ()
    style: Literal["line", "dots", "points", "steps", "bars"] = "line"
    diagonal: bool = False
    is_log: bool = False
    matrix: Array | None = None
    names: tuple[str, ...] = ()


def charts(scored: Scored, champion: Scored | None, importance: Importance) -> tuple[Chart, ...]:
    """Return what is drawn of an evaluation; with a champion, of the rows that are new to it.

    What cannot be judged has no picture.
    """
    spec, holdout, target = scored.spec, scored.split.holdout, scored.target
    since = champion.split.train_until if champion else scored.split.holdout_from
    kept = (holdout[spec.time.column] >= since).to_numpy()
    labels, drawn = scored.labels[kept], list[Chart]()
    if champion and target.missing(labels):
        return charts(scored, None, importance)
    both = [(name, one) for name, one in zip(MODELS, (scored, champion), strict=True) if one]
    models = {name: (one.scores[kept], one.threshold) for name, one in both}
    if not target.missing(labels) and all(np.isfinite(one).all() for one, _ in models.values()):
        is_number = isinstance(target, Regression)
        drawn = _numbers(labels, models) if is_number else _classes(labels, models, target)
        if spec.gates.costs is not None:
            costs = row_costs(holdout.filter(kept), spec.gates.costs)
            drawn.append(_money(labels, models, costs))
    return (*drawn, _importance(importance))


class _Sweep:
    """How many alerts each threshold gives, from the highest down, and how many are right."""

    def __init__(self, truth: Array, scores: Array) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.ends = np.append(np.flatnonzero(np.diff(scores[self.order])), len(scores) - 1)
        self.thresholds = scores[self.order][self.ends]
        self.alerts, self.hits = self.ends + 1, np.cumsum(truth[self.order])[self.ends]

    def line(
        self, name: str, x: Array, y: Array, *, at: float | None, dashed: bool = False
    ) -> Line:
        """Draw one value by another, mark the threshold `at`, leave out what is too fine."""
        fine = np.diff(np.round(np.stack([x, y]) * FINEST))
        seen = np.append(np.any(fine != 0, axis=0), True)
        place = 0 if at is None else int(np.sum(self.thresholds >= at))
        mark = (float(x[place - 1]), float(y[place - 1])) if place else None
        return Line(name, x[seen], y[seen], mark, dashed)


def _classes(labels: Array, models: Models, target: Target) -> list[Chart]:
    """Each frequent class against the rest, and how far the scores can be believed."""
    truths = target.truths(labels)
    common = sorted(enumerate(truths.items()), key=lambda one: -one[1][1].sum())
    precision, roc = list[Line](), list[Line]()
    for place, (of, truth) in common[:MOST_CLASSES]:
        for name, (scores, threshold) in models.items():
            sweep = _Sweep(truth, target.rankings(scores)[place])
            hits, wrong = sweep.hits, sweep.alerts - sweep.hits
            several = len(truths) > 1
            line = partial(sweep.line, f"{of}, {name}" if several else name, at=threshold)
            line = partial(line, dashed=several and name == MODELS[1])
            precision.append(line(hits / hits[-1], hits / sweep.alerts))
            roc.append(line(wrong / wrong[-1], hits / hits[-1]))
    drawn = [
        Chart("precision_recall", "recall", "precision", tuple(precision)),
        Chart("roc", "false positive rate", "recall", tuple(roc), diagonal=True),
        _calibration({name: target.claims(labels, one) for name, (one, _) in models.items()}),
    ]
    if len(truths) > 1:
        names = tuple(map(str, target.classes))
        counts = np.zeros((len(truths), len(truths)), dtype=int)
        np.add.at(counts, (labels, models[MODELS[0]][0].argmax(axis=1)), 1)
        drawn.append(Chart("confusion", "predicted", "true", matrix=counts, names=names))
    return drawn


def _numbers(labels: Array, models: Models) -> list[Chart]:
    """Predicted against observed, the errors, and the means of both by tenth."""
    some = np.linspace(0, len(labels) - 1, min(len(labels), FINEST)).astype(int)
    errors = {name: scores - labels for name, (scores, _) in models.items()}
    edges = np.histogram_bin_edges(np.concatenate(list(errors.values())), 30)
    points = tuple(Line(name, one[some], labels[some]) for name, (one, _) in models.items())
    steps = tuple(Line(n, edges[1:], np.histogram(off, edges)[0]) for n, off in errors.items())
    return [
        Chart("predicted", "predicted", "observed", points, "points", diagonal=True),
        Chart("errors", "predicted - observed", "rows", steps, "steps"),
        _calibration({name: (labels, scores) for name, (scores, _) in models.items()}),
    ]


def _calibration(claims: Mapping[str, tuple[Array, Array]]) -> Chart:
    lines: list[Line] = []
    for name, (happened, expected) in claims.items():
        points = np.array([astuple(one)[:2] for one in calibration_bins(happened, expected)])
        lines.append(Line(name, points[:, 0], points[:, 1]))
    # Rare events: most tenths would else be one dot at 0.
    all_expected = np.concatenate([line.x for line in lines])
    is_log = all_expected.min() >= 0 and all_expected.max() > 30 * np.median(all_expected)
    name, x, y = "calibration", "expected (mean of a tenth)", "observed"
    return Chart(name, x, y, tuple(lines), "dots", diagonal=True, is_log=bool(is_log))


def _money(labels: Array, models: Models, costs: RowCosts) -> Chart:
    """The metric `saving` by threshold; what is worse than `LEAST_SAVING` is cut off there."""
    lines: list[Line] = []
    for name, (scores, threshold) in models.items():
        sweep, silent = _Sweep(labels == 1, scores), costs.silent.sum()
        spent = silent + np.cumsum((costs.alert - costs.silent)[sweep.order])[sweep.ends]
        saving = 1 - spent / max(min(costs.alert.sum(), silent), np.finfo(float).tiny)
        saving = np.maximum(saving, LEAST_SAVING)
        lines.append(sweep.line(name, sweep.thresholds, saving, at=threshold))
    return Chart("money", "decision threshold", "share of the cost saved", tuple(lines))


def _importance(importance: Importance) -> Chart:
    """The strongest inputs from the top down; NaN where it is no input of that model."""
    names = tuple(list(importance)[:MOST_BARS])
    values = np.array([importance[name] for name in names], dtype=float).reshape(-1, 2)
    bars = [Line(n, x, -np.arange(len(x))) for n, x in zip(MODELS, values.T, strict=True)]
    shown = tuple(bar for bar in bars if np.isfinite(bar.x).any())
    return Chart("importance", "lost when shuffled", "", shown, "bars", names=names)
