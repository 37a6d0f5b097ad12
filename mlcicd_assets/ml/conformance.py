"""The conformance suite for own transformers and estimators: run it in your own tests.

from mlcicd_assets.ml.conformance import check_extensions

def test_our_extensions() -> None:
    check_extensions("our_package.extensions")
"""

import importlib
import subprocess
import sys
from typing import Any, Final

import numpy as np

from mlcicd_assets.ml.extensions import Floats, OwnEstimator, Transformer
from mlcicd_assets.ml.scoring import SERVING_LACKS, ExportedModel, Scorer, largest_difference
from mlcicd_assets.ml.target import target_of

ROWS: Final = 600
TOLERANCE: Final = 1e-12
CLASSES: Final = {"binary": 2, "multiclass": 3, "regression": 0}


def check_extensions(module: str) -> None:
    """Check every transformer and estimator that a module offers.

    Raises:
        AssertionError: one does not keep a promise; the message says which.
    """
    blocked = f"import sys; sys.modules.update(dict.fromkeys({SERVING_LACKS!r})); import {module}"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", blocked], capture_output=True, text=True, check=False
    )
    _hold(done.returncode == 0, module, f"must import without training libraries: {done.stderr}")
    loaded = importlib.import_module(module)
    for own in getattr(loaded, "TRANSFORMERS", ()):
        check_transformer(own)
    for own in getattr(loaded, "ESTIMATORS", ()):
        check_estimator(own)


def check_transformer(own: Transformer) -> None:
    """Check that values are transformed one by one, the same in training and serving.

    Raises:
        AssertionError: see above.
    """
    rng = np.random.default_rng(1)
    for values in (rng.lognormal(2, 1, ROWS), rng.normal(0, 1e6, ROWS), np.zeros(ROWS)):
        values[::7] = np.nan
        given = values.copy()
        fitted = dict(own.fit(values))
        whole = own.apply(values, fitted)
        _hold(_same(values, given), own.name, "must not change the values it is given")
        _hold(whole.shape == values.shape, own.name, "must return one value a row")
        _hold(whole.dtype == np.float64, own.name, "must return float64")
        alone = [own.apply(values[n : n + 1], fitted)[0] for n in range(ROWS)]
        _hold(_same(whole, alone), own.name, "gives a row another value in another batch")
        plain = {key: np.asarray(array, "<f8") for key, array in fitted.items()}
        _hold(_same(own.apply(values, plain), whole), own.name, "must learn float64 arrays only")
        again = own.apply(values, own.fit(values))
        _hold(_same(again, whole), own.name, "must learn the same from the same rows")
        known = np.isfinite(values)
        _hold(bool(np.isfinite(whole[known]).all()), own.name, "makes a known value NaN or inf")
    _hold(own.apply(np.array([]), fitted).shape == (0,), own.name, "must take no rows at all")


def check_estimator(own: OwnEstimator) -> None:
    """Check that the plain arrays score as the estimator does, for each of its targets.

    Raises:
        AssertionError: see above.
    """
    for kind in own.targets:
        target = target_of(kind, range(CLASSES[kind]))
        rng = np.random.default_rng(2)
        x = rng.normal(size=(ROWS, 4))
        x[::9, 2] = np.nan
        wear = x[:, 0] + x[:, 1] ** 2 + rng.normal(0, 0.3, ROWS)
        cuts = {"binary": (1.0,), "multiclass": (0.5, 1.5)}.get(kind)
        labels = 100 * wear if cuts is None else np.digitize(wear, cuts)
        model = own.make({}, 3).fit(x, labels)
        expected = target.predict(model, x)
        again = target.predict(own.make({}, 3).fit(x, labels), x)
        _hold(_same(again, expected), own.name, f"{kind}: must learn the same from the same seed")
        scorer = Scorer(*_exported(own, model))
        scores = scorer.score(_columns(x))
        off = largest_difference(scores, expected)
        _hold(off <= TOLERANCE, own.name, f"{kind}: arrays score {off:.3g} off")
        alone = np.concatenate([scorer.score(_columns(x[n : n + 1])) for n in range(50)])
        _hold(_same(alone, scores[:50]), own.name, f"{kind}: a score depends on its batch")
        _check_file(own, model)


def _check_file(own: OwnEstimator, model: Any) -> None:
    import skops.io

    foreign = set(skops.io.get_untrusted_types(data=skops.io.dumps(model))) - set(own.trusted)
    _hold(not foreign, own.name, f"its skops file holds types not in `trusted`: {sorted(foreign)}")


def _exported(own: OwnEstimator, model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    meta, arrays = own.export(model)
    inputs = {"format": 2, "numbers": [f"x{n}" for n in range(4)], "categories": []}
    exported = ExportedModel({**inputs, **meta}, arrays)
    kinds = {array.dtype.str for array in arrays.values()}
    _hold(kinds <= {"<f8", "<i4", "|b1"}, own.name, f"arrays of type {sorted(kinds)}")
    return exported.meta, exported.arrays


def _columns(x: Floats) -> dict[str, Floats]:
    return {f"x{n}": values for n, values in enumerate(x.T)}


def _same(left: Any, right: Any) -> bool:
    return bool(np.array_equal(left, right, equal_nan=True))


def _hold(kept: bool, name: str, promise: str) -> None:
    if not kept:
        raise AssertionError(f"'{name}' {promise}")
