"""A fitted pipeline as plain arrays, so that serving never loads a Python object."""

from typing import TYPE_CHECKING, Any

import numpy as np

from mlcicd_assets.ml.errors import UnsupportedModel
from mlcicd_assets.ml.extensions import OwnEstimator, transformer
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


def export_model(
    pipeline: "Pipeline", columns: tuple[FeatureColumn, ...], own: OwnEstimator | None = None
) -> ExportedModel:
    """Return the exact plain-array form of a pipeline of `make_pipeline`, fitted on `columns`.

    `own` says how to export an estimator that is not scikit-learn's.

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
            meta, arrays = forest_arrays([tree.tree_ for tree in model.estimators_])
        case "DecisionTreeClassifier" | "DecisionTreeRegressor":
            meta, arrays = forest_arrays([model.tree_])
        case "LogisticRegression" | "Ridge":
            meta, arrays = _linear(model, prepare.named_transformers_)
        case _ if own is not None:
            meta, arrays = own.export(model)
        case other:
            raise UnsupportedModel(
                f"{other} has no plain-array form: choose an estimator of the spec"
            )
    transforms, fitted = _transforms(prepare.named_transformers_.get("numbers"))
    inputs: dict[str, Any] = {
        "numbers": [column.name for column in columns if column.kind == "number"],
        # Pairs, not a mapping: their order is that of the matrix, and JSON here sorts keys.
        "categories": [
            [of[0], [str(value) for value in step.categories_[0]]]
            for name, step, of in prepare.transformers_
            if name.startswith("category_")
        ],
    }
    inputs |= {"transforms": transforms} if transforms else {}
    of_old = len(classes) == 2 and not transforms  # what the first version reads, too
    return ExportedModel({"format": FORMATS[0 if of_old else 1], **inputs, **meta}, arrays | fitted)


def _transforms(numbers: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what each transformed column is transformed by, and the arrays that it learned."""
    step: Any = next(iter(getattr(numbers, "named_steps", {}).values()), None)
    meta: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for column, name in getattr(step, "by", {}).items():
        fitted = step.fitted_[column]
        version = transformer(name).version
        meta[column] = {"name": name, "version": version, "arrays": sorted(fitted)}
        arrays |= {f"transform_{column}_{key}": np.asarray(v, "<f8") for key, v in fitted.items()}
    return meta, arrays


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
    return meta, join_trees(trees)


def forest_arrays(forest: list[Any]) -> Parts:
    """Return the form of the mean of scikit-learn's `tree_` objects."""
    trees = [
        (
            *(tree.feature, tree.threshold, tree.children_left, tree.children_right),
            *(tree.missing_go_to_left, _leaf_values(tree.value), tree.children_left == -1),
        )
        for tree in forest
    ]
    # Its trees cast X to float32 and compare with float64 thresholds (facts: up to 0.37 off else).
    meta = {"kind": "trees", "compare": "float32", "combine": "mean", "baseline": 0.0}
    return meta, join_trees(trees)


def _leaf_values(value: np.ndarray) -> np.ndarray:
    """Shares of the classes: of two the second, of more all; or the number."""
    shares = value[:, 0, :]
    return shares if shares.shape[1] > 2 else shares[:, -1]


def join_trees(trees: list[Nodes]) -> dict[str, np.ndarray]:
    """Put all trees in one row: children shifted to their place, each leaf points at itself.

    A tree is (feature, threshold, left, right, missing_left, value, is_leaf), each (nodes, ...).
    """
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
        *_, impute, scale = prepared["numbers"]
        arrays |= {"fill": impute.statistics_, "mean": scale.mean_, "scale": scale.scale_}
    meta = {"kind": "linear", "intercept": intercept}
    if not hasattr(model, "classes_"):
        meta["combine"] = "identity"
    elif len(model.classes_) > 2:
        meta["combine"] = "softmax"
    return meta, {name: arrays[name].astype(type_) for name, type_ in LINEAR_ARRAYS.items()}
