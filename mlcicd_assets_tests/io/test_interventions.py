"""What people do to a release: approve, override, freeze; each bound and each booked."""

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from mlcicd_assets.io import decisions, interventions
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.interventions import approve, freeze, override, write_approval_file
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import (
    GateBlocked,
    NotAllowed,
    ReleaseError,
    SettingsError,
)
from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.model_gates import NOT_WORSE, champion_gate
from mlcicd_assets.ml.policy import Approval, Gates
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets_tests.io.scene import (
    ASKS,
    GATES,
    Scene,
    offline,
    pass_every_gate,
    report,
    roll_back,
)
from mlcicd_assets_tests.io.tiny import MODEL

FLOORS = "metric_floors"
WORSE = Comparison("average_precision", 0.3, 0.4, -0.1, -0.15, -0.05, 100, 50)
EQUAL = replace(WORSE, lower_90=-0.05, upper_95=0.05)
ASKS_GIT = Gates(floors={"roc_auc": 0.5}, approval=Approval())


# --- freeze


def test_a_freeze_keeps_what_is_live_until_it_is_lifted(scene: Scene) -> None:
    first = scene.released(1, 1)
    freeze(scene.settings, scene.ledger, MODEL, reason="audit week", days=7)
    better = report(scene.bundle(2), 2, champion=first)
    pass_every_gate(scene.ledger, better)
    assert scene.deliver(better) == "kept"
    assert "frozen until" in scene.ledger.last_outcome(MODEL).body["reason"]
    assert "audit week" in scene.ledger.last_outcome(MODEL).body["reason"]
    assert scene.served() == 1
    freeze(scene.settings, scene.ledger, MODEL, reason="audit is over", days=0)
    assert scene.deliver(better) == "released"


def test_a_freeze_before_the_first_release_keeps_nothing_live(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    freeze(scene.settings, scene.ledger, MODEL, reason="not yet", days=1)
    assert scene.deliver(made) == "kept"
    assert scene.served() is None


# --- override


def test_an_override_lets_exactly_what_was_judged_pass(scene: Scene) -> None:
    made, other = report(scene.bundle(1), 1), report(scene.bundle(2), 2)
    pass_every_gate(scene.ledger, made, fails=FLOORS)
    with pytest.raises(GateBlocked, match=FLOORS):
        scene.deliver(made)
    override(scene.settings, scene.ledger, MODEL, FLOORS, reason="known", days=1)
    pass_every_gate(scene.ledger, other, fails=FLOORS)
    with pytest.raises(GateBlocked, match=FLOORS):
        scene.deliver(other)
    assert scene.deliver(made) == "released"


def test_an_override_ends_with_the_policy(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made, fails=FLOORS)
    override(scene.settings, scene.ledger, MODEL, FLOORS, reason="known", days=1)
    stricter = GATES.model_copy(update={"floors": {"roc_auc": 0.9}})
    pass_every_gate(scene.ledger, made, fails=FLOORS, gates=stricter)
    with pytest.raises(GateBlocked, match=FLOORS):
        scene.deliver(made, gates=stricter)


def test_an_override_ends(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made, fails=FLOORS)
    override(scene.settings, scene.ledger, MODEL, FLOORS, reason="known", days=0)
    with pytest.raises(GateBlocked, match=FLOORS):
        scene.deliver(made)


@pytest.mark.parametrize("gate", ["contract", "no_such_gate"])
def test_only_a_failed_verdict_can_be_overridden(gate: str, scene: Scene) -> None:
    pass_every_gate(scene.ledger, report(scene.bundle(1), 1))
    with pytest.raises(ReleaseError, match="no failed verdict"):
        override(scene.settings, scene.ledger, MODEL, gate, reason="known", days=1)


def compared(
    scene: Scene, version: int, champion: Bundle, result: Comparison | None = WORSE, fails: str = ""
) -> ReportRef:
    """Return a candidate that passed the other gates and had that comparison."""
    made = report(scene.bundle(version), version, champion)
    pass_every_gate(scene.ledger, made, leave_out=NOT_WORSE.name, fails=fails)
    digest, subject = champion.digest, made.candidate.digest
    said = champion_gate(result, gates=GATES, subject=subject, champion_digest=digest)
    scene.ledger.record_verdict(MODEL, said, run_id="r")
    return made


def overridden(scene: Scene, gate: str = NOT_WORSE.name) -> str:
    said = override(scene.settings, scene.ledger, MODEL, gate, reason="a new label", days=1)
    return said.body["by"]


@pytest.mark.parametrize("result", [WORSE, None])
def test_an_overridden_comparison_releases_once(result: Comparison | None, scene: Scene) -> None:
    made = compared(scene, 2, scene.released(1, 1), result)
    with pytest.raises(GateBlocked, match="not_worse_than_champion"):
        scene.deliver(made)
    by = overridden(scene)
    assert scene.deliver(made) == "released"
    assert scene.ledger.last_outcome(MODEL).body["reason"] == f"{by} overrode the comparison"
    assert scene.served() == 2
    assert scene.deliver(made) == "kept"


def test_an_override_releases_nothing_once_the_comparison_passes(scene: Scene) -> None:
    first = scene.released(1, 1)
    compared(scene, 2, first)
    overridden(scene)
    assert scene.deliver(compared(scene, 2, first, EQUAL)) == "kept"
    assert "not shown to be better" in scene.ledger.last_outcome(MODEL).body["reason"]


def test_a_new_champion_ends_the_override_of_the_comparison_alone(scene: Scene) -> None:
    first = scene.released(1, 1)
    compared(scene, 2, first, fails=FLOORS)
    overridden(scene, FLOORS)
    overridden(scene)
    again = compared(scene, 2, scene.released(3, 3, champion=first), fails=FLOORS)
    with pytest.raises(GateBlocked, match=r"blocked: gate 'not_worse_.* doubt and margin\)$"):
        scene.deliver(again)
    assert scene.served() == 3
    overridden(scene)
    assert scene.deliver(again) == "released"


def test_an_overridden_comparison_obeys_a_rollback_and_a_freeze(scene: Scene) -> None:
    first = scene.released(1, 1)
    scene.released(2, 2, champion=first)
    roll_back(scene)
    withdrawn = compared(scene, 2, first)
    overridden(scene)
    assert scene.deliver(withdrawn) == "kept"
    assert "was rolled back by" in scene.ledger.last_outcome(MODEL).body["reason"]
    third = compared(scene, 3, first)
    overridden(scene)
    freeze(scene.settings, scene.ledger, MODEL, reason="audit week", days=7)
    assert scene.deliver(third) == "kept"
    assert "frozen until" in scene.ledger.last_outcome(MODEL).body["reason"]
    assert scene.served() == 1


# --- approval


@pytest.fixture
def awaiting(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> ReportRef:
    monkeypatch.setattr("mlcicd_assets.io.delivery.commit_author", lambda: "ann@example.org")
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made, gates=ASKS)
    assert scene.deliver(made, gates=ASKS) == "awaiting"
    return made


def say_yes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, *, by: str = "bob", days: int = 7
) -> None:
    monkeypatch.setattr(interventions, "require_operator", lambda _: by)
    approve(scene.settings, scene.ledger, MODEL, 1, reason="fine", days=days, how="test")


