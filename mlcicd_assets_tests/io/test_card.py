"""The card: complete, truthful about releases, and never in the way of one."""

import json
from pathlib import Path

import numpy as np
import pytest

from mlcicd_assets.io import interventions, smoke
from mlcicd_assets.io.card import RELEASE, card_path, changelog
from mlcicd_assets.io.interventions import approve, override
from mlcicd_assets.io.provenance import code_state
from mlcicd_assets.io.rollback import rollback
from mlcicd_assets.ml.errors import SmokeTestFailed
from mlcicd_assets.ml.gates import GATES as ALL_GATES
from mlcicd_assets_tests.io.scene import ASKS, Crash, Scene, crash, pass_every_gate, report
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.small_model import (
    attributes,
    deliver_days,
    metadata,
    run_job,
    small_spec,
)


def card(scene: Scene, digest: str) -> str:
    return card_path(scene.settings.releases, MODEL, digest).read_text()


@pytest.mark.ci
def test_the_pipeline_writes_a_card_and_shows_it(server: str) -> None:
    deliver_days()
    weak = {
        "training__parameters": {"max_iter": 1, "max_leaf_nodes": 2},
        "gates__floors": {"roc_auc": 0.5},
    }
    assert run_job(small_spec(**weak)).success
    windows = attributes()["features"]["windows"]
    windows[0]["days"] = [7, 30]
    good = small_spec(gates__floors={"roc_auc": 0.5}, features__windows=windows)
    result = run_job(good)
    assert result.success
    shown, endpoint = metadata(result, "evaluation_report"), metadata(result, "deployed_endpoint")
    assert endpoint["outcome"] == "released", endpoint["reason"]
    path = Path(endpoint["card"])
    text = path.read_text()
    assert path.name == f"{endpoint['live_digest']}.card.md"
    before, release = text.split(RELEASE)
    assert before == shown["card"]
    assert "release begun v2" in release
    assert release.endswith("in place of v1\n")
    line = endpoint["changelog"]
    assert f"\n> {line}\n" in text
    assert line.startswith("v2 against v1: average_precision 0.")
    assert "new inputs: customer_id_count_30d, customer_id_mean_amount_30d; inputs gone: " in line
    assert line.endswith("customer_id_count_1d, customer_id_mean_amount_1d")
    for words in (
        *("Probability that a card", "team:fraud", "HistGradientBoostingClassifier", "seed 7"),
        *(code_state().commit, endpoint["live_digest"], "raw@v", "labels@v", "lake/features/"),
        *(f"| {name} | True |" for name, gate in ALL_GATES.items() if gate.is_on(good.gates)),
        *(
            "Gates not asked for: golden_set, fairness",
            "provisional metrics",
            "| provisional_rows |",
        ),
    ):
        assert words in text, words
    auc = next(row for row in text.splitlines() if row.startswith("| roc_auc |"))
    _, _, ours, interval, theirs, _ = (cell.strip() for cell in auc.split("|"))
    assert float(ours) == pytest.approx(shown["roc_auc"], abs=1e-4)
    assert interval.split(" to ")[0] < ours < interval.split(" to ")[1]
    assert 0.4 < float(theirs) < float(ours)
    for name in ("metrics", "importance", "flipped_decisions"):
        assert 100 < len(shown[name]) < 1_000
        assert shown[name] in text
    assert "| all rows |" in shown["flipped_decisions"]
    assert "| terminal_id_label_rate_7d | 0." in shown["importance"]
    again = run_job(good, only="evaluation_report")
    assert metadata(again, "evaluation_report")["card"] == text
    assert path.read_text() == text, "what is live keeps the card of its release"


def released_lines(scene: Scene, digest: str) -> list[str]:
    return card(scene, digest).partition(RELEASE)[2].splitlines()


def test_a_release_names_who_approved_and_who_overrode(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlcicd_assets.io.delivery.commit_author", lambda: "ann@example.org")
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made, fails="metric_floors", gates=ASKS)
    why = "known |\n## Release\n\n- nothing"
    booked = override(scene.settings, scene.ledger, MODEL, "metric_floors", reason=why, days=1)
    for change in ({"expires": "2026-01-01T00:00:00+00:00"}, {"subject": "f" * 64}):
        body = {**booked.body, **change, "reason": "not this one"}
        scene.ledger.append(kind="override", model=MODEL, body=body, run_id="r")
    scene.ledger.append(kind="override", model="other", body=booked.body, run_id="r")
    assert scene.deliver(made, gates=ASKS) == "awaiting"
    assert not card_path(scene.settings.releases, MODEL, made.candidate.digest).exists()
    for reason in ("not this one", "looks fine"):
        say_yes(scene, monkeypatch, reason=reason)
    assert scene.deliver(made, gates=ASKS) == "released"
    told = released_lines(scene, made.candidate.digest)
    assert len(told) == 3
    assert "release begun v1" in told[0]
    assert told[0].endswith("first release: the floors decide; in place of nothing")
    assert "override of gate metric_floors until" in told[1]
    assert told[1].endswith("known \\| ## Release - nothing")
    assert "(test, unauthenticated) v1 by bob: looks fine" in told[2]


def say_yes(scene: Scene, monkeypatch: pytest.MonkeyPatch, *, reason: str) -> None:
    monkeypatch.setattr(interventions, "require_operator", lambda _: "bob")
    approve(scene.settings, scene.ledger, MODEL, 1, reason=reason, days=7, how="test")


def test_a_crash_after_the_card_adds_no_second_line(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)

    with pytest.raises(Crash):
        scene.deliver(made, mark=crash)
    before = card(scene, made.candidate.digest)
    assert scene.deliver(made) == "kept"
    assert card(scene, made.candidate.digest) == before
    assert len(released_lines(scene, made.candidate.digest)) == 1


def test_a_failed_release_is_none_on_the_card(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    monkeypatch.setattr(smoke, "score_rows", lambda *_, **__: np.array([np.nan]))
    with pytest.raises(SmokeTestFailed):
        scene.deliver(made)
    assert not card_path(scene.settings.releases, MODEL, made.candidate.digest).exists()
    told = json.loads((scene.settings.home / "alerts.jsonl").read_text())
    assert told["title"].startswith("release failed: ")
    assert told["reason"].startswith("v1: release failed: ")
    assert told["reason"].endswith("Live: nothing yet")


def test_a_rollback_is_told_on_the_card_of_what_comes_back(scene: Scene) -> None:
    first = scene.released(1, 1)
    path = card_path(scene.settings.releases, MODEL, first.digest)
    path.write_bytes(b"# by hand \xff\n\n> v1 is mine\n" + path.read_bytes())
    scene.released(2, 2, champion=first)
    settings, ledger = scene.settings, scene.ledger
    rollback(settings, ledger, MODEL, to=None, reason="bad", mark_champion=lambda *_: None)
    told = released_lines(scene, first.digest)
    assert len(told) == 2
    assert "rollback begun v1" in told[1]
    assert told[1].endswith("bad; in place of v2")
    assert changelog(path) == "v1 is mine"
    assert changelog(path.with_name("none")) == "there is no card"
