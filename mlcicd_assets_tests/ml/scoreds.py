"""A scored holdout made by hand: an honest model of one number and one category."""

from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl

from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets.ml.scoring import Scorer
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.training import training_key
from mlcicd_assets_tests.ml.specs import small_spec

START, DAY = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=1)
HOLDOUT, END = START + 32 * DAY, START + 62 * DAY
ROWS = 3_000  # in each part
SCORER = Scorer(
    {"format": 1, "kind": "linear", "numbers": ["x"], "categories": [["shop", ["a", "b"]]]}
    | {"intercept": -3.0},
    {
        "fill": np.zeros(1),
        "mean": np.zeros(1),
        "scale": np.ones(1),
        "coefficient": np.array([1.0, 0.0, 0.0]),
    },
)


def spec_of(absent: str = "unknown", **gates: Any) -> PipelineSpec:
    types = {"id": "integer", "at": "timestamp", "x": "number", "shop": "string"}
    types |= {"amount": "number", "feed": "string"}
    return small_spec(
        {name: {"type": kind, "nullable": name in {"x", "shop"}} for name, kind in types.items()},
        features={"columns": ["x", "shop"]},
        label={"matures_after_days": 2, "absent": absent},
        gates=Gates.model_validate({"floors": {"roc_auc": 0.5}, **gates}).model_dump(mode="json"),
    )


@cache
def part(first: int, start: datetime) -> pl.DataFrame:
    """`ROWS` rows over 30 days; the label follows the score that `SCORER` gives; known a day on."""
    rng = np.random.default_rng(first)
    x = rng.normal(0, 1.25, ROWS)
    at = [start + 30 * DAY * n / ROWS for n in range(ROWS)]
    return pl.DataFrame(
        {
            "id": np.arange(first, first + ROWS),
            "at": at,
            "x": x,
            "shop": rng.choice(["a", "b"], ROWS),
            "amount": rng.integers(1, 100, ROWS).astype(float),
            "feed": rng.choice(["f1", "f2", "f3"], ROWS),
            "label": (rng.random(ROWS) < 1 / (1 + np.exp(3 - x))).astype(np.int8),
            "label_known_at": [moment + DAY for moment in at],
        }
    )


def scored(
    spec: PipelineSpec | None = None,
    *,
    train: pl.DataFrame | None = None,
    holdout: pl.DataFrame | None = None,
    scores: np.ndarray | None = None,
    **changes: Any,
) -> Scored:
    """An honest model, or one with a part replaced."""
    spec = spec or spec_of()
    train = part(0, START) if train is None else train
    holdout = part(ROWS, HOLDOUT) if holdout is None else holdout
    x = holdout["x"].fill_null(0).to_numpy()
    scores = 1 / (1 + np.exp(3 - x)) if scores is None else scores
    parts: dict[str, Any] = {
        "spec": spec,
        "split": Split(train, holdout, START, HOLDOUT - 2 * DAY, HOLDOUT, END),
        "as_of": END + 2 * DAY,
        "training_key": training_key(train, spec),
        "columns": feature_columns(spec),
        "scorer": SCORER,
        "threshold": 0.2,
        "labels": holdout["label"].to_numpy(),
        "scores": scores,
        "decisions": scores >= 0.2,
    }
    return Scored(**{**parts, **changes})
