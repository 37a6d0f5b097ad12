"""The training key, and the fit's independence of the environment."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcicd_assets.ml.errors import NotEnoughData
from mlcicd_assets.ml.training import best_f1_threshold, fit, training_key
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.small_model import small_spec

SPEC = small_spec(
    features={"columns": ["amount", "channel"]},
    training__parameters={"max_iter": 5, "min_samples_leaf": 5},
)


def frame(rows: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    amount = rng.random(rows) * 100
    return pl.DataFrame(
        {
            "transaction_id": np.arange(rows),
            "tx_time": [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(rows)],
            "amount": amount,
            "channel": rng.choice(["chip", "online"], rows),
            "label": (amount + rng.normal(0, 20, rows) > 70).astype(int),
        }
    )


def test_the_key_is_of_the_content_not_of_its_order() -> None:
    assert training_key(frame(), SPEC) == training_key(frame().reverse(), SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {"training__seed": 8},
        {"training__threads": 2},
        {"training__parameters": {"max_iter": 6}},
        {"training__threshold_slice": 0.3},
        {"split__holdout_days": 11},
        {"label__matures_after_days": 6},
        {"gates__costs": {"false_positive": 1, "false_negative": 9}},
        {"gates__costs": {"false_positive": 1, "false_negative": "amount"}},
        {"contract__columns__amount": {"type": "number", "min": 0, "max": 9}},
    ],
)
def test_whatever_decides_the_training_changes_the_key(changes: dict) -> None:
    base = {
        "features": {"columns": ["amount", "channel"]},
        "training__parameters": {"max_iter": 5, "min_samples_leaf": 5},
    }
    assert training_key(frame(), small_spec(**{**base, **changes})) != training_key(frame(), SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {"gates__floors": {"roc_auc": 0.1}},
        {"gates__slices": {"columns": ["terminal_id"]}},
        {"schedule": None},
        {"description": "x"},
    ],
)
def test_what_does_not_decide_it_leaves_the_key_alone(changes: dict) -> None:
    other = small_spec(
        features={"columns": ["amount", "channel"]},
        training__parameters={"max_iter": 5, "min_samples_leaf": 5},
        **changes,
    )
    assert training_key(frame(), other) == training_key(frame(), SPEC)


def test_a_column_that_only_gates_read_leaves_the_key_alone() -> None:
    assert training_key(frame().with_columns(terminal_id=pl.lit(3)), SPEC) == training_key(
        frame(), SPEC
    )


def test_a_cost_column_decides_the_threshold_and_so_the_key() -> None:
    changed = small_spec(
        features={"columns": ["amount", "channel"]},
        training__parameters={"max_iter": 5, "min_samples_leaf": 5},
        gates__costs={"false_positive": 1, "false_negative": "card_limit"},
    )
    keys = {training_key(frame().with_columns(card_limit=pl.lit(c)), changed) for c in (1.0, 2.0)}
    assert len(keys) == 2


def test_one_changed_value_changes_the_key() -> None:
    changed = frame().with_columns(
        pl.when(pl.col("transaction_id") == 7).then(1.0).otherwise("amount").alias("amount")
    )
    assert training_key(changed, SPEC) != training_key(frame(), SPEC)


def test_a_fit_is_repeatable_whatever_the_environment_says_of_threads() -> None:
    code = (
        "from mlcicd_assets.ml.estimator import model_frame\n"
        "from mlcicd_assets.ml.schema import feature_columns\n"
        "from mlcicd_assets_tests.ml.test_training import *\n"
        "scores = fit(frame(), SPEC).pipeline.predict_proba("
        "model_frame(frame(), feature_columns(SPEC)))[:, 1]\n"
        "print(training_key(frame(), SPEC), scores.tobytes().hex())"
    )

    def run(threads: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": threads, "PATH": ""},
        )
        return done.stdout

    assert run("1") == run("2")


def test_dear_misses_lower_the_threshold_that_a_fit_chooses() -> None:
    thresholds = [
        fit(
            frame(),
            small_spec(
                features={"columns": ["amount", "channel"]},
                training__parameters={"max_iter": 20, "min_samples_leaf": 5},
                gates__costs={"false_positive": 1, "false_negative": dear},
            ),
        ).threshold
        for dear in (0.01, 1, 100)
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert len(set(thresholds)) == 3


def test_a_threshold_slice_of_one_class_is_a_clear_error() -> None:
    rows = frame().with_columns(
        pl.when(pl.col("transaction_id") > 200).then(0).otherwise("label").alias("label")
    )
    with pytest.raises(NotEnoughData, match="threshold slice"):
        fit(rows, SPEC)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=40))
def test_the_threshold_has_the_best_f1_of_all_cuts(pairs: list[tuple[bool, int]]) -> None:
    labels = np.array([label for label, _ in pairs], dtype=int)
    scores = np.array([score / 10 + 0.01 for _, score in pairs])
    if not labels.any():
        return

    def f1(threshold: float) -> float:
        alarm = scores >= threshold
        return 2 * (alarm & (labels == 1)).sum() / (alarm.sum() + labels.sum())

    chosen = best_f1_threshold(labels, scores)
    assert f1(chosen) == pytest.approx(max(f1(cut) for cut in scores))
    assert not np.any(np.isclose(scores, chosen, rtol=0, atol=1e-9))
