"""Evaluate a candidate: one holdout, candidate and champion on the same rows, model gates."""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mlcicd_assets.io.bundle import Bundle, load_bundle
from mlcicd_assets.io.feature_inputs import load_raw
from mlcicd_assets.io.feature_run import load_features
from mlcicd_assets.io.ledger import Live
from mlcicd_assets.io.registry import load_pipeline
from mlcicd_assets.io.serving_trial import try_serving
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.contract import check_batch
from mlcicd_assets.ml.costs import row_costs
from mlcicd_assets.ml.estimator import column_arrays, model_frame
from mlcicd_assets.ml.features import KNOWN_AT, LABEL, compute_features
from mlcicd_assets.ml.metrics import (
    CalibrationBin,
    Comparison,
    calibration_bins,
    compare_resampled,
    entity_precision,
    interval_95,
)
from mlcicd_assets.ml.model_gates import (
    SERVING_TRIAL,
    champion_gate,
    finding_gate,
    finding_gates,
    metric_floors_gate,
    parity_gate,
)
from mlcicd_assets.ml.schema import feature_columns, is_defined_alike
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets.ml.scoring import decide, largest_difference
from mlcicd_assets.ml.search import chosen_spec
from mlcicd_assets.ml.sections import Label
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split, random_split, split_frame
from mlcicd_assets.ml.target import compare_paired, metric_intervals
from mlcicd_assets.ml.training import fit
from mlcicd_assets.ml.values import ModelVersionRef, Verdict

if TYPE_CHECKING:
    import polars as pl
    from sklearn.pipeline import Pipeline

BOOTSTRAP_SEED = 20_260_101


