"""The generated pages say what the code says; run this module to write them again."""

import re
import typing
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from mlcicd_assets.ml.data_gates import DATA_GATES
from mlcicd_assets.ml.gate import Gate
from mlcicd_assets.ml.model_gates import MODEL_GATES
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.conftest import ROOT

DEFAULT = Gates(floors={"roc_auc": 0.5})
HEAD = """# Gates

Every gate is a blocking check of its asset and a verdict in the ledger; the endpoint releases only
a bundle for which each gate that the policy asks for has passed. What each setting means stands in
`mlcicd_assets/ml/policy.py`; `make selftest` shows which planted fault each gate alone stops.
"""
REFERENCE_HEAD = """# Reference of defs.yaml

`type: mlcicd_assets.components.ModelPipeline`, and below `attributes:` these sections. Unknown
fields are mistakes. Nothing in it depends on the environment: templates such as `{{ env.X }}` are
refused. `mlcicd new` writes one from your data, `mlcicd try` runs it on a sample.
"""


def gates_page() -> str:
    lines = [HEAD]
    for asset, gates in (("validated_features", DATA_GATES), ("evaluation_report", MODEL_GATES)):
        lines += [f"\n## On `{asset}`\n", "| gate | promise | when it fails |", "|---|---|---|"]
        lines += [
            f"| `{gate.name}`{_off(gate)} | {gate.promise} | {gate.remedy} |" for gate in gates
        ]
    return "\n".join(lines) + "\n"


def _off(gate: Gate) -> str:
    return "" if gate.is_on(DEFAULT) else " (off unless asked for)"


def reference_page() -> str:
    """Every field of a defs.yaml, section by section, from the schema that reads it."""
    lines = [REFERENCE_HEAD]
    for path, section in _sections("", PipelineSpec):
        told = " ".join((section.__doc__ or "").split("\n\n")[0].split())
        lines += [f"\n## {path or 'attributes'}\n", told, "", "| field | what | default |"]
        lines += ["|---|---|---|", *(_row(name, section) for name in section.model_fields)]
    return "\n".join(lines) + "\n"


def _sections(path: str, section: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    found = [(path, section)]
    for name, field in section.model_fields.items():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                many = typing.get_origin(field.annotation) in {tuple, dict}
                found += _sections(f"{path}{'.' if path else ''}{name}{'[]' if many else ''}", part)
    return found


def _parts(annotation: Any) -> list[Any]:
    return [annotation, *(p for a in typing.get_args(annotation) for p in _parts(a))]


def _row(name: str, section: type[BaseModel]) -> str:
    field = section.model_fields[name]
    assert field.description, f"{section.__name__}.{name} has no description"
    value = field.get_default(call_default_factory=True)
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    words = [part for part in _parts(field.annotation) if typing.get_origin(part) is typing.Literal]
    choice = f" One of {', '.join(map(str, typing.get_args(words[0])))}." if words else ""
    default = "**required**" if field.is_required() else _default(plain)
    return f"| `{name}` | {field.description}{choice} | {default} |"


def _default(value: Any) -> str:
    if isinstance(value, dict):
        return "see below" if value else "none"
    return "none" if value in (None, ()) else f"`{value}`"


PAGES = {"gates.md": gates_page, "reference.md": reference_page}


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == PAGES[name]()


def test_the_policy_in_the_tutorial_is_one() -> None:
    text = (ROOT / "docs" / "add_a_model.md").read_text()
    (example,) = re.findall(r"```yaml\n(gates:.*?)```", text, re.DOTALL)
    gates = Gates.model_validate(yaml.safe_load(example)["gates"])
    assert all(gate.is_on(gates) for gate in MODEL_GATES if gate.name != "calibration")


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_test_that_the_list_of_faults_names_exists() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    named = re.findall(r"`([a-z0-9_/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 50
    for file, test in named:
        text = (ROOT / "mlcicd_assets_tests" / file).read_text()
        assert not test or f"\ndef {test}(" in text, f"{file}::{test}"


if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page())
