"""A small spec for tests; any part of it can be another."""

from typing import Any

from mlcicd_assets.ml.spec import PipelineSpec


def small_spec(columns: dict[str, dict[str, Any]], **changes: Any) -> PipelineSpec:
    """Events with at least the columns `id` (key) and `at` (time); labels in a source of their own.

    `changes` replace parts; of `label` and `contract` only the fields that they name.
    """
    label = {"column": "bad", "source": {"landing": "labels"}, **changes.pop("label", {})}
    contract = {"columns": columns, **changes.pop("contract", {})}
    base = {
        "name": "small",
        "description": "A small one.",
        "owners": ["team:x"],
        "source": {"landing": "events"},
        "key": ["id"],
        "time": {"column": "at"},
        "features": {},
        "split": {"holdout_days": 1},
        "training": {"estimator": "LogisticRegression"},
        "gates": {"floors": {"roc_auc": 0.5}},
    }
    return PipelineSpec.model_validate({**base, "label": label, "contract": contract, **changes})