@dataclass(frozen=True)
class Evaluation:
    """Holdout metrics of a candidate with 95 % intervals, and the verdicts of the model gates.

    What is undefined is no metric. Those called `provisional_` are of rows younger than the
    holdout, whose labels may still come, those called `random_split_` of a split blind to time:
    information, never judged.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    curve: tuple[CalibrationBin, ...]
    comparison: Comparison | None
    champion_digest: str | None
    champion_version: int | None
    verdicts: tuple[Verdict, ...]
    window: str
    scored: Scored
    champion: Scored | None


def evaluate(
    settings: Settings,
    spec: PipelineSpec,
    candidate: ModelVersionRef,
    *,
    live: Live | None,
    pipeline: "Pipeline | None" = None,
) -> Evaluation:
    """Score the holdout with the candidate's bundle and judge it by every model gate.

    Args:
        settings: this environment.
        spec: the model.
        candidate: what is judged.
        live: the champion, None if there is none.
        pipeline: the candidate's scikit-learn model; default: as MLflow keeps it.

    Raises:
        DigestMismatch: the bundle is not the one that was trained.
        NotEnoughData: the holdout is empty or holds one class.
    """
    features = load_features(candidate.data, spec)
    split = split_frame(features, spec, datetime.fromisoformat(candidate.data.as_of))
    bundle = load_bundle(settings.releases, spec.name, candidate.digest)
    scored = _score(bundle, split, candidate, spec)
    champion, comparison = None, None
    if live is not None and live.digest != candidate.digest:
        other = load_bundle(settings.releases, spec.name, live.digest)
        # Models of different labels cannot be compared; the gate then fails for want of it.
        if Label.model_validate(other.definitions["label"]) == spec.label:
            frame = _champion_frame(split.holdout, other, candidate, spec)
            until = datetime.fromisoformat(other.train_until)
            own = replace(split, holdout=frame, train_until=until)
            champion = _score(other, own, candidate, spec)
            comparison = _compare(scored, champion, until)
    gates, subject, metrics = spec.gates, candidate.digest, _metrics(scored)
    digest = live.digest if live else None
    verdicts = [
        metric_floors_gate(metrics, rows=len(scored.scores), subject=subject, gates=gates),
        champion_gate(comparison, gates=gates, subject=subject, champion_digest=digest),
        _parity(
            scored, candidate, pipeline or load_pipeline(settings, spec.name, candidate.version)
        ),
        *finding_gates(scored, subject=subject),
    ]
    if gates.serving is not None:
        rows = column_arrays(split.holdout, bundle.columns)
        trial = try_serving(settings.releases, bundle, rows, gates.serving)
        verdicts.append(finding_gate(SERVING_TRIAL, trial, subject, gates))
    metrics |= _provisional_metrics(features, scored)
    metrics |= _random_split_metrics(scored, chosen_spec(spec, candidate.chosen))
    return Evaluation(
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        intervals=_intervals(scored),
        curve=calibration_bins(*scored.target.claims(scored.labels, scored.scores)),
        comparison=comparison,
        champion_digest=digest,
        champion_version=live.version if live else None,
        verdicts=tuple(verdicts),
        window=f"{split.holdout_from:%Y-%m-%d} to {split.holdout_until:%Y-%m-%d}",
        scored=scored,
        champion=champion,
    )


def _score(bundle: Bundle, split: Split, candidate: ModelVersionRef, spec: PipelineSpec) -> Scored:
    scores = bundle.scorer.score(column_arrays(split.holdout, bundle.columns))
    return Scored(
        spec=spec,
        split=split,
        as_of=datetime.fromisoformat(candidate.data.as_of),
        training_key=candidate.training_key,
        columns=bundle.columns,
        scorer=bundle.scorer,
        threshold=bundle.threshold,
        labels=split.holdout[LABEL].to_numpy(),
        scores=scores,
        decisions=decide(scores, bundle.threshold),
    )


def _metrics(scored: Scored) -> dict[str, float]:
    holdout, labels, spec = scored.split.holdout, scored.labels, scored.spec
    metrics = scored.target.metrics(labels, scored.scores, scored.threshold)
    wanted = spec.evaluation.entity_precision
    if wanted is not None:
        days = holdout[spec.time.column].dt.date().to_physical().to_numpy()
        entities = holdout[wanted.entity].to_numpy()
        metrics[f"entity_precision_at_{wanted.k}"] = entity_precision(
            days, entities, labels, scored.scores, k=wanted.k
        )
    if spec.gates.costs is not None:
        metrics["saving"] = row_costs(holdout, spec.gates.costs).saving(scored.decisions)
    return metrics


def _provisional_metrics(features: "pl.DataFrame", scored: Scored) -> dict[str, float]:
    """Judge the rows that are too young for the holdout by the labels that came already."""
    import polars as pl

    spec = scored.spec
    due = timedelta(days=spec.label.matures_after_days)
    told = pl.when(pl.col(KNOWN_AT) <= scored.as_of).then(LABEL)
    absent = 0 if spec.label.absent == "negative" else None
    young = features.filter(pl.col(spec.time.column) > scored.as_of - due)
    told = young.with_columns(pl.coalesce(told, absent).alias(LABEL)).drop_nulls(LABEL)
    scores = scored.scorer.score(column_arrays(told, scored.columns))
    metrics = scored.target.metrics(told[LABEL].to_numpy(), scores, scored.threshold)
    names = [name for name in (*scored.target.compared, "rows") if name in metrics]
    return {f"provisional_{name}": metrics[name] for name in names}


def _random_split_metrics(scored: Scored, spec: PipelineSpec) -> dict[str, float]:
    """Tell what a split blind to time would claim of the same training on the same rows."""
    if not spec.evaluation.random_split:
        return {}
    split = random_split(scored.split, seed=spec.training.seed)
    pipeline = fit(split.train, spec).pipeline
    scores = scored.target.predict(pipeline, model_frame(split.holdout, scored.columns))
    found = scored.target.metrics(split.holdout[LABEL].to_numpy(), scores, scored.threshold)
    name = "roc_auc" if "roc_auc" in found else scored.target.compared[0]
    return {f"random_split_{name}": found[name]}


def _intervals(scored: Scored) -> dict[str, tuple[float, float]]:
    gates, holdout = scored.spec.gates, scored.split.holdout
    count = gates.champion.resamples
    found = metric_intervals(
        scored.target, scored.labels, scored.scores, resamples=count, seed=BOOTSTRAP_SEED
    )
    if gates.costs is not None:
        savings = row_costs(holdout, gates.costs).savings(scored.decisions, count, BOOTSTRAP_SEED)
        found["saving"] = interval_95(savings)
    return found


def _compare(scored: Scored, champion: Scored, train_until: datetime) -> Comparison:
    """Compare on the candidate's rows that the champion was not trained on."""
    spec, gates, holdout = scored.spec, scored.spec.gates, scored.split.holdout
    unseen = holdout[spec.time.column] >= train_until
    kept, count = unseen.to_numpy(), gates.champion.resamples
    labels, target = scored.labels[kept], scored.target
    metric = gates.champion.metric or target.compared[0]
    if metric == "saving" and gates.costs is not None:
        costs = row_costs(holdout.filter(unseen), gates.costs)
        ours, theirs = (
            costs.savings(one.decisions[kept], count, BOOTSTRAP_SEED) for one in (scored, champion)
        )
        judged = target.judged(labels)
        return compare_resampled(metric, ours, theirs, rows=len(labels), positives=judged)
    ours, theirs = scored.scores[kept], champion.scores[kept]
    return compare_paired(
        target, labels, ours, theirs, metric=metric, resamples=count, seed=BOOTSTRAP_SEED
    )


def _champion_frame(
    holdout: "pl.DataFrame", champion: Bundle, candidate: ModelVersionRef, spec: PipelineSpec
) -> "pl.DataFrame":
    """Give the same rows the champion's own features, computed again where they differ."""
    if is_defined_alike(champion.definitions, spec):
        return holdout
    own = {**spec.model_dump(mode="json"), "features": champion.definitions["features"]}
    events, labels = load_raw(spec, candidate.data.raw)
    good = check_batch(events, spec).good.lazy()
    features = compute_features(
        good, None if labels is None else labels.lazy(), PipelineSpec.model_validate(own)
    )
    names = [column.name for column in champion.columns if column.name not in spec.key]
    rows, own_columns = holdout.drop(names, strict=False), features.select(*spec.key, *names)
    return rows.join(own_columns, on=list(spec.key), how="left", maintain_order="left")


def _parity(scored: Scored, candidate: ModelVersionRef, pipeline: "Pipeline") -> Verdict:
    """Compare the served scorer with the scikit-learn model."""
    frame = model_frame(scored.split.holdout, feature_columns(scored.spec))
    offline = scored.target.predict(pipeline, frame)
    decisions = decide(offline, scored.threshold)
    return parity_gate(
        largest_difference(scored.scores, offline),
        flipped=int(scored.target.changed(scored.labels, decisions, scored.decisions).sum()),
        rows=len(offline),
        subject=candidate.digest,
        gates=scored.spec.gates,
    )
