"""The same gates for several classes and for a number: honest models pass, each fault fails one."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.ml.estimator import make_pipeline, model_frame
from mlcicd_assets.ml.explanation import explain
from mlcicd_assets.ml.export import export_model
from mlcicd_assets.ml.groups import _slices
from mlcicd_assets.ml.leakage import _bins, _told
from mlcicd_assets.ml.model_gates import FINDERS, finding_gates
from mlcicd_assets.ml.policy import Gates, SliceGate
from mlcicd_assets.ml.robustness import find_miscalibration
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets.ml.scoring import Scorer, decide
from mlcicd_assets.ml.sections import Training
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.training import training_key
from mlcicd_assets_tests.ml.scoreds import DAY, END, HOLDOUT, START
from mlcicd_assets_tests.ml.specs import small_spec

ROWS, NAN = 3_000, float("nan")
CLASSES = ["low", "mid", "high"]
TARGETS = ["multiclass", "regression"]
# An honest model of each: what it scores is how the labels are drawn.
LINES: dict[str, tuple[Any, Any, str]] = {
    "multiclass": ([-1.0, 0.6, -1.0], [[-1.5, 0, 0, 0], [0.0] * 4, [1.5, 0, 0, 0]], "softmax"),
    "regression": (10.0, [3.0, 0, 0, 0], "identity"),
}
GOLDEN = {
    "multiclass": {"of": "low", "at_least": 0.8},
    "regression": {"at_least": -8, "at_most": 8},
}
X, LABEL, FEED = pl.col("x"), pl.col("label"), pl.col("feed")


def spec_of(target: str, **gates: Any) -> PipelineSpec:
    types = {"id": "integer", "at": "timestamp", "x": "number", "shop": "string"}
    types |= {"feed": "string", "region": "string"}
    on = {
        "golden_set": [{"name": "calm", "row": {"x": -4.0, "shop": "a"}, **GOLDEN[target]}],
        "fairness": {"group": "region", "min_ratio": 0.75},
        "poisoning": {"source": "feed"},
        "stability": {"max_flipped": 0.02},
    }
    policy = Gates.model_validate({"floors": {"rows": 1}, **on, **gates})
    return small_spec(
        {name: {"type": kind} for name, kind in types.items()},
        features={"columns": ["x", "shop"]},
        label={"target": target, "classes": CLASSES if target == "multiclass" else []},
        training={"estimator": "Ridge" if target == "regression" else "LogisticRegression"},
        gates=policy.model_dump(mode="json"),
    )


def scorer(target: str) -> Scorer:
    intercept, coefficient, link = LINES[target]
    meta = {"format": 2, "kind": "linear", "numbers": ["x"], "combine": link}
    arrays = {"fill": np.zeros(1), "mean": np.zeros(1), "scale": np.ones(1)}
    return Scorer(
        {**meta, "categories": [["shop", ["a", "b", "c"]]], "intercept": intercept},
        {**arrays, "coefficient": np.array(coefficient)},
    )


@cache
def part(target: str, first: int, seed: int = 0, rows: int = ROWS) -> pl.DataFrame:
    """Thirty days of training (`first` 0) or holdout rows; labels known at once."""
    rng, start = np.random.default_rng((first, seed)), HOLDOUT if first else START
    at = [start + 30 * DAY * n / rows for n in range(rows)]
    x = rng.normal(0, 1.25, rows)
    frame = pl.DataFrame(
        {
            "id": np.arange(first, first + rows),
            "at": at,
            "x": x,
            "shop": rng.choice(["a", "b", "c"], rows, p=[0.5, 0.4, 0.1]),
            "feed": rng.choice(["f1", "f2", "f3"], rows),
            "region": rng.choice(["east", "west"], rows, p=[0.85, 0.15]),
            "label_known_at": at,
        }
    )
    scores = scorer(target).score({"x": x, "shop": frame["shop"].to_numpy()})
    if target == "regression":
        labels = pl.Series("label", scores + rng.normal(0, 1.9, rows))  # R2 .8
    else:
        drawn = (rng.random((rows, 1)) > scores.cumsum(axis=1)).sum(axis=1).clip(0, 2)
        labels = pl.Series("label", drawn, dtype=pl.Int16)
    return frame.with_columns(labels)


def scored(target: str, *, seed: int = 0, rows: int = ROWS, **changes: Any) -> Scored:
    """The honest model, or one with a part replaced."""
    gates = changes.pop("gates", {})
    spec, model = spec_of(target, **gates), changes.pop("scorer", scorer(target))
    train = changes.pop("train", part(target, 0, seed, rows))
    holdout = changes.pop("holdout", part(target, ROWS, seed, rows))
    inputs = {name: holdout[name].to_numpy() for name in ("x", "shop")}
    scores = changes.pop("change", lambda s, _: s)(model.score(inputs), holdout)
    return Scored(
        spec=spec,
        split=Split(train, holdout, START, HOLDOUT, HOLDOUT, END),
        as_of=END,
        training_key=training_key(train, spec),
        columns=feature_columns(spec),
        scorer=model,
        threshold=None,
        labels=holdout["label"].to_numpy(),
        scores=scores,
        decisions=decide(scores, None),
    )


def trained(target: str, *exprs: pl.Expr, **named: pl.Expr) -> Scored:
    return scored(target, train=part(target, 0).with_columns(*exprs, **named))


def tried(target: str, **named: pl.Expr) -> Scored:
    return scored(target, holdout=part(target, ROWS).with_columns(**named))


def shuffled_in(column: str, value: str) -> Callable[[np.ndarray, pl.DataFrame], np.ndarray]:
    """Scores of these rows are those of other rows among them."""

    def change(scores: np.ndarray, rows: pl.DataFrame) -> np.ndarray:
        inside = np.flatnonzero(rows[column] == value)
        made = scores.copy()
        made[inside] = scores[np.random.default_rng(1).permutation(inside)]
        return made

    return change


def memory(target: str) -> Scored:
    """A tree that learned the holdout by heart."""
    estimator = f"DecisionTree{'Regressor' if target == 'regression' else 'Classifier'}"
    made = scored(target)
    parameters = {"min_samples_leaf": 2 if target == "regression" else 1}
    pipeline = make_pipeline(Training(estimator=estimator, parameters=parameters), made.columns)
    pipeline.fit(model_frame(made.split.holdout, made.columns), made.labels)
    model = export_model(pipeline, made.columns)
    return scored(target, scorer=Scorer(model.meta, model.arrays))


def overconfident(scores: np.ndarray, _: pl.DataFrame) -> np.ndarray:
    return np.eye(3)[scores.argmax(axis=1)] * 0.98 + 0.02 / 3


def sign(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], ROWS)


LATE_F2 = (FEED == "f2") & (pl.col("at") >= START + 22 * DAY)
LATE_F4 = pl.when(LATE_F2).then(pl.lit("f4")).otherwise(FEED).alias("feed")
NOISE = pl.Series(np.random.default_rng(1).normal(size=ROWS))
CODE = pl.Series(["zulu", "alpha", "mike"])
WEST = pl.col("region") == "west"
BAD: dict[str, tuple[str, Callable[[], Scored], str]] = {
    "a code of the class": ("leakage", lambda: trained(
        "multiclass", x=LABEL.cast(pl.Float64)), "x alone has ROC AUC 1.000"),
    "a code, its middle elsewhere": ("leakage", lambda: trained(
        "multiclass", x=(LABEL + 1) % 3 + pl.col("id") % 7 / 100), "x alone has ROC AUC 1.000"),
    "a text of the class": ("leakage", lambda: trained(
        "multiclass", shop=LABEL.replace_strict([0, 1, 2], CODE)), "shop alone has ROC AUC 1.000"),
    "a good guess of the class": ("leakage", lambda: trained(
        "multiclass", x=LABEL + 0.35 * NOISE), "x alone has ROC AUC 0.9"),
    "a noisy copy": ("leakage", lambda: trained(
        "regression", x=LABEL * -2 + pl.Series(sign())), "x alone has R2 0.9"),
    "a copy with a long tail": ("leakage", lambda: trained(
        "regression", x=LABEL, label=(LABEL / 3).exp()), "x alone has R2 0.99"),
    "overconfident": ("calibration", lambda: scored(
        "multiclass", change=overconfident), "no probabilities"),
    "always wrong": ("calibration", lambda: scored("multiclass", change=lambda s, h:
        np.roll(np.eye(3)[h["label"].to_numpy()], 1, axis=1)), "no probabilities"),
    "undefined shares": ("calibration", lambda: scored(
        "multiclass", change=lambda s, _: s * NAN), "no probabilities"),
    "a bias": ("calibration", lambda: scored(
        "regression", change=lambda s, _: s + 0.6), "off on average"),
    "too wide": ("calibration", lambda: scored(
        "regression", change=lambda s, _: 10 + (s - 10) * 1.3), "off on average"),
    "undefined numbers": ("calibration", lambda: scored(
        "regression", change=lambda s, _: s * NAN), "off on average"),
    "classes guessed in a slice": ("slices", lambda: scored(
        "multiclass", change=shuffled_in("shop", "c")), "shop c, class mid: AUC 0.4"),
    "numbers guessed in a slice": ("slices", lambda: scored(
        "regression", change=shuffled_in("shop", "c")), "shop c: AUC 0."),
    "a golden class missed": ("golden_set", lambda: scored("multiclass", gates={
        "golden_set": [{"name": "one", "row": {"x": 4.0}, "of": "high", "at_most": 0.5}]
    }), "one scores 0.9"),
    "a golden number missed": ("golden_set", lambda: scored("regression", gates={
        "golden_set": [{"name": "one", "row": {"x": 4.0}, "at_most": 21.9}]
    }), "one scores 22.0000, must be at most 21.9"),
    "a group served badly by class": ("fairness", lambda: tried("multiclass",
        label=pl.when(WEST).then((pl.col("id") % 3).cast(pl.Int16)).otherwise(LABEL)), "west 0.3"),
    "a group served badly by number": ("fairness", lambda: tried("regression",
        label=pl.when(WEST).then(LABEL + 4 * pl.Series(sign(1))).otherwise(LABEL)), "west 4."),
    "a group of undefined numbers": ("fairness", lambda: scored("regression",
        change=lambda s, h: np.where(h["region"] == "west", NAN, s)), "unequal"),
    "one group only": ("fairness", lambda: tried(
        "multiclass", region=pl.lit("east")), "too few to compare"),
    "labels of a source turned": ("poisoning", lambda: trained("multiclass",
        label=pl.when(LATE_F2).then(2 - LABEL // 2 * 2).otherwise(LABEL)), "f2: rate of class mid"),
    "numbers of a source turned small": ("poisoning", lambda: trained("regression",
        label=pl.when(LATE_F2).then(LABEL / 100).otherwise(LABEL)), "f2: rate of labels above"),
    "numbers of a source turned large": ("poisoning", lambda: trained("regression",
        label=pl.when(LATE_F2).then(LABEL + 99).otherwise(LABEL)), "f2: rate of labels up to"),
    "a new source of one class": ("poisoning", lambda: trained("multiclass",
        LATE_F4, label=pl.when(LATE_F2).then(0).otherwise(LABEL)), "f4: rate of class high 0.0"),
    "all of a class from one source": ("poisoning", lambda: trained("multiclass",
        feed=pl.when(LABEL == 1).then(pl.lit("f1")).otherwise(FEED)), "brings 1.000 of all class"),
    "all high numbers from one source": ("poisoning", lambda: trained("regression",
        feed=pl.when(LABEL > 8).then(pl.lit("f1")).otherwise(FEED)), "f1 brings 1.000 of all"),
    "classes learned by heart": ("stability", lambda: memory(
        "multiclass"), "hang on noise"),
    "numbers learned by heart": ("stability", lambda: memory(
        "regression"), "hang on noise"),
}  # fmt: skip
# Who sees it, too, where the scores are bad in more than one way.
ALSO = {
    "always wrong": {"slices", "fairness"},
    "undefined shares": {"slices", "fairness"},
    "undefined numbers": {"slices", "fairness"},
    "a group of undefined numbers": {"calibration", "slices"},
}
CHANGED = {"calibration", "slices", "fairness"}  # scores only: the model now decides otherwise


def failed(one: Scored) -> dict[str, str]:
    verdicts = finding_gates(one, subject="b" * 64)
    assert {verdict.gate for verdict in verdicts} == {gate.name for gate in FINDERS}
    return {verdict.gate: verdict.detail for verdict in verdicts if not verdict.passed}


@pytest.mark.parametrize("case", BAD)
def test_each_fault_fails_its_gate_and_no_other(case: str) -> None:
    gate, make, words = BAD[case]
    found = failed(make())
    assert words in found.get(gate, f"{gate} passed")
    also = ALSO.get(case, set()) | ({"stability"} if gate in CHANGED else set())
    assert found.keys() - {gate} <= also


@pytest.mark.parametrize(("target", "most"), [("multiclass", 4), ("regression", 4)])
def test_honest_worlds_pass(target: str, most: int) -> None:
    """By promise chance fails one world in twenty at slices, one in a hundred at poisoning."""
    alarms = Counter(gate for seed in range(50) for gate in failed(scored(target, seed=seed)))
    print(f"{target}: false alarms in 50 honest worlds: {dict(alarms)}")  # noqa: T201
    assert alarms.keys() <= {"slices", "poisoning"}
    assert alarms.total() <= most


@pytest.mark.parametrize("target", TARGETS)
def test_a_strong_honest_feature_is_no_leak(target: str) -> None:
    for rows in (300, ROWS):
        train = part(target, 0, 5, rows)
        told = _told(train["x"].to_numpy(), train["label"].to_numpy(), target)
        assert 0.65 < told < 0.85
    unknown = pl.when(X > -0.5).then(X).fill_null(NAN)
    train = part(target, 0).with_columns(x=unknown, shop=pl.col("id").cast(pl.String))
    numbers = {name: train[name].to_numpy() for name in ("x", "shop")}
    labels = train["label"].to_numpy()
    assert 0.4 < _told(numbers["x"], labels, target) < 0.85  # unknown is a value of its own
    assert _told(numbers["shop"].astype(object), labels, target) < 0.55  # an id tells nothing


def test_a_number_may_be_told_better_than_a_class() -> None:
    verdicts = finding_gates(trained("regression", x=LABEL + NOISE), subject="b" * 64)
    told = {verdict.gate: (verdict.passed, str(verdict)) for verdict in verdicts}
    for gate, words in (("leakage", "x 0.9"), ("fairness", "mae ratio")):
        assert told[gate][0]
        assert words in told[gate][1]


def test_a_slice_needs_rows_of_both_answers_and_has_its_own_median() -> None:
    few = pl.when(pl.col("id") < ROWS + 30).then(pl.lit("d")).otherwise("shop").alias("shop")
    label = pl.when(pl.col("id") < ROWS + 25).then(0).otherwise(1).cast(pl.Int16)
    holdout = part("multiclass", ROWS).with_columns(few)
    holdout = holdout.with_columns(
        label=pl.when(pl.col("shop") == "d").then(label).otherwise(LABEL)
    )
    assert [name for name in _names("multiclass", holdout) if "shop d" in name] == []
    holdout = part("regression", ROWS).with_columns(few)
    high = pl.when(pl.col("shop") == "c").then(LABEL + 99).otherwise(LABEL)
    truth, _ = _names("regression", holdout.with_columns(label=high))["shop c"]
    assert truth.mean() == pytest.approx(0.5, abs=0.01)


def _names(target: str, holdout: pl.DataFrame) -> dict[str, Any]:
    return dict(_slices(scored(target, holdout=holdout), SliceGate()))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [300, ROWS])
def test_a_leak_is_seen_in_few_rows_and_in_many(target: str, rows: int) -> None:
    train = part(target, 0, 5, rows)
    labels = train["label"].to_numpy()
    noisy = labels + np.random.default_rng(1).normal(0, 0.1, rows)
    assert _told(noisy, labels, target) > (0.95 if target == "regression" else 0.99)
    assert _told(np.zeros(rows), labels, target) <= 0.5
    assert _bins(np.array([1, NAN, 3, 2])).tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_champion_that_saw_every_row_leaves_nothing_to_explain(target: str) -> None:
    one = scored(target)
    old = scored(target)
    until = Split(old.split.train, old.split.holdout, START, END, HOLDOUT, END)
    made = explain(one, Scored(**{**vars(old), "split": until}))
    x, shop = (made.importance[name] for name in ("x", "shop"))
    assert x[0] > 0.1 > abs(shop[0])
    assert np.isnan([x[1], shop[1]]).all()
    assert made.champion_metrics["rows"] == 0


def test_a_row_far_outside_still_has_shares() -> None:
    far = {"x": np.array([2_000.0, -2_000.0]), "shop": np.array(["a", "a"], dtype=object)}
    assert scorer("multiclass").score(far).tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [60, 200])
def test_few_rows_alone_are_no_miscalibration(target: str, rows: int) -> None:
    def found(change: Any) -> int:
        worlds = (scored(target, seed=n, rows=rows, change=change) for n in range(60))
        policy = Gates(floors={"rows": 1}).calibration
        return sum(bool(find_miscalibration(one, policy).faults) for one in worlds)

    assert found(lambda scores, _: scores) <= 6
    wrong = {
        "regression": lambda scores, _: scores + 4,
        "multiclass": lambda scores, _: (scores**6) / (scores**6).sum(axis=1, keepdims=True),
    }
    assert found(wrong[target]) >= (40 if rows == 200 else 10)
