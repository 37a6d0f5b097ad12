"""Evaluate a candidate: one holdout, candidate and champion on the same rows, model gates."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.io.bundle import Bundle, load_bundle
from mlcicd_assets.io.feature_run import load_raw
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import load_pipeline
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split
from mlcicd_assets.ml.contract import check_batch
from mlcicd_assets.ml.estimator import column_arrays, model_frame
from mlcicd_assets.ml.features import compute_features
from mlcicd_assets.ml.gates import champion_gate, metric_floors_gate, parity_gate
from mlcicd_assets.ml.metrics import (
    Comparison,
    classification_metrics,
    compare_paired,
    entity_precision,
    metric_intervals,
)
from mlcicd_assets.ml.schema import feature_columns, feature_definitions
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef, Verdict

if TYPE_CHECKING:
    import polars as pl

BOOTSTRAP_SEED = 20_260_101


@dataclass(frozen=True)
class Evaluation:
    """Holdout metrics of a candidate with 95 % intervals, and the verdicts of the model gates."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    comparison: Comparison | None
    champion_digest: str | None
    champion_version: int | None
    verdicts: tuple[Verdict, ...]
    window: str


def evaluate(
    settings: Settings, ledger: Ledger, spec: PipelineSpec, candidate: ModelVersionRef
) -> Evaluation:
    """Score the holdout with the candidate's bundle and judge it by every model gate.

    Raises:
        DigestMismatch: the bundle is not the one that was trained.
        NotEnoughData: the holdout is empty or holds one class.
    """
    split = load_split(candidate.data, spec)
    holdout = split.holdout
    labels = holdout["label"].to_numpy()
    bundle = load_bundle(settings.releases, spec.name, candidate.digest)
    scores = bundle.scorer.score(column_arrays(holdout, bundle.columns))
    metrics = _metrics(holdout, labels, scores, bundle.threshold, spec)
    live = ledger.live(spec.name)
    champion = None if live is None else load_bundle(settings.releases, spec.name, live.digest)
    comparison = None
    if champion is not None and champion.digest != candidate.digest and _same_label(champion, spec):
        comparison = _compare(holdout, labels, scores, champion, candidate, spec)
    verdicts = (
        metric_floors_gate(metrics, rows=len(labels), subject=candidate.digest, gates=spec.gates),
        champion_gate(
            comparison,
            gates=spec.gates,
            subject=candidate.digest,
            champion_digest=champion.digest if champion else None,
        ),
        _parity(settings, holdout, scores, bundle, candidate, spec),
    )
    return Evaluation(
        metrics=metrics,
        intervals=metric_intervals(
            labels, scores, resamples=spec.gates.champion.resamples, seed=BOOTSTRAP_SEED
        ),
        comparison=comparison,
        champion_digest=champion.digest if champion else None,
        champion_version=live.version if live else None,
        verdicts=verdicts,
        window=f"{split.holdout_from:%Y-%m-%d} to {split.holdout_until:%Y-%m-%d}",
    )


def _same_label(champion: Bundle, spec: PipelineSpec) -> bool:
    """Two models of different labels cannot be compared; the gate then fails for want of it."""
    return champion.definitions["label"] == feature_definitions(spec)["label"]


def _metrics(
    holdout: "pl.DataFrame",
    labels: np.ndarray,
    scores: np.ndarray,
    threshold: float,
    spec: PipelineSpec,
) -> dict[str, float]:
    metrics = classification_metrics(labels, scores, threshold=threshold)
    wanted = spec.evaluation.entity_precision
    if wanted is not None:
        days = holdout[spec.time.column].dt.date().to_physical().to_numpy()
        entities = holdout[wanted.entity].to_numpy()
        metrics[f"entity_precision_at_{wanted.k}"] = entity_precision(
            days, entities, labels, scores, k=wanted.k
        )
    return metrics


def _compare(
    holdout: "pl.DataFrame",
    labels: np.ndarray,
    scores: np.ndarray,
    champion: Bundle,
    candidate: ModelVersionRef,
    spec: PipelineSpec,
) -> Comparison:
    """Score the champion on the candidate's rows that it was not trained on, and compare."""
    import polars as pl

    train_until = datetime.fromisoformat(champion.train_until)
    unseen = (holdout.select(pl.col(spec.time.column) >= train_until)).to_series().to_numpy()
    frame = _champion_frame(holdout, champion, candidate, spec)
    champion_scores = champion.scorer.score(column_arrays(frame, champion.columns))
    return compare_paired(
        labels[unseen],
        scores[unseen],
        champion_scores[unseen],
        metric=spec.gates.champion.metric,
        resamples=spec.gates.champion.resamples,
        seed=BOOTSTRAP_SEED,
    )


def _champion_frame(
    holdout: "pl.DataFrame", champion: Bundle, candidate: ModelVersionRef, spec: PipelineSpec
) -> "pl.DataFrame":
    """Give the same rows the champion's own features, computed again where they differ."""
    if champion.definitions == feature_definitions(spec):
        return holdout
    own = {**spec.model_dump(mode="json"), "features": champion.definitions["features"]}
    events, labels = load_raw(spec, candidate.data.raw)
    good = check_batch(events, spec).good.lazy()
    features = compute_features(
        good, None if labels is None else labels.lazy(), PipelineSpec.model_validate(own)
    )
    names = [column.name for column in champion.columns]
    rows = holdout.select(spec.key)
    frame = rows.join(
        features.select(*spec.key, *(name for name in names if name not in spec.key)),
        on=list(spec.key),
        how="left",
        maintain_order="left",
    )
    return frame


def _parity(
    settings: Settings,
    holdout: "pl.DataFrame",
    scores: np.ndarray,
    bundle: Bundle,
    candidate: ModelVersionRef,
    spec: PipelineSpec,
) -> Verdict:
    """Compare the served scorer with the scikit-learn model that MLflow keeps."""
    pipeline = load_pipeline(settings, spec.name, candidate.version)
    offline = pipeline.predict_proba(model_frame(holdout, feature_columns(spec)))[:, 1]
    flipped = int(np.sum((offline >= bundle.threshold) != (scores >= bundle.threshold)))
    return parity_gate(
        float(np.max(np.abs(offline - scores))),
        flipped=flipped,
        rows=len(scores),
        subject=bundle.digest,
        gates=spec.gates,
    )
