"""A fitted pipeline as plain arrays, so that serving never loads a Python object."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlcicd_assets.ml.errors import UnsupportedModel
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import FORMATS, LINEAR_ARRAYS, TREE_ARRAYS, ExportedModel

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

# How boosting turns its sum into a prediction (scikit-learn's link functions).
_LINKS = {
    "LogitLink": "logistic",
    "MultinomialLogit": "softmax",
    "IdentityLink": "identity",
    "LogLink": "exp",
}
Parts = tuple[dict[str, Any], dict[str, np.ndarray]]  # meta, arrays
# One tree's nodes: feature, threshold, left, right, missing_left, value, is a leaf; each (n,).
Nodes = tuple[np.ndarray, ...]


def export_model(pipeline: "Pipeline", columns: tuple[FeatureColumn, ...]) -> ExportedModel:
    """Return the exact plain-array form of a pipeline of `make_pipeline`, fitted on `columns`.

    Raises:
        UnsupportedModel: labels were no class indices, or there is no exact form.
    """
    model: Any = pipeline.named_steps["model"]
    prepare: Any = pipeline.named_steps["prepare"]
    classes = list(getattr(model, "classes_", ()))
    if classes != list(range(len(classes))) or len(classes) == 1:
        raise UnsupportedModel(
            f"the model was fitted on the classes {classes}, not on all of them by index: check "
            "the label column and the training window"
        )
    match type(model).__name__:
        case "HistGradientBoostingClassifier" | "HistGradientBoostingRegressor":
            meta, arrays = _boosting(model)
        case (
            "RandomForestClassifier"
            | "ExtraTreesClassifier"
            | "RandomForestRegressor"
            | "ExtraTreesRegressor"
        ):
            meta, arrays = _forest([tree.tree_ for tree in model.estimators_])
        case "DecisionTreeClassifier" | "DecisionTreeRegressor":
            meta, arrays = _forest([model.tree_])
        case "LogisticRegression" | "Ridge":
            meta, arrays = _linear(model, prepare.named_transformers_)
        case other:
            raise UnsupportedModel(
                f"{other} has no plain-array form: choose an estimator of the spec"
            )
    inputs = {
        "numbers": [column.name for column in columns if column.kind == "number"],
        # Pairs, not a mapping: their order is that of the matrix, and JSON here sorts keys.
        "categories": [
            [of[0], [str(value) for value in step.categories_[0]]]
            for name, step, of in prepare.transformers_
            if name.startswith("category_")
        ],
    }
    of_old = len(classes) == 2  # what the first version reads, too
    return ExportedModel({"format": FORMATS[0 if of_old else 1], **inputs, **meta}, arrays)


def _boosting(model: Any) -> Parts:
    # scikit-learn has no public access to these trees.
    fields = ("feature_idx", "num_threshold", "left", "right", "missing_go_to_left", "value")
    trees = [
        (*(tree.nodes[field] for field in fields), tree.nodes["is_leaf"])
        for stage in model._predictors  # noqa: SLF001
        for tree in stage  # one for each class
    ]
    baseline = np.ravel(model._baseline_prediction).tolist()  # noqa: SLF001
    combine = _LINKS[type(model._loss.link).__name__]  # noqa: SLF001
    single = baseline[0] if len(baseline) == 1 else baseline
    meta = {"kind": "trees", "compare": "float64", "combine": combine, "baseline": single}
    return meta, _join(trees)


def _forest(forest: list[Any]) -> Parts:
    trees = [
        (
            *(tree.feature, tree.threshold, tree.children_left, tree.children_right),
            *(tree.missing_go_to_left, _leaf_values(tree.value), tree.children_left == -1),
        )
        for tree in forest
    ]
    # Its trees cast X to float32 and compare with float64 thresholds (facts: up to 0.37 off else).
    meta = {"kind": "trees", "compare": "float32", "combine": "mean", "baseline": 0.0}
    return meta, _join(trees)


def _leaf_values(value: np.ndarray) -> np.ndarray:
    """Shares of the classes: of two the second, of more all; or the number."""
    shares = value[:, 0, :]
    return shares if shares.shape[1] > 2 else shares[:, -1]


def _join(trees: list[Nodes]) -> dict[str, np.ndarray]:
    """Put all trees in one row: children shifted to their place, each leaf points at itself."""
    sizes = [len(tree[0]) for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]])
    parts = (np.concatenate(part) for part in zip(*trees, strict=True))
    feature, threshold, left, right, missing_left, value, leaf = parts
    leaf, here, root = leaf.astype(bool), np.arange(sum(sizes)), np.repeat(roots, sizes)
    joined = {
        "roots": roots,
        "feature": np.where(leaf, 0, feature),
        "threshold": np.where(leaf, np.inf, threshold),
        "left": np.where(leaf, here, root + left),
        "right": np.where(leaf, here, root + right),
        "missing_left": leaf | (missing_left != 0),
        "value": np.where(leaf.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0),
    }
    return {name: joined[name].astype(type_) for name, type_ in TREE_ARRAYS.items()}


def _linear(model: Any, prepared: Any) -> Parts:
    empty = np.zeros(0)
    coefficient, intercept = np.atleast_2d(model.coef_), np.ravel(model.intercept_).tolist()
    if len(intercept) == 1:
        coefficient, intercept = coefficient[0], intercept[0]
    arrays = {"fill": empty, "mean": empty, "scale": empty, "coefficient": coefficient}
    if "numbers" in prepared:
        impute, scale = prepared["numbers"]
        arrays |= {"fill": impute.statistics_, "mean": scale.mean_, "scale": scale.scale_}
    meta = {"kind": "linear", "intercept": intercept}
    if not hasattr(model, "classes_"):
        meta["combine"] = "identity"
    elif len(model.classes_) > 2:
        meta["combine"] = "softmax"
    return meta, {name: arrays[name].astype(type_) for name, type_ in LINEAR_ARRAYS.items()}
