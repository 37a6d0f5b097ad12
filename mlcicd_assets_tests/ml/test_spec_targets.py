"""What a spec may say of each target, which labels it takes, and floors of errors."""

import math
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from mlcicd_assets.ml.contract import check_rules, label_schema, label_types
from mlcicd_assets.ml.errors import DataError, SpecError
from mlcicd_assets.ml.features import check_features, compute_features
from mlcicd_assets.ml.model_gates import metric_floors_gate
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.ml.scoreds import START
from mlcicd_assets_tests.ml.specs import small_spec
from mlcicd_assets_tests.target_models import CLASSES, machine_spec

NAN = math.nan
SEVERAL = {"column": "state", "target": "multiclass"}
NUMBER = {"column": "hours", "target": "regression"}


def gates(**changes: Any) -> dict[str, Any]:
    return {"gates": {"floors": {"rows": 1}, **changes}}


@pytest.mark.parametrize(
    ("target", "changes", "message"),
    [
        ("multiclass", {"label": SEVERAL}, "'classes' goes with target multiclass: give both"),
        ("regression", {"label": {**NUMBER, "classes": CLASSES}}, "give both or neither"),
        ("multiclass", {"label": {"column": "state", "classes": CLASSES}}, "give both or neither"),
        ("multiclass", {"label": {**SEVERAL, "classes": ["a", "b"]}}, "three or more different"),
        ("multiclass", {"label": {**SEVERAL, "classes": [*"abca"]}}, "three or more different"),
        ("multiclass", {"label": {**SEVERAL, "classes": ["a", "b", 3]}}, "all texts or all whole"),
        ("multiclass", {"label": {**SEVERAL, "classes": [1, 2, 3.5]}}, "valid integer"),
        ("regression", {"label": {**NUMBER, "absent": "negative"}}, "is for a binary target"),
        ("regression", {"training": {"estimator": "LogisticRegression"}}, "serve a regression"),
        ("multiclass", {"training": {"estimator": "Ridge"}}, "cannot serve a multiclass target"),
        ("multiclass", gates(champion={"metric": "r2"}), "'r2' is not one of roc_auc, accuracy, b"),
        ("multiclass", gates(champion={"metric": "saving"}), "'saving' is not one of roc_auc"),
        ("regression", gates(champion={"metric": "rmse"}), "'rmse' is not one of r2 "),
        ("regression", gates(costs={"false_positive": 1, "false_negative": 1}), "gates.costs: onl"),
        ("regression", gates(fairness={"group": "shop", "metric": "recall"}), "fairness.metric: o"),
        (
            "multiclass",
            {"split": {"holdout_days": 9, "drop_known_positive": "shop"}},
            "split.drop_known_positive: only a binary target has it; remove it",
        ),
        (
            "regression",
            {"evaluation": {"entity_precision": {"entity": "shop", "k": 9}}},
            "evaluation.entity_precision: only a binary",
        ),
        (
            "regression",
            {
                "features": {
                    "windows": [
                        {"entity": "shop", "days": [1], "stats": ["label_rate"], "delay_days": 1}
                    ]
                }
            },
            "the windows' label_rate: only a binary",
        ),
    ],
)
def test_what_a_target_cannot_have_is_refused(
    target: str, changes: dict[str, Any], message: str
) -> None:
    check_features(machine_spec(target))
    with pytest.raises(ValidationError, match=message.replace(".", r"\.")):
        machine_spec(target, **changes)


@pytest.mark.parametrize(
    ("target", "of"), [("multiclass", None), ("multiclass", "gone"), ("regression", "fine")]
)
def test_a_golden_case_names_a_class_exactly_where_there_are_some(target: str, of: Any) -> None:
    case = {"name": "one", "row": {"load": 1.0}, "of": of, "at_most": 1}
    with pytest.raises(SpecError, match="golden case 'one': 'of' must be one of"):
        check_features(machine_spec(target, **gates(golden_set=[case])))


def own_labels(target: str, column: str, classes: list[Any]) -> PipelineSpec:
    """Labels in a table of their own."""
    columns = {"id": {"type": "integer"}, "at": {"type": "timestamp"}}
    label = {"target": target, "column": column, "classes": classes}
    estimator = "Ridge" if target == "regression" else "LogisticRegression"
    return small_spec(columns, label=label, training={"estimator": estimator})


