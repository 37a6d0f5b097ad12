"""Own extensions as a user would write them: a log, and one random tree."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlcicd_assets.ml.extensions import Fitted, Floats, OwnEstimator


class SignedLog:
    """Logarithm of the size, in units of the training rows' median size; the sign stays."""

    name, version = "signed_log", 1

    def fit(self, values: Floats) -> Fitted:
        sizes = np.abs(values[np.isfinite(values) & (values != 0)])
        return {"unit": np.array([np.median(sizes) if len(sizes) else 1.0])}

    def apply(self, values: Floats, fitted: Fitted) -> Floats:
        return np.sign(values) * np.log1p(np.abs(values) / fitted["unit"][0])


def make_classifier(parameters: Mapping[str, Any], seed: int) -> Any:
    from sklearn.tree import ExtraTreeClassifier

    return ExtraTreeClassifier(random_state=seed, **{"max_depth": 5, **parameters})


def make_regressor(parameters: Mapping[str, Any], seed: int) -> Any:
    from sklearn.tree import ExtraTreeRegressor

    return ExtraTreeRegressor(random_state=seed, **{"max_depth": 5, **parameters})


def export(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from mlcicd_assets.ml.export import forest_arrays

    return forest_arrays([model.tree_])


TRANSFORMERS = [SignedLog()]
ESTIMATORS = [
    OwnEstimator(
        name="RandomTreeClassifier",
        version=1,
        targets=("binary", "multiclass"),
        make=make_classifier,
        export=export,
        trusted=("sklearn.tree._tree.Tree",),
    ),
    OwnEstimator(
        name="RandomTreeRegressor",
        version=1,
        targets=("regression",),
        make=make_regressor,
        export=export,
        trusted=("sklearn.tree._tree.Tree",),
    ),
]
