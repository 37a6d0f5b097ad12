"""Train once per training key: reuse what is known, else fit, bundle, register, remember."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mlcicd_assets.io.bundle import Bundle, load_bundle, write_bundle
from mlcicd_assets.io.feature_run import load_features
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.ledger_tables import TrainedRecord
from mlcicd_assets.io.locks import one_at_a_time
from mlcicd_assets.io.provenance import code_state
from mlcicd_assets.io.record import write_record
from mlcicd_assets.io.registry import (
    DIGEST_TAG,
    KEY_TAG,
    SECONDS_TAG,
    find_version,
    log_trial,
    register,
)
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import listing
from mlcicd_assets.ml.errors import BundleError
from mlcicd_assets.ml.estimator import column_arrays, own_estimator
from mlcicd_assets.ml.export import export_model
from mlcicd_assets.ml.schema import feature_columns, feature_definitions
from mlcicd_assets.ml.search import chosen_spec, search
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split, split_frame
from mlcicd_assets.ml.training import Fitted, fit, search_metric, training_key
from mlcicd_assets.ml.values import FeatureSet, ModelVersionRef, Trial

GOLDEN_ROWS = 200


@dataclass(frozen=True)
class MadeModel:
    """A model version, and what making it cost, or would have cost again (CPU seconds)."""

    model: ModelVersionRef
    trained_now: bool
    seconds: float
    split: Split
    threshold: float | None


def load_split(data: FeatureSet, spec: PipelineSpec) -> Split:
    """Read a pinned feature table and split it; equal inputs give equal rows everywhere."""
    frame = load_features(data, spec)
    return split_frame(frame, spec, datetime.fromisoformat(data.as_of))


def find_or_train(
    settings: Settings,
    ledger: Ledger,
    spec: PipelineSpec,
    data: FeatureSet,
    *,
    run_id: str,
    open_tracking: Callable[[], Any],
    tell: Callable[[str], None],
) -> MadeModel:
    """Return the version for this training key; train, in a run of MLflow, only if there is none.

    Raises:
        NotEnoughData: too few mature rows.
        BundleError: a lost bundle could not be made again bit for bit.
    """
    split = load_split(data, spec)
    key = training_key(split.train, spec)
    # Of two overlapping runs the second waits, and then finds the key known. Across machines that
    # share no PostgreSQL `UNIQUE(training_key)` leaves one winner, at the price of a training.
    with one_at_a_time(settings, spec.name):
        known = _known(settings, ledger, spec.name, key)
        tracked = open_tracking() if known is None else None
        chosen, spent = _search(ledger, spec, split, key, tracked=tracked, tell=tell)
        is_new = known is None or not listing(
            bundle_folder(settings.releases, spec.name, known.digest)
        )
        if known is not None and not is_new:
            bundle = load_bundle(settings.releases, spec.name, known.digest)
            ledger.remember_reuse(known, run_id)
            saved = f"{known.seconds:.1f} CPU s saved"
            tell(f"training key {key[:12]} is known: v{known.version}, {saved}")
        else:
            tell(f"training {spec.training.estimator} on {split.train.height:,} rows")
            fitted = fit(split.train, chosen_spec(spec, chosen))
            fitted = replace(fitted, seconds=fitted.seconds + spent)
            bundle = make_bundle(settings, spec, split, fitted)
            write_record(settings, bundle.digest, spec, data, split, key, chosen)
            if known is None:
                made = _register(settings, spec, data, split, fitted, bundle, key, chosen, tracked)
                known = ledger.remember_trained(made)
            elif bundle.digest != known.digest:
                raise BundleError(
                    f"the bundle of {spec.name} v{known.version} is lost and training again gave "
                    "another one: restore the release store from its backup"
                )
    version, digest, run = known.version, known.digest, known.mlflow_run_id
    model = ModelVersionRef(spec.name, version, digest, key, run, data, chosen)
    return MadeModel(model, is_new, known.seconds, split, bundle.threshold)


def _search(
    ledger: Ledger,
    spec: PipelineSpec,
    split: Split,
    key: str,
    *,
    tracked: Any,
    tell: Callable[[str], None],
) -> tuple[dict[str, Any], float]:
    """Return what the spec's search chose, and its CPU seconds; no finished trial is made again."""
    if (wanted := spec.training.search) is None:
        return {}, 0.0
    done, metric = ledger.trials(key), search_metric(spec)
    trials: list[Trial] = []
    for trial in search(split.train, spec, wanted, done):
        trials.append(trial)
        if trial.number not in done:
            ledger.remember_trial(key, trial)
            told = f"{metric} {trial.score:.4f} with {trial.parameters}"
            tell(f"trial {len(trials)} of {wanted.trials}: {told}")
        if tracked is not None:
            log_trial(tracked, trial, metric)
    best = max(trials, key=lambda trial: trial.score)  # of equals the first
    return best.parameters, sum(trial.seconds for trial in trials)


def _known(settings: Settings, ledger: Ledger, model: str, key: str) -> TrainedRecord | None:
    """Ask the ledger, then MLflow: a crash between the two must not register a key twice."""
    known = ledger.find_trained(key)
    if known is None and (found := find_version(settings, model, key)) is not None:
        known = ledger.remember_trained(found)
    return known


def make_bundle(settings: Settings, spec: PipelineSpec, split: Split, fitted: Fitted) -> Bundle:
    """Write the bundle of a fitted model; its golden rows are the first of the holdout."""
    columns = feature_columns(spec)
    golden = split.holdout.head(GOLDEN_ROWS)
    return write_bundle(
        settings.releases,
        model=spec.name,
        exported=export_model(fitted.pipeline, columns, own_estimator(spec)),
        columns=columns,
        threshold=fitted.threshold,
        definitions=feature_definitions(spec),
        train_until=split.train_until.isoformat(),
        golden=column_arrays(golden, columns),
    )


def _register(
    settings: Settings,
    spec: PipelineSpec,
    data: FeatureSet,
    split: Split,
    fitted: Fitted,
    bundle: Bundle,
    key: str,
    chosen: dict[str, Any],
    tracked: Any,
) -> TrainedRecord:
    return register(
        settings,
        tracked,
        fitted.pipeline,
        model=spec.name,
        tags={
            KEY_TAG: key,
            DIGEST_TAG: bundle.digest,
            SECONDS_TAG: str(fitted.seconds),
            "features_table": str(data.features),
            "features_fingerprint": data.fingerprint,
            "as_of": data.as_of,
            **code_state().as_tags(),
        },
        params={
            "estimator": spec.training.estimator,
            "seed": spec.training.seed,
            "threads": spec.training.threads,
            "train_from": split.train_from.isoformat(),
            "train_until": split.train_until.isoformat(),
            **{f"parameters.{n}": v for n, v in (spec.training.parameters | chosen).items()},
        },
        metrics={
            "train_rows": split.train.height,
            "train_cpu_seconds": fitted.seconds,
            **({} if fitted.threshold is None else {"threshold": fitted.threshold}),
        },
        dataset=data.features,
    )
