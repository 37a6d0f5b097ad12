"""The scorer by itself: odd rows, batches, and trees that lead nowhere."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.ml.errors import BundleError
from mlcicd_assets.ml.scoring import CHUNK_ROWS, Scorer
from mlcicd_assets_tests.io.tiny import linear


def stump(**changes: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Two trees over x: a split at 1.5 (missing to the left), and a single leaf."""
    meta = {
        "format": 1,
        "kind": "trees",
        "numbers": ["x"],
        "categories": [],
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
        "missing_left": np.array([True, True, True, True]),
        "value": np.array([0.0, 0.25, 0.75, 0.5]),
    }
    return {**meta, **changes}, arrays


def test_walks_each_tree_and_averages() -> None:
    scores = Scorer(*stump()).score({"x": np.array([1.5, 1.5000001, np.nan, -np.inf, np.inf])})
    assert scores.tolist() == [0.375, 0.625, 0.375, 0.375, 0.625]


def test_adds_baseline_and_logistic_without_overflow() -> None:
    scores = Scorer(*stump(combine="logistic", baseline=-0.75)).score({"x": np.array([0.0])})
    assert scores.tolist() == [0.5]
    meta, arrays = stump(combine="logistic")
    arrays["value"] = np.array([0.0, -2000.0, 2000.0, 0.0])
    assert Scorer(meta, arrays).score({"x": np.array([0.0, 9.0])}).tolist() == [0.0, 1.0]


def test_float32_comparison_rounds_the_row_not_the_threshold() -> None:
    meta, arrays = stump(compare="float32")
    arrays["threshold"][0] = 0.1  # float32(0.1) is larger than 0.1
    assert Scorer(meta, arrays).score({"x": np.array([0.1])}).tolist() == [0.625]
    scores = Scorer(*stump(compare="float32")).score({"x": np.array([1e300, -1e300])})
    assert scores.tolist() == [0.625, 0.375]


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
    assert together.shape == (rows,)
    for row in range(0, rows, 97):
        single = scorer.score({name: values[row : row + 1] for name, values in columns.items()})
        assert single[0] == together[row]


def test_unknown_category_and_null_number_have_defined_scores() -> None:
    columns = {
        "amount": np.array([100.0]),
        "channel": np.array(["never seen"], dtype=object),
        "rate": np.array([np.nan]),
    }
    assert Scorer(linear().meta, linear().arrays).score(columns).tolist() == [0.5]


def test_another_format_is_refused() -> None:
    with pytest.raises(BundleError, match="format"):
        Scorer(*stump(format=3))


@pytest.mark.parametrize(
    ("name", "node", "value"),
    [("left", 0, 4), ("left", 0, -1), ("right", 0, 4), ("left", 0, 0), ("right", 2, 0),
     ("feature", 0, 1), ("feature", 0, -1), ("roots", 1, 9), ("roots", 1, -1)],
)  # fmt: skip
def test_trees_that_lead_outside_or_never_end_are_refused(name: str, node: int, value: int) -> None:
    meta, arrays = stump()
    arrays[name][node] = value
    with pytest.raises(BundleError, match="outside"):
        Scorer(meta, arrays)


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
