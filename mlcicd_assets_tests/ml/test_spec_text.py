"""Reading a defs.yaml without Dagster: what is wrong is said with file and field."""

from typing import Any

import pytest
import yaml

from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.spec_text import parse_spec
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.small_model import attributes, small_spec


def text(**changes: Any) -> str:
    component = "mlcicd_assets.components.ModelPipeline"
    return yaml.safe_dump({"type": component, "attributes": attributes(**changes)})


def test_what_is_right_is_the_spec_that_dagster_loads() -> None:
    assert parse_spec(text(), "x") == small_spec()
    shipped = ROOT / "mlcicd_assets/defs/card_fraud/defs.yaml"
    assert parse_spec(shipped.read_text(), str(shipped)).name == "card_fraud"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("a: [", "not one YAML document"),
        ("type: x\n---\ntype: y", "not one YAML document"),
        ("", "must have 'type:"),
        ("type: x", "must have 'type:"),
        ("type: x\nattributes: {}\nmore: 1", "nothing else"),
        ("type: x\nattributes:", "attributes: Input should be"),
        (text(training__seed="many"), "attributes.training.seed: Input should be a valid integer"),
        (text(gates__flors={}), "attributes.gates.flors: Extra inputs"),
        (text(key=["nothing"]), "key names column 'nothing'"),
        (text(contract__rules=[{"name": "odd", "check": "amount <=> ("}]), "'odd' cannot be read"),
        (text(features__columns=["tx_time"]), "'tx_time' is a time"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_field(wrong: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(wrong, "models/a/defs.yaml")
    assert str(caught.value).startswith("models/a/defs.yaml")
    assert words in str(caught.value)
