"""The gates that look for faults in a scored holdout: honest models pass, planted ones fail."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mlcicd_assets.ml.groups import auc_error
from mlcicd_assets.ml.model_gates import (
    FINDERS,
    METRIC_FLOORS,
    MODEL_GATES,
    finding_gate,
    finding_gates,
)
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.scored import Finding, Scored
from mlcicd_assets.ml.values import Verdict
from mlcicd_assets_tests.ml.scoreds import DAY, END, HOLDOUT, ROWS, START, part, scored, spec_of

NAN = float("nan")
MODEL, POLICY = "b" * 64, Gates(floors={"roc_auc": 0.8})
# Gates that are judged from the scored holdout: each optional one asked for.
ALL_ON = {
    "golden_set": [
        {"name": "calm", "row": {"x": -3.0, "shop": "a"}, "at_most": 0.01},
        {"name": "null_counts_as_none", "row": {"shop": "b"}, "at_least": 0.04, "at_most": 0.05},
    ],
    "fairness": {"group": "shop", "min_ratio": 0.5},
    "poisoning": {"source": "feed"},
    "stability": {"max_flipped": 0.2},
    "slices": {"columns": ["shop", "feed"]},
}
GOOD = spec_of(**ALL_ON)
FIRST = pl.col("id") % ROWS == 0


def judged(one: Scored) -> dict[str, Verdict]:
    verdicts = {verdict.gate: verdict for verdict in finding_gates(one, subject=MODEL)}
    assert {verdict.subject for verdict in verdicts.values()} == {MODEL}
    return verdicts


def asked(section: str, **changed: Any) -> Scored:
    """The honest model, under another setting of a gate."""
    return scored(spec_of(**{**ALL_ON, section: changed}))


def rows(which: str, *exprs: pl.Expr, **named: pl.Expr) -> Scored:
    """The honest model with some values of training or holdout changed."""
    frames = {"train": part(0, START), "holdout": part(ROWS, HOLDOUT)}
    frames[which] = frames[which].with_columns(*exprs, **named)
    return scored(GOOD, **frames)


def scores_as(change: Callable[[np.ndarray, pl.DataFrame], np.ndarray]) -> Scored:
    holdout, honest = part(ROWS, HOLDOUT), scored(GOOD)
    return scored(GOOD, scores=change(honest.scores, holdout))


def flipped_feed(feed: str, keep: pl.Expr) -> pl.Expr:
    bad = (pl.col("feed") == feed) & (pl.col("at") >= START + 20 * DAY) & ~keep
    return pl.when(bad).then(1 - pl.col("label")).otherwise("label").alias("label")


def new_feed() -> pl.Expr:
    late = (pl.col("at") >= START + 25 * DAY) & (pl.col("label") == 1)
    return pl.when(late).then(pl.lit("new")).otherwise("feed").alias("feed")


def known(which: pl.Expr, moment: Any) -> pl.Expr:
    changed = pl.when(which).then(moment)
    return changed.otherwise("label_known_at").alias("label_known_at")


HOT = (
    pl.when(pl.col("id") % 20 == 0).then(pl.lit("hot")).otherwise("feed").alias("feed"),
    pl.when(pl.col("id") % 20 == 0).then(pl.col("id") % 40 == 0).otherwise("label").alias("label"),
)
LATE_F2 = (pl.col("feed") == "f2") & (pl.col("at") >= START + 20 * DAY) & (pl.col("id") % 9 == 0)
DOUBLED = pl.when(LATE_F2).then(1).otherwise("label").alias("label")
NOISE = np.random.default_rng(0).random(ROWS)
LEAK = (pl.col("label") * 2.0 + pl.col("id") % 3 / 2).alias("x")
BAD: dict[str, tuple[str, Scored, str]] = {
    "a number that knows the label": ("leakage", rows("train", LEAK), "x alone has ROC AUC"),
    "its negative": ("leakage", rows("train", LEAK * -1), "x alone has ROC AUC 1.000"),
    "null says it": (
        "leakage",
        rows("train", x=pl.when(pl.col("label") == 0).then("x")),
        "x alone has ROC AUC 1.000",
    ),
    "a category that knows the label": (
        "leakage",
        rows("train", shop=pl.when(pl.col("label") == 1).then(pl.lit("c")).otherwise("shop")),
        "shop alone has ROC AUC 1.000",
    ),
    "one class": (
        "leakage",
        scored(train=part(0, START).with_columns(label=pl.lit(0, pl.Int8))),
        "ROC AUC nan",
    ),
    "a row in both": ("leakage", rows("holdout", id=pl.col("id") - ROWS + 2999), "1 holdout rows"),
    "an entity in both": ("leakage", asked("leakage", disjoint="feed"), "share feed"),
    "another training": ("leakage", scored(GOOD, training_key="0" * 64), "not trained on these"),
    "a future label in training": (
        "label_maturity",
        rows("train", known(FIRST, HOLDOUT + timedelta(microseconds=1))),
        "1 training labels were unknown at 2026-02-02",
    ),
    "a label that never came in training": (
        "label_maturity",
        rows("train", known(FIRST, None)),
        "1 training labels were unknown",
    ),
    "a training row after the gap began": (
        "label_maturity",
        rows("train", at=pl.when(FIRST).then(HOLDOUT - DAY).otherwise("at")),
        "1 training rows are younger than 2026-01-31",
    ),
    "the holdout began earlier": (
        "label_maturity",
        rows("holdout", at=pl.when(FIRST).then(START).otherwise("at")),
        "training rows are younger",
    ),
    "a future label in the holdout": (
        "label_maturity",
        rows("holdout", known(FIRST, END + 3 * DAY)),
        "1 holdout labels were unknown",
    ),
    "a young row in the holdout": (
        "label_maturity",
        scored(GOOD, as_of=END + DAY),
        "holdout rows are younger",
    ),
    "a label before its event": (
        "label_maturity",
        rows("holdout", known(FIRST, START)),
        "1 holdout labels were known before their event",
    ),
    "scores ten times too high": (
        "calibration",
        scores_as(lambda scores, _: scores**0.2),
        "no probabilities",
    ),
    "a few certain, and wrong": (
        "calibration",
        scores_as(lambda scores, _: (NOISE < scores.mean()).astype(float)),
        "no probabilities",
    ),
    "too high only on the whole": (
        "calibration",
        scored(spec_of(calibration={"max_error": 0.9}), scores=scored().scores ** 0.2),
        "no probabilities",
    ),
    "scores five times too low": (
        "calibration",
        scores_as(lambda scores, _: scores / 5),
        "no probabilities",
    ),
    "undefined scores": ("calibration", scores_as(lambda scores, _: scores * NAN), "no prob"),
    "a slice ranked by chance": (
        "slices",
        scores_as(lambda s, rows: np.where(rows["shop"] == "b", 1 - NOISE / 9, s)),
        "shop b: AUC 0.4",
    ),
    "a slice ranked backwards": (
        "slices",
        scores_as(lambda s, rows: np.where(rows["feed"] == "f1", -s, s)),
        "feed f1: AUC 0.2",
    ),
    "undefined slices": ("slices", scores_as(lambda scores, _: scores * NAN), "AUC nan"),
    "a golden case too high": (
        "golden_set",
        scored(spec_of(golden_set=[{"name": "one", "row": {"x": 3.0}, "at_most": 0.49}])),
        "one scores 0.5000, must be at most 0.49",
    ),
    "a golden case too low": (
        "golden_set",
        scored(spec_of(golden_set=[{"name": "one", "row": {"x": 3.0}, "at_least": 0.51}])),
        "one scores 0.5000, must be at least 0.51",
    ),
    "no recall in a group": (
        "fairness",
        scores_as(lambda s, rows: np.where(rows["shop"] == "b", s / 99, s)),
        "unequal",
    ),
    "one group": ("fairness", rows("holdout", shop=pl.lit("a")), "too few to compare"),
    "groups too small": (
        "fairness",
        asked("fairness", group="shop", min_positives=9_999),
        "too few to compare",
    ),
    "no alert in any group": ("fairness", scores_as(lambda s, _: s / 99), "too few to compare"),
    "labels of a source flipped": (
        "poisoning",
        rows("train", flipped_feed("f2", pl.lit(False))),
        "feed f2: rate of positives 0.9",
    ),
    "positives of a source gone": (
        "poisoning",
        rows("train", flipped_feed("f2", pl.col("label") == 0)),
        "feed f2: rate of positives 0.0000",
    ),
    "a new source of positives": (
        "poisoning",
        rows("train", new_feed()),
        "feed new: rate of positives 1",
    ),
    "all positives from one source": (
        "poisoning",
        rows("train", feed=pl.when(pl.col("label") == 1).then(pl.lit("f1")).otherwise("feed")),
        "feed f1 brings 1.000 of all positives",
    ),
    "decisions that hang on noise": (
        "stability",
        asked("stability", noise=1, max_flipped=0.2),
        "hang on noise",
    ),
    "no alert to judge by": (
        "stability",
        scored(GOOD, decisions=np.zeros(ROWS, dtype=bool)),
        "no alert",
    ),
}


@pytest.mark.parametrize("absent", ["unknown", "negative"])
def test_an_honest_model_passes_every_gate(absent: str) -> None:
    verdicts = judged(scored(spec_of(absent, **ALL_ON)))
    assert [str(verdict) for verdict in verdicts.values() if not verdict.passed] == []
    assert set(verdicts) == {gate.name for gate in FINDERS}
    assert "highest alone: x 0.81" in verdicts["leakage"].detail
    assert "metrics are final" in verdicts["label_maturity"].detail
    assert "shop a: AUC 0.777" in verdicts["slices"].detail
    assert "5 slices" in verdicts["slices"].observed


@pytest.mark.parametrize("case", BAD)
def test_each_bad_model_fails_its_gate(case: str) -> None:
    gate, bad, words = BAD[case]
    verdict = judged(bad)[gate]
    assert verdict.passed is False
    assert words in verdict.detail


@pytest.mark.parametrize(
    ("gate", "bad"),
    [
        (
            "leakage",
            scored(
                spec_of(leakage={"may_exceed": ["x"]}), train=BAD["null says it"][1].split.train
            ),
        ),
        (
            "label_maturity",
            scored(
                spec_of("negative"),
                train=part(0, START).with_columns(known(FIRST & (pl.col("label") == 0), None)),
            ),
        ),
        ("poisoning", rows("train", DOUBLED)),  # surely more, by less than the factor
        ("poisoning", rows("train", *HOT)),  # a source unlike the others, always
        (
            "slices",  # ranked backwards, and too few to know
            scored(spec_of(slices={"min_positives": 9_999}), scores=1 - scored().scores),
        ),
        ("fairness", asked("fairness", group="shop", metric="alert_rate", min_ratio=0.5)),
    ],
)
def test_what_the_policy_allows_passes(gate: str, bad: Scored) -> None:
    assert judged(bad)[gate].passed is True


def test_a_category_of_one_row_each_is_no_leak() -> None:
    verdict = judged(rows("train", shop=pl.col("id").cast(pl.String)))["leakage"]
    assert verdict.passed is True
    assert "shop 0.500" in verdict.detail


def test_an_assumed_negative_may_be_unknown_but_a_positive_never() -> None:
    spec = spec_of("negative")
    train = part(0, START).with_columns(known(pl.col("label") == 1, None))
    assert judged(scored(spec, train=train))["label_maturity"].passed is False


def test_poisoning_seldom_alarms_on_honest_sources() -> None:
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(40):
        feed = pl.Series(rng.choice(list("abcdefgh"), ROWS))
        train = part(0, START).with_columns(feed=feed, label=pl.Series(rng.random(ROWS) < 0.01))
        one = scored(GOOD, train=train.with_columns(pl.col("label").cast(pl.Int8)))
        alarms += not judged(one)["poisoning"].passed
    assert alarms == 0


def test_no_rows_never_pass() -> None:
    verdict = finding_gate(METRIC_FLOORS, Finding("-", "-", 0, ()), MODEL, POLICY)
    assert verdict.passed is False


def test_a_gate_is_on_exactly_where_the_policy_has_its_section() -> None:
    nothing = Gates(floors={"roc_auc": 0.5}, calibration=None, slices=None, serving=None)
    on = {gate.name for gate in MODEL_GATES if gate.is_on(nothing)}
    always = {"metric_floors", "not_worse_than_champion", "scorer_parity"}
    assert on == always | {"leakage", "label_maturity"}
    by_default = {gate.name for gate in MODEL_GATES if gate.is_on(POLICY)}
    assert by_default == on | {"calibration", "slices", "serving_trial"}
    assert all(gate.is_on(GOOD.gates) for gate in MODEL_GATES)
    assert all(gate.promise.endswith(".") and gate.remedy for gate in MODEL_GATES)


def test_the_error_of_an_auc_is_that_of_hanley_and_mcneil() -> None:
    # Their example: AUC .893 of 58 normal and 51 abnormal cases has a standard error of .0325.
    assert auc_error(0.893, positives=51, negatives=58) == pytest.approx(0.0325, abs=1e-3)
    assert auc_error(1.0, positives=5, negatives=5) == 0


def test_of_many_slices_none_looks_weak_by_chance() -> None:
    rng, alarms = np.random.default_rng(1), 0
    spec = spec_of(slices={"columns": ["branch"], "min_roc_auc": 0.5, "min_positives": 5})
    for _ in range(20):
        holdout = scored().split.holdout
        branch = pl.Series(rng.integers(0, 30, holdout.height))
        guess = rng.random(holdout.height)
        one = scored(spec, holdout=holdout.with_columns(branch=branch), scores=guess)
        alarms += not judged(one)["slices"].passed
    assert alarms <= 3


def test_an_auc_by_ranks_is_that_of_scikit_learn() -> None:
    one = scored()
    auc = float(roc_auc_score(one.labels, np.round(one.scores, 2)))
    found = judged(
        scored(
            spec_of(slices={"columns": ["constant"]}),
            holdout=one.split.holdout.with_columns(constant=pl.lit("a")),
            scores=np.round(one.scores, 2),
        )
    )
    assert f"AUC {auc:.3f}" in found["slices"].detail
