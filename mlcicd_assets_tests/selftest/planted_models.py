"""Planted bad models: trained wrongly, judged wrongly, or unfit to serve."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.io import serving_trial
from mlcicd_assets.io.feature_run import load_features
from mlcicd_assets.ml import export, splitting, training
from mlcicd_assets.ml.features import LABEL
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.scoring import ExportedModel
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.target import compare_paired
from mlcicd_assets_tests.selftest.bench import DECISION, Bench, Case
from mlcicd_assets_tests.selftest.planted_data import OTHER_FEATURES, told
from mlcicd_assets_tests.selftest.world import COLUMNS

Plant = Callable[[Bench, pytest.MonkeyPatch], object]
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def swapped(honest: Any, other: Callable[..., Any]) -> Plant:
    """Put `other` in the place of a function wherever it was imported; it gets the honest one."""

    def plant(_: Bench, patch: pytest.MonkeyPatch) -> None:
        word = honest.__name__
        for name, module in list(sys.modules.items()):
            if name.startswith("mlcicd_assets.") and vars(module).get(word) is honest:
                patch.setattr(module, word, lambda *a, **k: other(honest, *a, **k))

    return plant


def trained_on(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Plant:
    return swapped(training.fit, lambda fit, train, spec: fit(change(train), spec))


def split_as(change: Callable[[Split], Split]) -> Plant:
    return swapped(splitting.split_frame, lambda honest, *a: change(honest(*a)))


def exported_as(change: Callable[[ExportedModel], ExportedModel]) -> Plant:
    return swapped(export.export_model, lambda honest, *a: change(honest(*a)))


def shuffled(train: pl.DataFrame) -> pl.DataFrame:
    return train.with_columns(pl.col(LABEL).shuffle(seed=1))


def blind_in_the_west(honest: Callable[..., pl.DataFrame], *words: Any) -> pl.DataFrame:
    """One region sends the same details with every payment."""
    frame, spec = honest(*words), words[-1]
    details = {column.name: 0.0 for column in feature_columns(spec) if column.kind == "number"}
    is_west = pl.col("region") == "west"
    return frame.with_columns(
        pl.when(is_west).then(pl.lit(value)).otherwise(name).alias(name)
        for name, value in {**details, "channel": "chip"}.items()
    )


def overlooked(rows: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Of the frauds in some rows, nine in ten were never reported."""
    lost = rows & (pl.col("transaction_id") % 10 != 0)
    return lambda train: train.with_columns(pl.when(lost).then(0).otherwise(LABEL).alias(LABEL))


def mixed(split: Split) -> Split:
    """A random split, as in most templates."""
    rows = pl.concat([split.train, split.holdout]).sample(fraction=1, shuffle=True, seed=1)
    return replace(split, train=rows[: split.train.height], holdout=rows[split.train.height :])


def holdout_in_training(split: Split) -> Split:
    return replace(split, train=pl.concat([split.train, split.holdout.sample(500, seed=1)]))


def padded(model: ExportedModel, nodes: int = 1_500_000) -> ExportedModel:
    """Leaves that no walk ever reaches."""
    count = len(model.arrays["left"])
    arrays = {
        name: np.append(values, np.zeros(nodes, dtype=values.dtype)) if name != "roots" else values
        for name, values in model.arrays.items()
    }
    for name in ("left", "right"):
        arrays[name][count:] = np.arange(count, count + nodes)
    return replace(model, arrays=arrays)


def served_with(code: str) -> Plant:
    """The server process of the trial runs this first; a forest that slow would train for hours."""

    def plant(_: Bench, patch: pytest.MonkeyPatch) -> None:
        start = "from mlcicd_assets.serving.server import run"
        assert start in serving_trial.SERVER
        broken = serving_trial.SERVER.replace(start, f"{code}\n{start}")
        patch.setattr(serving_trial, "SERVER", broken)

    return plant


def with_itself(
    honest: Callable[..., Any], target: Any, y: Any, ours: Any, _: Any, **how: Any
) -> Any:
    return honest(target, y, ours, ours, **how)


def without_float32(model: ExportedModel) -> ExportedModel:
    return replace(model, meta={**model.meta, "compare": "float64"})


