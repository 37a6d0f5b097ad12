"""Evidence: the script in docs checks it without our code, and names what was changed."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.evidence import evidence
from mlcicd_assets.io.interventions import freeze, override
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.ml.errors import GateBlocked, ReleaseError
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.io.scene import GATES, REQUIRED, Scene, pass_every_gate, report
from mlcicd_assets_tests.io.tiny import MODEL

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def scene(server: str) -> Scene:
    scene = Scene(server)
    scene.ledger.record_policy(MODEL, GATES, run_id="r")
    return scene


def check(scene: Scene, bundle: Bundle, told: dict[str, Any]) -> tuple[int, str]:
    """Run the script of the docs in a Python that finds none of our packages."""
    path = scene.settings.home / "evidence.json"
    path.write_text(json.dumps(told))
    script = ROOT / "docs" / "check_evidence.py"
    folder = bundle_folder(scene.settings.releases, MODEL, bundle.digest)
    words = [sys.executable, "-I", "-S", str(script), str(path), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def exported(scene: Scene, version: int = 1) -> dict[str, Any]:
    return json.loads(json.dumps(evidence(scene.settings, scene.ledger, MODEL, version)))


def forge(told: dict[str, Any], find: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a row's body, as text, in a verdict of the gate named."""
    for row in told["ledger"]:
        body = json.loads(row["body"])
        if body.get("gate") == find:
            change(body)
            row["body"] = json.dumps(body, sort_keys=True, separators=(",", ":"))


def test_real_evidence_holds_and_has_the_shapes_it_names(scene: Scene) -> None:
    freeze(scene.settings, scene.ledger, MODEL, reason="of no concern", days=0)
    first = scene.released(1, 1)
    second = scene.released(2, 2, champion=first)
    told = exported(scene, 2)
    assert check(scene, second, told) == (0, "evidence holds: PASSED\n")
    assert [one["_type"] for one in told["statements"]] == ["https://in-toto.io/Statement/v1"] * 3
    digests = [one["subject"][0]["digest"] for one in told["statements"]]
    assert digests == [{"sha256": second.digest}] * 3
    verdicts, summary, provenance = (one["predicate"] for one in told["statements"])
    assert sorted(one["gate"] for one in verdicts["required"]) == REQUIRED
    assert summary["verificationResult"] == "PASSED"
    assert len(summary["inputAttestations"]) == len(REQUIRED)
    named = [one["name"] for one in provenance["buildDefinition"]["resolvedDependencies"]]
    assert named == ["raw", "features", "events", "source", "dependencies"]
    head = scene.ledger.entries(kinds=("intent",))[-1]
    assert told["head"] == {"ledger_seq": head.seq, "ledger_hash": head.hash}
    # The earlier release's evidence does not depend on the later one.
    assert check(scene, first, exported(scene, 1)) == (0, "evidence holds: PASSED\n")


def edit_statement(told: dict[str, Any]) -> None:
    told["statements"][0]["predicate"]["rests_on"][0]["observed"] = "better"


def other_policy(told: dict[str, Any]) -> None:
    told["policy"] = told["policy"].replace("0.5", "0.4")


def other_subject(told: dict[str, Any]) -> None:
    told["statements"][1]["subject"][0]["digest"]["sha256"] = "0" * 64


def later(told: dict[str, Any]) -> None:
    told["statements"][1]["predicate"]["timeVerified"] = "2020-01-01T00:00:00+00:00"


def one_gate_more(told: dict[str, Any]) -> None:
    required = told["statements"][0]["predicate"]["required"]
    required.append({**required[0], "gate": "never_run"})


def one_gate_less(told: dict[str, Any]) -> None:
    told["statements"][0]["predicate"]["required"].pop()


def another_version(told: dict[str, Any]) -> None:
    told["statements"][0]["predicate"]["required"][0]["gate_version"] = 99


def other_head(told: dict[str, Any]) -> None:
    told["head"]["ledger_hash"] = "0" * 64


def forged_verdict(told: dict[str, Any]) -> None:
    forge(told, "contract", lambda body: body.update(observed="2"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (forged_verdict, "hash of entry 2, copy of entry 2"),
        (lambda told: told["ledger"].pop(2), "link to entry 5, copy of entry 4, gate"),
        (lambda told: told["ledger"][1].update(at="2020"), "hash of entry 3"),
        (lambda told: told["ledger"][1].update(prev_hash="0" * 64), "hash of entry 3, link to en"),
        (edit_statement, "copy of entry 2"),
        (other_policy, "policy"),
        (other_subject, "bundle"),
        (later, "decision"),
        (one_gate_more, "required, gate never_run"),
        (another_version, "required, gate contract"),
        (one_gate_less, "required"),
        (other_head, "head"),
    ],
)
def test_each_kind_of_change_is_named(change: Change, named: str, scene: Scene) -> None:
    bundle = scene.released(1, 1)
    told = exported(scene)
    change(told)
    code, text = check(scene, bundle, told)
    assert code == 1
    assert f"evidence does not hold: {named}" in text


def test_a_changed_bundle_file_is_named(scene: Scene) -> None:
    bundle = scene.released(1, 1)
    told = exported(scene)
    folder = bundle_folder(scene.settings.releases, MODEL, bundle.digest)
    with (folder / "model.json").open("a") as file:
        file.write(" ")
    assert check(scene, bundle, told) == (1, "evidence does not hold: bundle\n")


def test_an_override_is_named_and_a_release_without_it_does_not_hold(scene: Scene) -> None:
    bundle = scene.bundle(1)
    made = report(bundle, 1)
    pass_every_gate(scene.ledger, made)
    (failed,) = (
        entry.body
        for entry in scene.ledger.entries(kinds=("verdict",))
        if entry.body["gate"] == "metric_floors"
    )
    scene.ledger.append(kind="verdict", model=MODEL, body={**failed, "passed": False}, run_id="r")
    with pytest.raises(GateBlocked):
        scene.deliver(made)
    blocked = exported(scene)
    assert check(scene, bundle, blocked) == (0, "evidence holds: FAILED\n")
    blocked["statements"][1]["predicate"]["verificationResult"] = "PASSED"
    assert check(scene, bundle, blocked) == (1, "evidence does not hold: decision\n")
    override(scene.settings, scene.ledger, MODEL, "metric_floors", reason="known", days=1)
    assert scene.deliver(made) == "released"
    code, text = check(scene, bundle, told := exported(scene))
    assert code == 0
    assert "gate metric_floors was overridden by " in text
    assert ": known\nevidence holds: PASSED" in text
    for row in told["ledger"]:
        row["kind"] = "freeze" if row["kind"] == "override" else row["kind"]
    assert "gate metric_floors" in check(scene, bundle, told)[1]


def test_a_release_whose_policy_nobody_can_read_has_no_evidence(server: str) -> None:
    scene = Scene(server)
    scene.released(1, 1)
    with pytest.raises(ReleaseError, match="does not hold the policy"):
        evidence(scene.settings, scene.ledger, MODEL, 1)
    with pytest.raises(ReleaseError, match="about v7, only about: v1"):
        evidence(scene.settings, scene.ledger, MODEL, 7)
