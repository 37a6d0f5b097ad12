"""Machines in a factory: one small world whose rows carry a class and a number to predict."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec

START, DAYS, ROWS = datetime(2026, 3, 1, tzinfo=UTC), 60, 6_000
CLASSES = ["fine", "worn", "broken"]
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"type": "integer"},
    "at": {"type": "timestamp"},
    "load": {"type": "number", "min": 0, "max": 100},
    "heat": {"type": "number", "min": -50, "max": 200},
    "shop": {"type": "string", "categories": ["north", "south", "west"]},
    "state": {"type": "string", "categories": CLASSES},
    "hours": {"type": "number"},
}


def world(*, days: int = DAYS, seed: int = 1) -> pl.DataFrame:
    """Load and heat wear a machine out; `state` says how far, `hours` what is left of it."""
    rng = np.random.default_rng(seed)
    count = ROWS * days // DAYS
    load, heat = rng.uniform(0, 100, count), rng.normal(60, 15, count)
    shop = rng.choice(COLUMNS["shop"]["categories"], count)
    wear = load / 25 + (heat - 60) / 15 + (shop == "west") + rng.normal(0, 0.8, count)
    state = np.array(CLASSES)[np.digitize(wear, (2.2, 3.6))]
    hours = 1_000 - 150 * wear + rng.normal(0, 40, count)
    seconds = np.linspace(0, days * 86_400 - 1, count)
    return pl.DataFrame(
        {
            "id": np.arange(count),
            "at": [START + timedelta(seconds=float(second)) for second in seconds],
            "load": load,
            "heat": heat,
            "shop": shop,
            "state": state,
            "hours": hours,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


def machine_spec(target: str, **changes: Any) -> PipelineSpec:
    """The model of one target with every gate on; `changes` replace whole sections."""
    several = target == "multiclass"
    label = {"column": "state", "classes": CLASSES} if several else {"column": "hours"}
    row = {"load": 10.0, "heat": 40.0, "shop": "north"}
    golden = {"of": "fine", "at_least": 0.6} if several else {"at_least": 900}
    plain = {
        "name": "machines",
        "description": "Wear of machines.",
        "owners": ["team:plant"],
        "source": {"landing": "machines"},
        "key": ["id"],
        "time": {"column": "at"},
        "label": {"target": target, **label},
        "contract": {"columns": COLUMNS},
        "features": {"columns": ["load", "heat", "shop"]},
        "split": {"holdout_days": 20},
        "training": {
            "estimator": f"HistGradientBoosting{'Classifier' if several else 'Regressor'}",
            "parameters": {"max_iter": 60, "learning_rate": 0.1, "max_leaf_nodes": 8},
        },
        "gates": {
            "floors": {"accuracy": 0.6, "log_loss": 0.9} if several else {"r2": 0.5, "rmse": 200},
            "golden_set": [{"name": "idle", "row": row, **golden}],
            "fairness": {"group": "shop", "min_ratio": 0.7},
            "poisoning": {"source": "shop"},
            "stability": {"max_flipped": 0.1},
            "leakage": {"disjoint": None},
        },
    }
    return PipelineSpec.model_validate({**plain, **changes})


def land(frame: pl.DataFrame, name: str = "first.parquet") -> Path:
    folder = Settings.from_env().landing / "machines"
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / name)
    return folder / name
