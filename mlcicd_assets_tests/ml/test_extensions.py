"""Own transformers and estimators: the conformance suite, the allow-list, training and serving."""

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.ml import extensions
from mlcicd_assets.ml.conformance import check_estimator, check_extensions, check_transformer
from mlcicd_assets.ml.errors import BundleError, SpecError
from mlcicd_assets.ml.estimator import column_arrays, make_pipeline, model_frame
from mlcicd_assets.ml.export import export_model
from mlcicd_assets.ml.features import check_features
from mlcicd_assets.ml.schema import FeatureColumn, feature_definitions
from mlcicd_assets.ml.scoring import Scorer, largest_difference
from mlcicd_assets.ml.sections import Training
from mlcicd_assets.ml.target import target_of
from mlcicd_assets_tests.ml import own
from mlcicd_assets_tests.ml.specs import small_spec

COLUMNS = (FeatureColumn("x", "number"), FeatureColumn("rate", "number", nullable=True))
TREE = own.ESTIMATORS[0]


def rows(seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rate = [None if n % 5 == 0 else float(rng.random()) for n in range(400)]
    return pl.DataFrame({"x": rng.lognormal(3, 2, 400), "rate": rate})


def test_what_a_user_would_write_conforms() -> None:
    check_extensions(own.__name__)


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (lambda v, f: np.argsort(v).astype(float), "another value in another batch"),
        (lambda v, f: v.astype(np.float32), "must return float64"),
        (lambda v, f: v[:-1], "one value a row"),
        (lambda v, f: np.log(v), "NaN or inf"),
        (lambda v, f: np.add(v, 1, out=v), "must not change"),
    ],
)
def test_a_transformer_that_breaks_a_promise_is_told(broken: Any, promise: str) -> None:
    wrong = type("Wrong", (own.SignedLog,), {"apply": lambda _, v, f: broken(v, f)})
    with pytest.raises(AssertionError, match=promise), np.errstate(all="ignore"):
        check_transformer(wrong())


def test_a_transformer_that_learns_by_chance_is_told() -> None:
    chance = np.random.default_rng(1)
    fit = lambda self, values: {"unit": chance.uniform(1, 2, 1)}  # noqa: E731
    with pytest.raises(AssertionError, match="the same from the same rows"):
        check_transformer(type("Wrong", (own.SignedLog,), {"fit": fit})())


def off_by_little(model: Any) -> Any:
    meta, arrays = own.export(model)
    return meta, {**arrays, "value": arrays["value"] + 1e-9}


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ({"export": off_by_little}, "score 1e-09 off"),
        ({"trusted": ()}, "types not in `trusted`"),
        ({"make": lambda p, _: own.make_classifier(p, np.random.randint(10**6))}, "the same seed"),
    ],
)
def test_an_estimator_that_breaks_a_promise_is_told(change: dict[str, Any], promise: str) -> None:
    with pytest.raises(AssertionError, match=promise):
        check_estimator(replace(TREE, **change))


def test_a_module_that_needs_scikit_learn_to_serve_is_told(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "heavy_extensions.py").write_text("import sklearn\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(AssertionError, match="must import without training libraries"):
        check_extensions("heavy_extensions")


@pytest.mark.parametrize("estimator", ["LogisticRegression", "RandomForestClassifier"])
def test_a_transformed_model_scores_the_same_from_arrays(allowed: Any, estimator: str) -> None:
    allowed(own.__name__)
    pipeline = make_pipeline(Training(estimator=estimator), COLUMNS, {"x": "signed_log"})
    frame = rows(1)
    pipeline.fit(model_frame(frame, COLUMNS), (frame["x"] > 20).cast(int).to_numpy())
    exported = export_model(pipeline, COLUMNS)
    scorer = Scorer(exported.meta, exported.arrays)
    expected = target_of("binary").predict(pipeline, model_frame(rows(2), COLUMNS))
    assert largest_difference(scorer.score(column_arrays(rows(2), COLUMNS)), expected) <= 1e-15
    assert exported.meta["transforms"]["x"] == {
        "name": "signed_log",
        "version": 1,
        "arrays": ["unit"],
    }

    monkey = replace_version(2)
    allowed(monkey)
    with pytest.raises(BundleError, match="wants version 1 of the transformer 'signed_log'"):
        Scorer(exported.meta, exported.arrays)
    allowed()
    with pytest.raises(BundleError, match="cannot be served here: no installed package lists"):
        Scorer(exported.meta, exported.arrays)


def replace_version(version: int) -> str:
    """Make a module that lists another version of the transformer."""
    module = ModuleType("other_version")
    module.TRANSFORMERS = [type("Other", (own.SignedLog,), {"version": version})()]
    sys.modules[module.__name__] = module
    return module.__name__


def test_yaml_names_only_what_is_listed(allowed: Any) -> None:
    columns = {
        "id": {"type": "integer"},
        "at": {"type": "timestamp"},
        "x": {"type": "number"},
        "shop": {"type": "string"},
    }

    def spec(**parts: Any) -> Any:
        return small_spec(columns, **{"features": {"columns": ["x", "shop"]}, **parts})

    def transformed(name: str) -> Any:
        return spec(features={"columns": ["x", "shop"], "transforms": {name: "signed_log"}})

    training = {"estimator": "RandomTreeClassifier"}
    allowed()
    with pytest.raises(ValueError, match="'RandomTreeClassifier' cannot serve a binary target"):
        spec(training=training)
    with pytest.raises(SpecError, match="there are: none"):
        check_features(transformed("x"))
    allowed(own.__name__)
    spec(training=training)
    with pytest.raises(ValueError, match="cannot serve a binary"):
        spec(training={"estimator": "RandomTreeRegressor"})
    check_features(transformed("x"))
    with pytest.raises(SpecError, match="'shop', which is no numeric feature"):
        check_features(transformed("shop"))
    assert feature_definitions(transformed("x"))["transformers"] == {"signed_log": 1}
    allowed(own.__name__, own.__name__)
    with pytest.raises(SpecError, match="two installed packages list"):
        extensions.estimator("RandomTreeClassifier")
    allowed("gone_module")
    with pytest.raises(SpecError, match="gone_module, listed under"):
        extensions.transformer("signed_log")