def learn_from_late_labels(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    """Some chargebacks came after the holdout had begun; training uses them all the same."""
    told(pl.col("transaction_id") % 50 == 0, after_days=20)(bench, patch)
    all_labels = swapped(splitting._labelled, lambda honest, part, _, spec: honest(part, FAR, spec))
    all_labels(bench, patch)


def other_seed(**changes: Any) -> dict[str, Any]:
    """A changed training needs a training key of its own."""
    return {"training__seed": 1, **changes}


SLEEPY = """
import time
from mlcicd_assets.ml.scoring import Scorer
honest = Scorer.score
def score(self, columns):
    time.sleep(0.5 if len(columns["amount"]) == 1 and columns["amount"][0] > 60 else 0)
    return honest(self, columns)
Scorer.score = score
"""
FAILING = """
from mlcicd_assets.ml.scoring import Scorer
honest = Scorer.score
def score(self, columns):
    if len(columns["amount"]) == 1 and columns["amount"][0] > 100:
        raise ZeroDivisionError
    return honest(self, columns)
Scorer.score = score
"""
FOREST = {
    "training__estimator": "RandomForestClassifier",
    "training__parameters": {"n_estimators": 40, "min_samples_leaf": 10},
}
SEGMENT_B = pl.col("segment") == "b"
LINEAR = {
    "training__estimator": "LogisticRegression",
    "training__parameters": {"max_iter": 1_000},
}
BY_ROC_AUC = {**LINEAR, "gates__champion__metric": "roc_auc"}
WILD = {"min_samples_leaf": 1, "max_leaf_nodes": 300, "learning_rate": 0.3, "max_iter": 30}
MEMORY = {"training__parameters": WILD, "gates__floors": {"roc_auc": 0.95}}
IMPOSSIBLE = {"name": "one_euro", "row": {"amount": 1.0}, "at_least": 0.99}
BALANCED = {"training__parameters": {"max_iter": 60, "class_weight": "balanced"}}
LOW = {"gates__floors": {"roc_auc": 0.5}, "gates__calibration": None, "gates__slices": None}

MODELS = (
    Case("shuffled_labels", "metric_floors", other_seed(), trained_on(shuffled)),
    Case("constant_score", "metric_floors", {"training__parameters": {"min_samples_leaf": 10**6}}),
    Case("memorised", "metric_floors", MEMORY),
    Case("below_its_floor", "metric_floors", {"gates__floors": {"roc_auc": 0.999}}),
    Case(
        "costs_more_than_no_model",
        "metric_floors",
        other_seed(gates__costs={"false_positive": 50, "false_negative": "amount"}),
        swapped(training.fit, lambda fit, *a: replace(fit(*a), threshold=0.001)),
    ),
    Case(
        "worse_than_the_champion",
        "not_worse_than_champion",
        {"features__columns": ["channel"], "features__windows": [], **LOW},
    ),
    Case("compared_with_itself", DECISION, plant=swapped(compare_paired, with_itself)),
    Case("leaked_feature", "leakage", {"features__columns": [*COLUMNS, "risk_code"]}),
    Case("random_split", "label_maturity", other_seed(), split_as(mixed)),
    Case("holdout_rows_in_training", "leakage", other_seed(), split_as(holdout_in_training)),
    Case(
        "judged_on_training_rows",
        "leakage",
        plant=split_as(lambda split: replace(split, holdout=split.train.tail(5_000))),
    ),
    Case("labels_of_the_future", "label_maturity", plant=learn_from_late_labels),
    Case("badly_calibrated", "calibration", BALANCED),
    Case("one_bad_slice", "slices", OTHER_FEATURES, swapped(load_features, blind_in_the_west)),
    Case("unfair_to_a_group", "fairness", BY_ROC_AUC, trained_on(overlooked(SEGMENT_B))),
    Case("noisy_model", "stability", {"features__columns": [*COLUMNS, "meter"]}),
    Case("golden_case_missed", "golden_set", {"gates__golden_set": [IMPOSSIBLE]}),
    Case("slow_model", "serving_trial", plant=served_with(SLEEPY)),
    Case("server_error", "serving_trial", plant=served_with(FAILING)),
    Case("needs_scikit_learn_to_serve", "serving_trial", plant=served_with("import sklearn")),
    Case("too_much_memory", "serving_trial", FOREST, exported_as(padded)),
    Case("exporter_forgets_float32", "scorer_parity", FOREST, exported_as(without_float32)),
)
