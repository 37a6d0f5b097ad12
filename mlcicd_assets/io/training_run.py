"""Train once per training key: reuse what is known, else fit, bundle, register, remember."""

import fcntl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlcicd_assets.io.bundle import Bundle, load_bundle, write_bundle
from mlcicd_assets.io.delta import scan
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.ledger_tables import TrainedRecord
from mlcicd_assets.io.provenance import code_state
from mlcicd_assets.io.registry import (
    DIGEST_TAG,
    KEY_TAG,
    SECONDS_TAG,
    find_version,
    register,
)
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import listing
from mlcicd_assets.ml.errors import BundleError
from mlcicd_assets.ml.estimator import column_arrays, own_estimator
from mlcicd_assets.ml.export import export_model
from mlcicd_assets.ml.schema import feature_columns, feature_definitions
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split, split_frame
from mlcicd_assets.ml.training import Fitted, fit, training_key
from mlcicd_assets.ml.values import FeatureSet, ModelVersionRef

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
    frame = scan(data.features).collect()
    return split_frame(frame, spec, datetime.fromisoformat(data.as_of))


def find_or_train(
    settings: Settings,
    ledger: Ledger,
    spec: PipelineSpec,
    data: FeatureSet,
    *,
    open_tracking: Callable[[], Any],
    tell: Callable[[str], None],
) -> MadeModel:
    """Return the version for this training key; train only if there is none.

    Args:
        settings: this environment.
        ledger: remembers which key gave which version.
        spec: the model.
        data: the pinned features.
        open_tracking: opens the MLflow run; called only when something is trained.
        tell: progress for people.

    Raises:
        NotEnoughData: too few mature rows.
        BundleError: a lost bundle could not be made again bit for bit.
    """
    split = load_split(data, spec)
    key = training_key(split.train, spec)
    with _one_at_a_time(settings, spec.name):
        return _find_or_train(
            settings, ledger, spec, data, split, key, open_tracking=open_tracking, tell=tell
        )


def _find_or_train(
    settings: Settings,
    ledger: Ledger,
    spec: PipelineSpec,
    data: FeatureSet,
    split: Split,
    key: str,
    *,
    open_tracking: Callable[[], Any],
    tell: Callable[[str], None],
) -> MadeModel:
    known = _known(settings, ledger, spec.name, key)
    if known is not None and listing(bundle_folder(settings.releases, spec.name, known.digest)):
        bundle = load_bundle(settings.releases, spec.name, known.digest)
        tell(f"training key {key[:12]} is known: v{known.version}, {known.seconds:.1f} CPU s saved")
        return _made(known, data, split, bundle, trained_now=False)
    tell(f"training {spec.training.estimator} on {split.train.height:,} rows")
    fitted = fit(split.train, spec)
    bundle = make_bundle(settings, spec, split, fitted)
    if known is not None:
        if bundle.digest != known.digest:
            raise BundleError(
                f"the bundle of {spec.name} v{known.version} is lost and training again gave "
                "another one: restore the release store from its backup"
            )
        return _made(known, data, split, bundle, trained_now=True)
    made = _register(settings, spec, data, split, fitted, bundle, key, open_tracking())
    return _made(ledger.remember_trained(made), data, split, bundle, trained_now=True)


@contextmanager
def _one_at_a_time(settings: Settings, model: str) -> Generator[None]:
    """Of two overlapping runs the second waits, and then finds the key known.

    The system releases the lock when its process dies. Across machines `UNIQUE(training_key)`
    in the ledger still leaves one winner, at the price of a second training.
    """
    path = settings.home / "locks" / f"{model}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
            "features_fingerprint": data.features.fingerprint,
            "as_of": data.as_of,
            **code_state().as_tags(),
        },
        params={
            "estimator": spec.training.estimator,
            "seed": spec.training.seed,
            "threads": spec.training.threads,
            "train_from": split.train_from.isoformat(),
            "train_until": split.train_until.isoformat(),
            **{f"parameters.{name}": v for name, v in spec.training.parameters.items()},
        },
        metrics={
            "train_rows": split.train.height,
            "train_cpu_seconds": fitted.seconds,
            **({} if fitted.threshold is None else {"threshold": fitted.threshold}),
        },
        dataset=data.features,
    )


def _made(
    record: TrainedRecord, data: FeatureSet, split: Split, bundle: Bundle, *, trained_now: bool
) -> MadeModel:
    model = ModelVersionRef(
        model=record.model,
        version=record.version,
        digest=record.digest,
        training_key=record.training_key,
        mlflow_run_id=record.mlflow_run_id,
        data=data,
    )
    return MadeModel(model, trained_now, record.seconds, split, bundle.threshold)