TEXTS = own_labels("multiclass", "state", CLASSES)
CODES = own_labels("multiclass", "state", [3, 5, 9])
HOURS = own_labels("regression", "hours", [])


@pytest.mark.parametrize(
    ("spec", "types"),
    [(TEXTS, ("string",)), (CODES, ("integer",)), (HOURS, ("number", "integer"))],
)
def test_a_label_has_the_type_of_its_target(spec: PipelineSpec, types: tuple[str, ...]) -> None:
    assert label_types(spec.label) == types
    check_rules(spec)
    arrow = {"string": "string", "integer": "int64", "number": "double"}[types[0]]
    assert str(label_schema(spec).field(spec.label.column).type) == arrow
    for kind in ("string", "integer", "number", "boolean", "timestamp"):
        columns = {"id": {"type": "integer"}, "at": {"type": "timestamp"}}
        columns |= {spec.label.column: {"type": kind}}
        inside = {**spec.label.model_dump(), "source": None}
        training = spec.training.model_dump()
        column = small_spec(columns, label=inside, training=training)
        if kind in types:
            check_rules(column)
        else:
            with pytest.raises(SpecError, match=f"is a {kind}: with target {spec.label.target}"):
                check_rules(column)


def told(spec: PipelineSpec, *labels: Any) -> pl.DataFrame:
    """Features of one event for each label, and of one that has none."""
    hours = [START + timedelta(hours=n) for n in range(len(labels) + 1)]
    events = pl.LazyFrame({"id": range(len(hours)), "at": hours})
    known = pl.LazyFrame(
        {"id": range(len(labels)), spec.label.column: labels, "known_at": hours[1:]}, strict=False
    )
    return compute_features(events, known, spec)


def test_labels_of_their_own_become_indices_and_numbers() -> None:
    for spec, labels, made in (
        (TEXTS, ("broken", "fine", None), [2, 0, None, None]),
        (CODES, (5, 9, 3), [1, 2, 0, None]),
        (HOURS, (1, -2.5, None), [1, -2.5, None, None]),
    ):
        column = told(spec, *labels)["label"]
        assert column.to_list() == made
        assert column.dtype == (pl.Float64 if spec is HOURS else pl.Int16)


@pytest.mark.parametrize(
    ("spec", "labels", "message"),
    [
        (TEXTS, ("fine", "gone"), "'state' has a value that is not in label.classes"),
        (TEXTS, ("fine", ""), "'state' has a value that is not in label.classes"),
        (CODES, (3, 4), "'state' has a value that is not in label.classes"),
        (HOURS, (1.0, NAN), "'hours' has labels that are not finite"),
        (HOURS, (1.0, math.inf), "'hours' has labels that are not finite"),
    ],
)
def test_a_label_that_cannot_be_is_an_error(spec: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        told(spec, *labels)


@pytest.mark.parametrize(
    ("name", "value", "floor", "passed"),
    [
        *[("rmse", 100.0, floor, floor >= 100) for floor in (120, 100, 99.9, 80)],
        *[("bias", value, 0.6, abs(value) < 0.6) for value in (0.5, -0.5, 0.7, -0.7)],
        *[(name, NAN, 9.0, False) for name in ("rmse", "log_loss", "r2")],
        *[(name, 0.5, 0.6, True) for name in ("log_loss", "mae", "brier", "ece")],
        *[(name, 0.5, 0.4, False) for name in ("log_loss", "mae", "brier", "ece")],
        *[(name, 0.5, 0.4, True) for name in ("r2", "accuracy", "macro_f1")],
        *[(name, 0.5, 0.6, False) for name in ("r2", "accuracy", "macro_f1")],
    ],
)
def test_an_error_has_a_ceiling(name: str, value: float, floor: float, passed: bool) -> None:
    policy = Gates(floors={name: floor})
    verdict = metric_floors_gate({name: value}, rows=9, subject="b" * 64, gates=policy)
    is_error = name in {"rmse", "log_loss", "mae", "brier", "ece", "bias"}
    assert verdict.passed is passed
    assert verdict.threshold == f"{name} {'<=' if is_error else '>='} {floor:g}"
    assert verdict.detail == ("" if passed else f"{name} misses its floor, or is undefined")