def test_nothing_goes_live_until_someone_else_says_yes(
    scene: Scene, awaiting: ReportRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scene.served() is None
    assert "ann@example.org" in scene.ledger.last_outcome(MODEL).body["reason"]
    say_yes(scene, monkeypatch, by="ann")
    assert scene.deliver(awaiting, gates=ASKS) == "awaiting"
    say_yes(scene, monkeypatch, by="bob")
    assert scene.deliver(awaiting, gates=ASKS) == "released"
    (approval,) = scene.ledger.entries(kinds=("approval",))[-1:]
    intent = scene.ledger.entries(kinds=("intent",))[-1]
    assert intent.body["approval_seq"] == approval.seq


def test_an_approval_ends(
    scene: Scene, awaiting: ReportRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_yes(scene, monkeypatch, days=0)
    assert scene.deliver(awaiting, gates=ASKS) == "awaiting"


def test_the_author_stays_the_one_who_brought_it_up_first(
    scene: Scene, awaiting: ReportRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlcicd_assets.io.delivery.commit_author", lambda: "bob@example.org")
    say_yes(scene, monkeypatch, by="ann@example.org")
    assert scene.deliver(awaiting, gates=ASKS) == "awaiting"
    say_yes(scene, monkeypatch, by="bob@example.org")
    assert scene.deliver(awaiting, gates=ASKS) == "released"


def test_a_newer_candidate_another_policy_or_a_new_champion_voids_it(
    scene: Scene, awaiting: ReportRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_yes(scene, monkeypatch)
    newer = report(scene.bundle(2), 2)
    pass_every_gate(scene.ledger, newer, gates=ASKS)
    assert scene.deliver(newer, gates=ASKS) == "awaiting"
    with pytest.raises(ReleaseError, match="v1 does not await"):
        say_yes(scene, monkeypatch)
    edited = ASKS.model_copy(update={"floors": {"roc_auc": 0.4}})
    pass_every_gate(scene.ledger, awaiting, gates=edited)
    assert scene.deliver(awaiting, gates=edited) == "awaiting"
    champion = scene.released(3, 3)
    again = replace(awaiting, champion_digest=champion.digest)
    pass_every_gate(scene.ledger, again, gates=ASKS)
    assert scene.deliver(again, gates=ASKS) == "awaiting"


def test_running_the_same_gates_again_does_not_void_it(
    scene: Scene, awaiting: ReportRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_yes(scene, monkeypatch)
    pass_every_gate(scene.ledger, awaiting, gates=ASKS)
    assert scene.deliver(awaiting, gates=ASKS) == "released"


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=Bob", "-c", "user.email=bob@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


def test_only_a_commit_is_authenticated(
    scene: Scene, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = home.parent / "repository"
    folder = repository / "approvals"
    folder.mkdir(parents=True)
    git(repository, "init")
    scene.settings = replace(scene.settings, approvals=folder)
    monkeypatch.setattr("mlcicd_assets.io.delivery.commit_author", lambda: "ann@example.org")
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made, gates=ASKS_GIT)
    assert scene.deliver(made, gates=ASKS_GIT) == "awaiting"
    say_yes(scene, monkeypatch)
    assert scene.deliver(made, gates=ASKS_GIT) == "awaiting"
    path = write_approval_file(
        scene.settings, scene.ledger, MODEL, 1, reason="read the card", days=7
    )
    assert scene.deliver(made, gates=ASKS_GIT) == "awaiting"
    git(repository, "add", ".")
    git(repository, "commit", "-m", "approve v1")
    committed = path.read_text()
    path.write_text(committed.replace("read the card", "edited afterwards"))
    assert scene.deliver(made, gates=ASKS_GIT) == "awaiting"
    path.write_text(committed)
    assert scene.deliver(made, gates=ASKS_GIT) == "released"
    body = scene.ledger.entries(kinds=("approval",))[-1].body
    assert (body["by"], body["authenticated"]) == ("bob@example.org", True)
    assert body["how"].startswith("commit ")
    booked = len(scene.ledger.entries(kinds=("approval",)))
    scene.deliver(made, gates=ASKS_GIT)
    assert len(scene.ledger.entries(kinds=("approval",))) == booked
    path.write_text("not json")
    git(repository, "commit", "-am", "oops")
    with pytest.raises(SettingsError, match=r"v1\.json is no approval"):
        scene.deliver(made, gates=ASKS_GIT)


# --- who may


def test_with_tokens_configured_only_an_operator_changes_what_is_live(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256(b"s3cret").hexdigest()
    monkeypatch.setenv("MLCICD_OPERATORS", f"alice:{'0' * 64}, carol:{digest}")
    scene.settings = Settings.from_env()
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    doors = [
        lambda: scene.deliver(made),
        lambda: freeze(scene.settings, scene.ledger, MODEL, reason="x", days=1),
    ]
    for token in ("", "wrong", "alice"):
        if token:
            monkeypatch.setenv("MLCICD_OPERATOR_TOKEN", token)
        scene.settings = Settings.from_env()
        for door in doors:
            with pytest.raises(NotAllowed, match="operator role"):
                door()
    assert scene.served() is None
    monkeypatch.setenv("MLCICD_OPERATOR_TOKEN", "s3cret")
    scene.settings = Settings.from_env()
    assert "s3cret" not in repr(scene.settings)
    assert digest not in repr(scene.settings)
    assert scene.deliver(made) == "released"
    assert scene.ledger.last_outcome(MODEL).body["by"] == "carol"
    monkeypatch.setenv("MLCICD_OPERATOR_TOKEN", "wrong")
    scene.settings = Settings.from_env()
    for way in (roll_back, offline):
        with pytest.raises(NotAllowed):
            way(scene)


@pytest.mark.parametrize("text", ["alice", "alice:123", ":" + "0" * 64, f"a b:{'0' * 64}"])
def test_a_wrong_list_of_operators_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCICD_OPERATORS", text)
    with pytest.raises(SettingsError, match="MLCICD_OPERATORS"):
        Settings.from_env()


def test_every_decision_of_a_person_needs_a_reason(scene: Scene, awaiting: ReportRef) -> None:
    known = (scene.settings, scene.ledger, MODEL)
    with pytest.raises(ReleaseError, match="say why"):
        freeze(*known, reason=" ", days=1)
    with pytest.raises(ReleaseError, match="say why"):
        approve(*known, 1, reason="", days=1, how="test")
    with pytest.raises(ReleaseError, match="no model 'other'"):
        freeze(scene.settings, scene.ledger, "other", reason="x", days=1)


def test_expiry_is_a_moment_with_a_zone() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert decisions.is_over(now.isoformat(), now)
    assert not decisions.is_over((now + timedelta(seconds=1)).isoformat(), now)
    assert not decisions.is_over("2026-01-01T12:30:00+00:00", now)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ann", "ann@example.org", True),
        ("Ann@example.org", "ann@example.org ", True),
        ("ann@example.org", "ann@other.org", False),
        ("ann", "bob", False),
    ],
)
def test_names_and_addresses_may_be_the_same_person(one: str, other: str, same: bool) -> None:
    assert decisions._same_person(one, other) is same
    assert decisions._same_person(other, one) is same
