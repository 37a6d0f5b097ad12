"""A search: what may be asked for, what is drawn, how folds lie in time, which trial wins."""

import json
import math
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from mlcicd_assets.ml import search as module
from mlcicd_assets.ml.errors import NotEnoughData, SpecError
from mlcicd_assets.ml.search import check_search, chosen_spec, draw, search
from mlcicd_assets.ml.search_space import Range, Search
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.training import fit, training_key
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.ml.test_training import frame
from mlcicd_assets_tests.small_model import small_spec

SPACE = {"max_iter": [1, 30], "min_samples_leaf": {"low": 5, "high": 40, "integer": True}}


def spec(parameters: dict[str, Any] = SPACE, **changes: Any) -> PipelineSpec:
    section = {"trials": 4, "parameters": parameters}
    changes = {"label__matures_after_days": 1, **changes}
    return small_spec(
        features={"columns": ["amount", "channel"]},
        training__parameters={"learning_rate": 0.2},
        training__search={**section, **changes.pop("search", {})},
        **changes,
    )


def tried(one: PipelineSpec, done: dict | None = None) -> list:
    assert one.training.search is not None
    return list(search(frame(), one, one.training.search, done or {}))


def test_every_kind_of_value_is_drawn_within_its_bounds_and_again_by_the_seed() -> None:
    asked = Search.model_validate(
        {
            "trials": 200,
            "parameters": {
                "choice": ["a", None, 3],
                "even": {"low": 1, "high": 2},
                "log": {"low": 0.001, "high": 10, "log": True},
                "whole": {"low": 2, "high": 5, "integer": True},
                "whole_log": {"low": 1, "high": 1000, "log": True, "integer": True},
            },
        }
    )
    drawn = draw(asked, 7)
    assert drawn == draw(asked, 7) == json.loads(json.dumps(drawn))
    assert drawn != draw(asked, 8)
    column = {name: [one[name] for one in drawn] for name in asked.parameters}
    assert {*column["choice"]} == {"a", None, 3}
    assert {*column["whole"]} == {2, 3, 4, 5}
    assert min(column["even"]) >= 1
    assert 1.4 < np.median(column["even"]) < 1.6
    assert max(column["even"]) <= 2
    assert 0.03 < np.median(column["log"]) < 0.3
    assert 10 < np.median(column["whole_log"]) < 100
    assert all(isinstance(value, int) and 1 <= value <= 1000 for value in column["whole_log"])


