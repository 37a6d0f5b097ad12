"""Training: the key that names a training exactly, the fit, and the decision threshold."""

import hashlib
import json
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcicd_assets.ml.costs import RowCosts, row_costs
from mlcicd_assets.ml.errors import NotEnoughData
from mlcicd_assets.ml.estimator import make_pipeline, model_frame, own_estimator
from mlcicd_assets.ml.features import LABEL
from mlcicd_assets.ml.fingerprint import fingerprint
from mlcicd_assets.ml.schema import FeatureColumn, feature_columns, feature_definitions
from mlcicd_assets.ml.sections import COMPARED
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class Fitted:
    """A trained scikit-learn pipeline, what the fit cost, and the threshold of a binary one."""

    pipeline: "Pipeline"
    threshold: float | None
    seconds: float


def training_key(train: "pl.DataFrame", spec: PipelineSpec) -> str:
    """Return the sha256 that is equal exactly when the training would be the same."""
    return hashlib.sha256(json.dumps(key_parts(train, spec), sort_keys=True).encode()).hexdigest()


def key_parts(train: "pl.DataFrame", spec: PipelineSpec) -> dict[str, Any]:
    """Return all that a training key is made of.

    Parts: content of the training frame without what only gates read, model inputs, feature
    definitions, training (seed and threads included) and split sections, costs where they
    choose the threshold, versions of python (major.minor), numpy, scipy and scikit-learn.
    Neither the clock nor an environment variable is one of them.
    """
    inputs, costs = feature_columns(spec), spec.gates.costs
    names = [*spec.key, spec.time.column, *(column.name for column in inputs), LABEL]
    names += costs.columns() if costs else []
    parts: dict[str, Any] = {
        "frame": fingerprint(train.lazy().select(list(dict.fromkeys(names)))),
        "model": spec.name,
        "inputs": [asdict(column) for column in inputs],
        "definitions": feature_definitions(spec),
        "training": spec.training.model_dump(mode="json"),
        "split": spec.split.model_dump(mode="json"),
        "costs": costs.model_dump(mode="json") if costs else None,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "libraries": {name: version(name) for name in ("numpy", "scipy", "scikit-learn")},
    }
    own = own_estimator(spec)
    if own is not None:
        parts["own_estimator"] = own.version
    if spec.training.search is None:
        del parts["training"]["search"]  # keys from before there was one stay known
    else:
        parts["search_metric"] = search_metric(spec)
    return parts


def search_metric(spec: PipelineSpec) -> str:
    """Return what a search makes best, by default that by which a champion is compared."""
    search, compared = spec.training.search, COMPARED[spec.label.target]
    return (search and search.metric) or spec.gates.champion.metric or compared[0]


def fit(train: "pl.DataFrame", spec: PipelineSpec) -> Fitted:
    """Train on all of `train`; where the target is binary, choose the decision threshold.

    By a probe that never saw its slice: the same pipeline fitted on the earlier rows and scored
    on the last `threshold_slice` of them, so neither training scores nor the holdout decide the
    threshold. It is the cheapest where the policy has costs, else the one of the highest F1.

    Raises:
        NotEnoughData: one of the two parts lacks a class.
        SpecError: the estimator does not know a parameter.
    """
    started = time.process_time()
    train = train.sort(spec.time.column, *spec.key)
    threshold = _threshold(train, spec) if spec.label.target == "binary" else None
    pipeline = fit_pipeline(train, spec, feature_columns(spec))
    return Fitted(pipeline, threshold, time.process_time() - started)


def _threshold(train: "pl.DataFrame", spec: PipelineSpec) -> float:
    columns = feature_columns(spec)
    cut = round(train.height * (1 - spec.training.threshold_slice))
    early, late = train.head(cut), train.slice(cut)
    for part, name in ((early, "earlier rows"), (late, "threshold slice")):
        if part[LABEL].n_unique() < 2:
            raise NotEnoughData(
                f"model '{spec.name}': the {name} of the training window ({part.height:,} rows) "
                "hold only one class: widen split.train_days or training.threshold_slice"
            )
    probe = fit_pipeline(early, spec, columns)
    scores = probe.predict_proba(model_frame(late, columns))[:, 1]
    costs = spec.gates.costs
    if costs is None:
        return best_f1_threshold(late[LABEL].to_numpy(), scores)
    return best_cost_threshold(scores, row_costs(late, costs))


def best_f1_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the cut with the highest F1.

    Args:
        labels: shape (n,), 0 or 1, both present.
        scores: shape (n,), probabilities.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.append(0, np.cumsum(labels[order]))
    return _best_cut(scores[order], 2 * hits / (np.arange(len(hits)) + hits[-1]))


def best_cost_threshold(scores: np.ndarray, costs: RowCosts) -> float:
    """Return the cheapest cut for `scores` of shape (n,); no alert at all is one, too."""
    order = np.argsort(-scores, kind="stable")
    dearer = np.append(0, np.cumsum((costs.alert - costs.silent)[order]))
    return _best_cut(scores[order], -dearer)


def _best_cut(ranked: np.ndarray, worth: np.ndarray) -> float:
    """Return the threshold of as many alerts as are worth most, never within a tie.

    Midway between two neighbouring scores, so that a difference in a score's last bit can never
    flip a decision. `ranked` has shape (n,), descending, `worth` (n + 1,), for 0 to n alerts.
    """
    # Above every probability when even a score of 1 is no alert.
    edges = np.concatenate([[1.0 if ranked[0] < 1 else 2.0], ranked, [0.0]])
    is_cut = np.append(np.diff(edges)[:-1] != 0, True)
    alerts = int(np.argmax(np.where(is_cut, worth, -np.inf)))
    return float((edges[alerts] + edges[alerts + 1]) / 2)


def fit_pipeline(
    frame: "pl.DataFrame", spec: PipelineSpec, columns: tuple[FeatureColumn, ...]
) -> "Pipeline":
    """Fit the spec's estimator as its parameters say, with its number of threads."""
    from threadpoolctl import threadpool_limits

    pipeline = make_pipeline(spec.training, columns, spec.features.transforms)
    # The number of threads changes the last bits that boosting learns: not OMP_NUM_THREADS's say.
    with threadpool_limits(limits=spec.training.threads):
        return pipeline.fit(model_frame(frame, columns), frame[LABEL].to_numpy())
