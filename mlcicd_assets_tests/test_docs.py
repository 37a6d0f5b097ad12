"""The page of gates says what the code says; run this module to write the page again."""

import re

import yaml

from mlcicd_assets.ml.data_gates import DATA_GATES
from mlcicd_assets.ml.gate import Gate
from mlcicd_assets.ml.model_gates import MODEL_GATES
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets_tests.conftest import ROOT

PAGE = ROOT / "docs" / "gates.md"
DEFAULT = Gates(floors={"roc_auc": 0.5})
HEAD = """# Gates

Every gate is a blocking check of its asset and a verdict in the ledger; the endpoint releases only
a bundle for which each gate that the policy asks for has passed. What each setting means stands in
`mlcicd_assets/ml/policy.py`; `make selftest` shows which planted fault each gate alone stops.
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


def test_the_page_of_gates_is_what_the_code_says() -> None:
    assert PAGE.read_text() == gates_page()


def test_the_policy_in_the_tutorial_is_one() -> None:
    text = (ROOT / "docs" / "add_a_model.md").read_text()
    (example,) = re.findall(r"```yaml\n(gates:.*?)```", text, re.DOTALL)
    gates = Gates.model_validate(yaml.safe_load(example)["gates"])
    assert all(gate.is_on(gates) for gate in MODEL_GATES if gate.name != "calibration")


def test_every_link_in_the_docs_leads_somewhere() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


if __name__ == "__main__":
    PAGE.write_text(gates_page())