def test_lists_alone_are_tried_without_repetition() -> None:
    asked = Search(trials=6, parameters={"a": (1, 2, 3), "b": (4, 5)})
    assert len({tuple(one.items()) for one in draw(asked, 0)}) == 6
    with pytest.raises(ValidationError, match="the lists have 6 combinations"):
        Search(trials=7, parameters=asked.parameters)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"low": 2, "high": 2}, "'low' must be below 'high'"),
        ({"low": 0, "high": 2, "log": True}, "above 0 with 'log'"),
        ({"low": 0.5, "high": 2, "integer": True}, "must be whole numbers"),
    ],
)
def test_a_range_that_cannot_be_is_refused(bounds: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Range.model_validate(bounds)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"random_state": [1, 2, 3, 4]}}, "are set by 'seed' and 'threads'"),
        ({"parameters": {"learning_rate": [1, 2, 3, 4]}}, "both given and searched for"),
        ({"parameters": {}}, "at least 1 item"),
        ({"parameters": {"max_iter": []}}, "at least 1 item"),
        ({"search": {"trials": 1}}, "greater than or equal to 2"),
        ({"search": {"folds": 1}}, "greater than or equal to 2"),
    ],
)
def test_a_section_that_cannot_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {"depth": [1, 2, 3, 4]}}, "has no depth that can be set here"),
        ({"parameters": {"warm_start": {"low": 0, "high": 1}}}, "has no warm_start"),
        ({"parameters": {"max_iter": [1, 2, 3, -4]}}, "'max_iter' parameter .* Got -4"),
        ({"parameters": {"max_iter": {"low": 1, "high": 9}}}, "'max_iter' parameter .* Got 1.0"),
        ({"parameters": {"max_leaf_nodes": {"low": 1, "high": 9, "integer": True}}}, "Got 1 inst"),
        ({"search": {"metric": "r2"}}, "must be one of average_precision, roc_auc, saving"),
        ({"search": {"metric": "saving"}}, "saving needs gates.costs"),
    ],
)
def test_what_the_estimator_would_refuse_is_refused_when_definitions_load(
    changes: dict, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        build_pipeline(spec(**changes))


def test_values_of_every_kind_of_estimator_are_accepted(allowed: Any) -> None:
    check_search(spec({"max_leaf_nodes": [None, 5, 9, 17]}))
    allowed("mlcicd_assets_tests.ml.own")
    own = spec().model_dump()
    own["training"] |= {"estimator": "RandomTreeRegressor", "parameters": {}}
    own["training"]["search"]["parameters"] = {"max_depth": [1, 2, 3, 4]}
    own["label"] |= {"target": "regression", "absent": "unknown"}
    own["features"]["windows"], own["gates"]["champion"]["metric"] = [], "r2"
    own["split"]["drop_known_positive"] = own["evaluation"]["entity_precision"] = None
    check_search(PipelineSpec.model_validate(own))


def test_folds_lie_in_time_with_the_labels_maturity_between() -> None:
    rows = frame().reverse()
    folds = module._folds(rows, spec(), 3)
    assert [late.height for _, late in folds] == [50, 50, 50]
    seen = pl.concat([late for _, late in folds])["transaction_id"].to_list()
    assert seen == list(range(150, 300))
    for early, late in folds:
        gap = late["tx_time"].min() - early["tx_time"].max()
        assert gap == timedelta(days=1)
        assert early["transaction_id"].min() == 0


def test_a_fold_without_a_class_says_what_to_do() -> None:
    rows = frame().with_columns(
        pl.when(pl.col("transaction_id") < 200).then(0).otherwise("label").alias("label")
    )
    one = spec()
    with pytest.raises(NotEnoughData, match=r"0 positives; .* lower its folds"):
        list(search(rows, one, one.training.search, {}))
    with pytest.raises(NotEnoughData, match="lower its folds"):
        list(search(frame(2), one, one.training.search, {}))


def test_scores_tell_a_good_trial_from_a_poor_one_and_are_the_same_again() -> None:
    found = tried(spec({"max_iter": [1, 30], "max_leaf_nodes": [2, 8]}))
    assert [trial.number for trial in found] == [0, 1, 2, 3]
    by = {(one.parameters["max_iter"], one.parameters["max_leaf_nodes"]): one for one in found}
    assert by[30, 8].score > by[1, 2].score + 0.01
    assert all(one.seconds > 0 for one in found)
    again = tried(spec({"max_iter": [1, 30], "max_leaf_nodes": [2, 8]}))
    assert [one.score for one in again] == [one.score for one in found]


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({"search": {"metric": "roc_auc"}}, 0.6, 1),
        ({"gates__champion": {"metric": "roc_auc"}}, 0.6, 1),
        (
            {
                "search": {"metric": "saving"},
                "gates__costs": {"false_positive": 1, "false_negative": 3},
            },
            0.01,
            0.9,
        ),
    ],
)
def test_the_metric_is_the_one_asked_for(
    changes: dict, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(**changes)
    wanted = module.search_metric(one)
    asked: list[str] = []
    honest = module._score
    monkeypatch.setattr(module, "_score", lambda *words: asked.append(words[-1]) or honest(*words))
    assert all(low < trial.score <= high for trial in tried(one))
    assert {*asked} == {wanted}
    assert wanted in {"roc_auc", "saving"}
    assert tried(spec())[0].score != tried(one)[0].score


def test_finished_trials_are_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tried(spec())
    made: list[int] = []
    honest = module._try
    monkeypatch.setattr(module, "_try", lambda *words: made.append(words[0]) or honest(*words))
    rest = tried(spec(), {one.number: one for one in whole[:3]})
    assert made == [3]
    assert [one.parameters for one in rest] == [one.parameters for one in whole]
    assert [one.score for one in rest] == [one.score for one in whole]
    # With all of them not even the rows are looked at.
    nothing = pl.DataFrame()
    one = spec()
    assert list(search(nothing, one, one.training.search, dict(enumerate(whole)))) == whole


def test_what_cannot_be_judged_is_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_score", lambda *_: math.nan)
    assert {one.score for one in tried(spec())} == {-math.inf}


def test_values_that_do_not_go_together_are_named() -> None:
    one = spec({"max_features": [0.1, 0.2, 0.3, 0.4]})
    empty = frame().with_columns(amount=pl.lit(None, dtype=pl.Float64))
    with pytest.raises(SpecError, match=r"cannot try \{'max_features': 0.\d\}: window shape"):
        list(search(empty, one, one.training.search, {}))


def test_the_chosen_spec_trains_with_what_was_chosen() -> None:
    one = chosen_spec(spec(), {"max_iter": 3})
    assert one.training.parameters == {"learning_rate": 0.2, "max_iter": 3}
    model = fit(frame(), one).pipeline.named_steps["model"]
    assert (model.max_iter, model.learning_rate) == (3, 0.2)
    assert PipelineSpec.model_validate(one.model_dump()) == one


def test_whatever_decides_a_search_is_part_of_the_training_key() -> None:
    variants = [
        spec(),
        spec(search={"trials": 5}),
        spec(search={"folds": 4}),
        spec({"max_iter": [1, 30, 31, 32]}),
        spec(gates__champion={"metric": "roc_auc"}),
        spec(search={"metric": "roc_auc"}),
        chosen_spec(spec(), {}),
    ]
    assert len({training_key(frame(), one) for one in variants}) == len(variants)


def test_a_key_from_before_there_was_a_search_stays_known(monkeypatch: pytest.MonkeyPatch) -> None:
    one = chosen_spec(spec(), {})
    before = one.training.model_dump(mode="json", exclude={"search"})
    key = training_key(frame(), one)
    monkeypatch.setattr(type(one.training), "model_dump", lambda *_, **__: {**before, "search": 0})
    assert training_key(frame(), one) == key
