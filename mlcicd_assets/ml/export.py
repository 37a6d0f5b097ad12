"""A fitted pipeline as plain arrays, so that serving never loads a Python object."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mlcicd_assets.ml.errors import UnsupportedModel
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import FORMAT, LINEAR_ARRAYS, TREE_ARRAYS, ExportedModel

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

FORESTS = frozenset({"RandomForestClassifier", "ExtraTreesClassifier"})


def export_model(pipeline: "Pipeline", columns: tuple[FeatureColumn, ...]) -> ExportedModel:
    """Return the exact plain-array form of a fitted pipeline of `make_pipeline`.

    Raises:
        UnsupportedModel: not binary, fitted on other columns, or without an exact form.
    """
    model: Any = pipeline.named_steps["model"]
    inputs = _inputs(pipeline, columns)
    if len(model.classes_) != 2:
        raise UnsupportedModel(
            f"only two classes can be served, the labels held {len(model.classes_)}: check the "
            "label column and the training window"
        )
    kind = type(model).__name__
    if kind == "HistGradientBoostingClassifier":
        meta, arrays = _boosting(model)
    elif kind in FORESTS:
        meta, arrays = _forest([tree.tree_ for tree in model.estimators_])
    elif kind == "DecisionTreeClassifier":
        meta, arrays = _forest([model.tree_])
    elif kind == "LogisticRegression":
        meta, arrays = _linear(pipeline, model, numbers=len(inputs["numbers"]))
    else:
        raise UnsupportedModel(f"{kind} has no plain-array form: choose an estimator of the spec")
    return ExportedModel({"format": FORMAT, **inputs, **meta}, arrays)


def _inputs(pipeline: "Pipeline", columns: tuple[FeatureColumn, ...]) -> dict[str, Any]:
    prepare: Any = pipeline.named_steps["prepare"]
    if list(prepare.feature_names_in_) != [column.name for column in columns]:
        raise UnsupportedModel("the pipeline was fitted on other columns: train it again")
    categories: dict[str, list[str]] = {}
    for name, step, of in prepare.transformers_:
        if name.startswith("category_"):
            categories[of[0]] = [str(value) for value in step.categories_[0]]
    return {
        "numbers": [column.name for column in columns if column.kind == "number"],
        "categories": categories,
    }


def _boosting(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    # scikit-learn has no public access to these trees.
    trees = [stage[0].nodes for stage in model._predictors]  # noqa: SLF001
    baseline = float(model._baseline_prediction.item())  # noqa: SLF001
    if model.is_categorical_ is not None:
        raise UnsupportedModel("category splits have no plain-array form: drop that parameter")
    forms = [
        {
            "feature": nodes["feature_idx"],
            "threshold": nodes["num_threshold"],
            "left": nodes["left"],
            "right": nodes["right"],
            "missing_left": nodes["missing_go_to_left"],
            "value": nodes["value"],
            "leaf": nodes["is_leaf"].astype(bool),
        }
        for nodes in trees
    ]
    meta = {"kind": "trees", "compare": "float64", "combine": "logistic", "baseline": baseline}
    return meta, _join(forms)


def _forest(trees: Sequence[Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    forms = [
        {
            "feature": tree.feature,
            "threshold": tree.threshold,
            "left": tree.children_left,
            "right": tree.children_right,
            "missing_left": tree.missing_go_to_left,
            "value": tree.value[:, 0, 1],
            "leaf": tree.children_left == -1,
        }
        for tree in trees
    ]
    # Its trees cast X to float32 and compare with float64 thresholds (facts: up to 0.37 off else).
    meta = {"kind": "trees", "compare": "float32", "combine": "mean", "baseline": 0.0}
    return meta, _join(forms)


def _join(trees: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    sizes = [len(tree["leaf"]) for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]])
    forms = [_close(tree, root) for tree, root in zip(trees, roots, strict=True)]
    joined = {name: np.concatenate([form[name] for form in forms]) for name in forms[0]}
    joined["roots"] = roots
    return {name: joined[name].astype(type_) for name, type_ in TREE_ARRAYS.items()}


def _close(tree: dict[str, np.ndarray], root: int) -> dict[str, np.ndarray]:
    """Shift the children to their place among all trees; each leaf points at itself."""
    leaf = tree["leaf"]
    here = root + np.arange(len(leaf))
    return {
        "feature": np.where(leaf, 0, tree["feature"]),
        "threshold": np.where(leaf, np.inf, tree["threshold"]),
        "left": np.where(leaf, here, root + tree["left"].astype(np.int64)),
        "right": np.where(leaf, here, root + tree["right"].astype(np.int64)),
        "missing_left": np.where(leaf, True, tree["missing_left"]),
        "value": np.where(leaf, tree["value"], 0.0),
    }


def _linear(
    pipeline: "Pipeline", model: Any, *, numbers: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    empty = np.zeros(0)
    arrays = {"fill": empty, "mean": empty, "scale": empty, "coefficient": model.coef_[0]}
    if numbers:
        impute, scale = pipeline.named_steps["prepare"].named_transformers_["numbers"]
        arrays |= {"fill": impute.statistics_, "mean": scale.mean_, "scale": scale.scale_}
    meta = {"kind": "linear", "intercept": float(model.intercept_[0])}
    return meta, {name: arrays[name].astype(type_) for name, type_ in LINEAR_ARRAYS.items()}
