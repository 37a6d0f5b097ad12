"""Search for an estimator's parameters: each trial is judged on time-ordered splits."""

import math
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlcicd_assets.ml.costs import row_costs
from mlcicd_assets.ml.errors import NotEnoughData, SpecError
from mlcicd_assets.ml.estimator import make_pipeline, model_frame
from mlcicd_assets.ml.features import LABEL
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.search_space import Search
from mlcicd_assets.ml.sections import COMPARED
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.target import target_of
from mlcicd_assets.ml.training import best_cost_threshold, fit_pipeline, search_metric
from mlcicd_assets.ml.values import Trial

if TYPE_CHECKING:
    import polars as pl

    Fold = tuple[pl.DataFrame, pl.DataFrame]


def check_search(spec: PipelineSpec) -> None:
    """Check the search itself, without data; only a spec that has one pays for scikit-learn.

    Raises:
        SpecError: the metric does not fit the target, or the estimator would refuse a value.
    """
    if (wanted := spec.training.search) is None:
        return
    metrics, metric = COMPARED[spec.label.target], search_metric(spec)
    if metric not in metrics or (metric == "saving" and spec.gates.costs is None):
        raise SpecError(
            f"training.search.metric must be one of {', '.join(metrics)}; saving needs gates.costs"
        )
    for name, values in wanted.parameters.items():
        for value in values if isinstance(values, tuple) else values.ends():
            training = chosen_spec(spec, {name: value}).training
            try:
                model = make_pipeline(training, feature_columns(spec)).named_steps["model"]
                getattr(model, "_validate_params", bool)()  # one of the user's own may have none
            except (SpecError, TypeError, ValueError) as error:
                raise SpecError(f"training.search: {error}") from error


def chosen_spec(spec: PipelineSpec, chosen: Mapping[str, Any]) -> PipelineSpec:
    """Return the spec that trains with what a search chose, and searches no more."""
    changes = {"parameters": {**spec.training.parameters, **chosen}, "search": None}
    return spec.model_copy(update={"training": spec.training.model_copy(update=changes)})


def draw(wanted: Search, seed: int) -> list[dict[str, Any]]:
    """Return the parameters of all trials; of lists alone never the same twice."""
    from sklearn.model_selection import ParameterSampler

    return list(ParameterSampler(wanted.parameters, wanted.trials, random_state=seed))


def search(
    train: "pl.DataFrame", spec: PipelineSpec, wanted: Search, done: Mapping[int, Trial]
) -> Iterator[Trial]:
    """Give every trial of `wanted` as it is finished; those of `done` are not made again.

    Raises:
        NotEnoughData: a fold lacks a class.
    """
    drawn = draw(wanted, spec.training.seed)
    folds = _folds(train, spec, wanted.folds) if len(done) < len(drawn) else []
    for number, parameters in enumerate(drawn):
        yield done.get(number) or _try(number, parameters, folds, spec)


def _folds(train: "pl.DataFrame", spec: PipelineSpec, count: int) -> "list[Fold]":
    """Cut the later half into parts, each with all rows before it: earlier rows, later rows.

    As TimeSeriesSplit does; the label's maturity lies between, as before the holdout.
    """
    import polars as pl

    rows, gap = train.sort(spec.time.column, *spec.key), timedelta(spec.label.matures_after_days)
    target = target_of(spec.label.target, spec.label.classes)
    size = max(1, rows.height // (2 * count))
    folds: list[Fold] = []
    for number in range(count, 0, -1):
        start = rows.height - number * size
        late = rows.slice(start, size)
        due = pl.col(spec.time.column) + gap
        early = rows.head(start).filter(due <= late[spec.time.column].min())
        for part in (early, late):
            if missing := target.missing(part[LABEL].to_numpy()):
                raise NotEnoughData(
                    f"'{spec.name}': a part of training.search's folds has {part.height} rows and "
                    f"{missing}: lower its folds, or wait for more data"
                )
        folds.append((early, late))
    return folds


def _try(number: int, parameters: dict[str, Any], folds: "list[Fold]", spec: PipelineSpec) -> Trial:
    started, tried, metric = time.process_time(), chosen_spec(spec, parameters), search_metric(spec)
    try:
        score = sum(_score(*fold, tried, metric) for fold in folds) / len(folds)
    except ValueError as error:  # of scikit-learn: values that do not go together
        raise SpecError(f"training.search cannot try {parameters}: {error}") from error
    # What cannot be judged is the worst, and never wins.
    score = score if math.isfinite(score) else -math.inf
    return Trial(number, parameters, score, time.process_time() - started)


def _score(early: "pl.DataFrame", late: "pl.DataFrame", spec: PipelineSpec, metric: str) -> float:
    target, columns = target_of(spec.label.target, spec.label.classes), feature_columns(spec)
    scores = target.predict(fit_pipeline(early, spec, columns), model_frame(late, columns))
    if metric == "saving" and spec.gates.costs is not None:
        costs = row_costs(late, spec.gates.costs)
        return costs.saving(scores >= best_cost_threshold(scores, costs))
    return float(target.resampled(late[LABEL].to_numpy(), scores, 0, 0)[metric][0])
