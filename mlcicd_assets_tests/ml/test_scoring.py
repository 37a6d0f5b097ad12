"""The scorer by itself: what it refuses to be built from, and how it treats odd rows."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.ml.errors import BundleError, SchemaMismatch
from mlcicd_assets.ml.scoring import CHUNK_ROWS, Scorer
from mlcicd_assets_tests.io.tiny import ROWS, linear

Arrays = dict[str, np.ndarray]


def stump(**changes: Any) -> tuple[dict[str, Any], Arrays]:
    """Two trees over x: a split at 1.5 (missing to the right), and a single leaf."""
    meta = {
        "format": 1,
        "kind": "trees",
        "numbers": ["x"],
        "categories": {},
        "compare": "float64",
        "combine": "mean",
        "baseline": 0.0,
    }
    arrays = {
        "roots": np.array([0, 3], dtype="<i4"),
        "feature": np.zeros(4, dtype="<i4"),
        "threshold": np.array([1.5, np.inf, np.inf, np.inf]),
        "left": np.array([1, 1, 2, 3], dtype="<i4"),
        "right": np.array([2, 1, 2, 3], dtype="<i4"),
        "missing_left": np.array([False, True, True, True]),
        "value": np.array([0.0, 0.25, 0.75, 0.5]),
    }
    return {**meta, **changes}, arrays


def test_walks_each_tree_and_averages() -> None:
    scores = Scorer(*stump()).score({"x": np.array([1.5, 1.5000001, np.nan, -np.inf, np.inf])})
    assert scores.tolist() == [0.375, 0.625, 0.625, 0.375, 0.625]


def test_adds_baseline_and_logistic() -> None:
    scores = Scorer(*stump(combine="logistic", baseline=-0.75)).score({"x": np.array([0.0])})
    assert scores.tolist() == [0.5]


def test_extreme_raw_scores_neither_overflow_nor_warn() -> None:
    meta, arrays = stump(combine="logistic")
    arrays["value"] = np.array([0.0, -2000.0, 2000.0, 0.0])
    assert Scorer(meta, arrays).score({"x": np.array([0.0, 9.0])}).tolist() == [0.0, 1.0]


def test_a_number_beyond_float32_counts_as_infinite() -> None:
    scores = Scorer(*stump(compare="float32")).score({"x": np.array([1e300, -1e300])})
    assert scores.tolist() == [0.625, 0.375]


def test_float32_comparison_rounds_the_row_not_the_threshold() -> None:
    meta, arrays = stump(compare="float32")
    arrays["threshold"][0] = 0.1  # float32(0.1) is larger than 0.1
    assert Scorer(meta, arrays).score({"x": np.array([0.1])}).tolist() == [0.625]


@pytest.mark.parametrize("rows", [0, 1, CHUNK_ROWS, CHUNK_ROWS + 1])
def test_a_score_does_not_depend_on_its_batch(rows: int) -> None:
    rng = np.random.default_rng(rows)
    columns = {
        "amount": rng.uniform(0, 1000, rows),
        "channel": rng.choice(np.array(["chip", "online", "?"], dtype=object), rows),
        "rate": np.where(rng.random(rows) < 0.3, np.nan, rng.random(rows)),
    }
    model = linear()
    scorer = Scorer(model.meta, model.arrays)
    together = scorer.score(columns)
    for row in range(0, rows, 97):
        single = scorer.score({name: values[row : row + 1] for name, values in columns.items()})
        assert single[0] == together[row]
    assert together.shape == (rows,)


def test_unknown_category_and_null_number_have_defined_scores() -> None:
    model = linear()
    columns = {
        "amount": np.array([100.0]),
        "channel": np.array(["never seen"], dtype=object),
        "rate": np.array([np.nan]),
    }
    assert Scorer(model.meta, model.arrays).score(columns).tolist() == [0.5]


def test_missing_or_uneven_columns_are_named() -> None:
    scorer = Scorer(linear().meta, linear().arrays)
    with pytest.raises(SchemaMismatch, match="channel, rate"):
        scorer.score({"amount": np.array([1.0])})
    with pytest.raises(SchemaMismatch, match="one length"):
        scorer.score({**ROWS, "rate": np.array([0.5])})


BREAKS: dict[str, Callable[[dict[str, Any], Arrays], Any]] = {
    "format": lambda m, a: m.update(format=2),
    "kind": lambda m, a: m.update(kind="pickle"),
    "compare": lambda m, a: m.update(compare="float16"),
    "combine": lambda m, a: m.update(combine="max"),
    "no input columns": lambda m, a: m.update(numbers=[]),
    "list of names": lambda m, a: m.update(numbers="x"),
    "'categories'": lambda m, a: m.update(categories=[]),
    "list of texts": lambda m, a: m.update(categories={"k": [1]}),
    "finite number": lambda m, a: m.update(baseline=10**400),
    "exactly": lambda m, a: a.pop("value"),
    "must be exactly": lambda m, a: a.update(more=a["value"]),
    "one row of <i4": lambda m, a: a.update(left=a["left"].astype("<i8")),
    "one row of <f8": lambda m, a: a.update(value=a["value"].reshape(2, 2)),
    "'left' points outside": lambda m, a: a["left"].__setitem__(0, 4),
    "'right' points outside": lambda m, a: a["right"].__setitem__(0, -1),
    "'feature' points outside": lambda m, a: a["feature"].__setitem__(0, 1),
    "'roots' points outside": lambda m, a: a["roots"].__setitem__(1, 9),
    "differ in length": lambda m, a: a.update(value=a["value"][:3]),
    "no tree": lambda m, a: a.update(roots=a["roots"][:0]),
    "threshold or value": lambda m, a: a["threshold"].__setitem__(0, np.nan),
    "threshold or value is": lambda m, a: a["value"].__setitem__(2, np.inf),
    "turns back": lambda m, a: a.update(
        left=np.array([1, 1, 0, 3], dtype="<i4"), right=np.array([2, 1, 3, 3], dtype="<i4")
    ),
    "turns back on": lambda m, a: a["right"].__setitem__(0, 1),
}


@pytest.mark.parametrize("message", BREAKS)
def test_inconsistent_trees_are_refused(message: str) -> None:
    meta, arrays = copy.deepcopy(stump())
    BREAKS[message](meta, arrays)
    with pytest.raises(BundleError, match=message):
        Scorer(meta, arrays)


@pytest.mark.parametrize(
    ("name", "values"),
    [("fill", [1.0]), ("scale", [1.0, 0.0]), ("mean", [0.0, np.nan]), ("coefficient", [1.0])],
)
def test_inconsistent_linear_models_are_refused(name: str, values: list[float]) -> None:
    model = linear()
    with pytest.raises(BundleError):
        Scorer(model.meta, {**model.arrays, name: np.array(values)})


def test_serving_imports_no_heavy_library() -> None:
    code = (
        "import sys, mlcicd_assets.serving.server, mlcicd_assets.io.bundle, "
        "mlcicd_assets.io.releases, mlcicd_assets.io.endpoint, mlcicd_assets.ml.scoring\n"
        "heavy = {'pandas', 'polars', 'sklearn', 'scipy', 'sqlalchemy', 'dagster', 'mlflow', "
        "'deltalake', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
