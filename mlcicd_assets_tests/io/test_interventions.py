"""What people do to a release: approve, override, freeze, roll back; each bound and each booked."""

import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from mlcicd_assets.io import carrier, decisions, interventions, rollback
from mlcicd_assets.io import offline as offline_store
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.interventions import approve, freeze, override, write_approval_file
from mlcicd_assets.io.offline import pending_notes
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import (
    BundleError,
    GateBlocked,
    NotAllowed,
    ReleaseError,
    SettingsError,
    SmokeTestFailed,
)
from mlcicd_assets.ml.policy import Approval, Gates
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets_tests.io.test_delivery import GATES, Crash, Scene, pass_every_gate, report
from mlcicd_assets_tests.io.tiny import MODEL

ASKS = Gates(floors={"roc_auc": 0.5}, approval=Approval(authenticated=False))
ASKS_GIT = Gates(floors={"roc_auc": 0.5}, approval=Approval())


@pytest.fixture
def scene(server: str) -> Scene:
    return Scene(server)


@pytest.fixture
def two(scene: Scene) -> tuple[Bundle, Bundle]:
    """Version 1 released, then version 2."""
    first = scene.released(1, 1)
    return first, scene.released(2, 2, champion=first)


def roll_back(scene: Scene, to: int | None = None) -> tuple[int, str]:
    def mark(_: str, version: int) -> None:
        scene.aliases.append(version)

    return rollback.rollback(
        scene.settings, scene.ledger, MODEL, to=to, reason="it alerts on everything",
        mark_champion=mark,
    )  # fmt: skip


def offline(scene: Scene, to: int | None = None) -> tuple[int, str]:
    return offline_store.rollback_offline(scene.settings, MODEL, to=to, reason="ledger is down")


def pointer_digest(scene: Scene) -> str | None:
    pointer = read_pointer(scene.settings.releases, MODEL)
    return pointer.digest if pointer else None


# --- rollback


def test_rollback_makes_the_version_before_live_everywhere(scene: Scene, two: tuple) -> None:
    first, second = two
    decided = scene.ledger.last_outcome(MODEL).body["data"]
    assert roll_back(scene) == (1, first.digest)
    assert scene.served() == 1
    assert scene.aliases == [1, 2, 1]
    assert scene.ledger.live(MODEL).digest == pointer_digest(scene) == first.digest
    last = scene.ledger.last_outcome(MODEL)
    assert last.body["outcome"] == "rolled_back"
    assert last.body["withdrawn"] == second.digest
    assert last.body["reason"] == "it alerts on everything"
    # The sensor asks for the data of the last outcome: a rollback must not start a retrain.
    assert last.body["data"] == decided


@pytest.mark.parametrize("way", [roll_back, offline])
def test_what_was_rolled_back_is_never_released_again(way, scene: Scene, two: tuple) -> None:
    first, second = two
    way(scene)
    again = report(second, 2, champion=first)
    pass_every_gate(scene.ledger, again)
    assert scene.deliver(again) == "kept"
    assert "was rolled back by" in scene.ledger.last_outcome(MODEL).body["reason"]
    assert scene.served() == 1
    better = scene.released(3, 3, champion=first)
    assert scene.ledger.live(MODEL).digest == better.digest


def test_rollback_goes_to_a_named_version_and_never_to_a_withdrawn_one(
    scene: Scene, two: tuple
) -> None:
    first, second = two
    third = scene.released(3, 3, champion=second)
    assert roll_back(scene, to=1) == (1, first.digest)
    with pytest.raises(ReleaseError, match="it has: v2"):
        roll_back(scene, to=3)
    assert third.digest in decisions.withdrawals(scene.ledger, MODEL)
    assert roll_back(scene) == (2, second.digest)
    with pytest.raises(ReleaseError, match="it has: none"):
        roll_back(scene)


def test_without_a_release_there_is_nothing_to_roll_back(scene: Scene) -> None:
    for way in (roll_back, offline):
        with pytest.raises(ReleaseError, match="nothing to roll back"):
            way(scene)


def test_a_damaged_target_leaves_what_is_live(scene: Scene, two: tuple) -> None:
    first, second = two
    folder = scene.settings.releases / MODEL / "bundles" / first.digest
    (folder / "coefficient.npy").write_bytes(b"x")
    for way in (roll_back, offline):
        with pytest.raises(BundleError):
            way(scene)
    assert pointer_digest(scene) == second.digest
    assert scene.outcomes() == ["released", "released"]


def test_without_mlflow_a_rollback_succeeds_and_the_alias_follows(scene: Scene, two: tuple) -> None:
    first, _ = two

    def down(*_: object) -> None:
        raise ConnectionError("MLflow does not answer")

    args = {"to": None, "reason": "bad", "mark_champion": down}
    rollback.rollback(scene.settings, scene.ledger, MODEL, **args)
    assert scene.served() == 1
    assert scene.ledger.last_outcome(MODEL).body["alias"] == "due"
    assert scene.aliases == [1, 2]
    scene.deliver(report(first, 1))
    assert scene.aliases == [1, 2, 1]


def test_a_rollback_that_fails_is_taken_back_and_booked(
    scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = two

    def wrong(*_: object) -> None:
        raise SmokeTestFailed("scores differ")

    monkeypatch.setattr(carrier, "smoke_test", wrong)
    with pytest.raises(SmokeTestFailed):
        roll_back(scene)
    assert pointer_digest(scene) == second.digest
    assert scene.ledger.last_outcome(MODEL).body["reason"] == "rollback failed: scores differ"


@pytest.mark.parametrize("step", ["_point_at", "alias"])
def test_a_rollback_that_crashed_is_finished_by_the_next_run(
    step: str, scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(carrier.Carrier, "_mark" if step == "alias" else step, crash)
        with pytest.raises(Crash):
            roll_back(scene)
    assert scene.deliver(report(first, 1)) == "kept"
    assert scene.served() == 1
    assert scene.outcomes() == ["released", "released", "rolled_back", "kept"]
    assert second.digest in decisions.withdrawals(scene.ledger, MODEL)


# --- rollback while everything else is down


def test_an_offline_rollback_is_booked_once_by_the_next_run(scene: Scene, two: tuple) -> None:
    first, second = two
    assert offline(scene) == (1, first.digest)
    assert scene.served() == 1
    assert scene.ledger.live(MODEL).digest == second.digest  # does not know it yet
    (note,) = pending_notes(scene.settings.releases, MODEL).values()
    assert scene.deliver(report(first, 1)) == "kept"
    assert pending_notes(scene.settings.releases, MODEL) == {}
    booked = [e for e in scene.ledger.entries(kinds=("outcome",)) if "offline_id" in e.body]
    assert [entry.body["effective_at"] for entry in booked] == [note.at]
    assert scene.ledger.live(MODEL).digest == first.digest
    assert scene.aliases == [1, 2, 1]


def test_a_crash_between_the_booking_and_the_note_books_nothing_twice(
    scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = two
    offline(scene)

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", crash)
        with pytest.raises(Crash):
            scene.deliver(report(first, 1))
    assert scene.deliver(report(first, 1)) == "kept"
    assert scene.outcomes() == ["released", "released", "rolled_back", "kept"]


@pytest.mark.parametrize("way", [roll_back, offline])
def test_after_a_rollback_the_pointer_does_not_lead_back_to_the_bad_one(
    way, scene: Scene, two: tuple
) -> None:
    way(scene)
    with pytest.raises(ReleaseError, match="the store has: v2"):
        offline(scene)


def test_offline_goes_to_a_named_version(scene: Scene, two: tuple) -> None:
    _, second = two
    with pytest.raises(ReleaseError, match="the store has: v1"):
        offline(scene, to=2)
    offline(scene)
    assert offline(scene, to=2) == (2, second.digest)
    assert len(pending_notes(scene.settings.releases, MODEL)) == 2
    assert scene.deliver(report(second, 2)) == "kept"
    assert scene.outcomes()[-3:] == ["rolled_back", "rolled_back", "kept"]
    assert scene.ledger.live(MODEL).digest == second.digest


def test_an_offline_rollback_ends_a_release_that_was_cut_off(
    scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = two
    third = report(scene.bundle(3), 3, champion=second)
    pass_every_gate(scene.ledger, third)

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(carrier, "smoke_test", crash)
        with pytest.raises(Crash):
            scene.deliver(third)
    assert offline(scene) == (2, second.digest)
    assert scene.deliver(third) == "kept"
    assert scene.served() == 2
    assert scene.outcomes()[-3:] == ["blocked", "rolled_back", "kept"]
    assert scene.ledger.unfinished_intent(MODEL) is None


def test_an_offline_rollback_cut_off_before_the_pointer_is_completed(
    scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = two

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(offline_store, "swap_pointer", crash)
        with pytest.raises(Crash):
            offline(scene)
    assert scene.deliver(report(first, 1)) == "kept"
    assert scene.served() == 1


def test_an_offline_rollback_that_fails_its_smoke_test_leaves_no_trace(
    scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, second = two

    def wrong(*_: object) -> None:
        raise SmokeTestFailed("scores differ")

    monkeypatch.setattr(offline_store, "smoke_test", wrong)
    with pytest.raises(SmokeTestFailed):
        offline(scene)
    assert pointer_digest(scene) == second.digest
    assert pending_notes(scene.settings.releases, MODEL) == {}


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


def failed_floor(scene: Scene, made: ReportRef, gates: Gates = GATES) -> None:
    pass_every_gate(scene.ledger, made, leave_out="metric_floors", gates=gates)
    verdict = scene.ledger.entries(kinds=("verdict",))[-1].body
    body = {**verdict, "gate": "metric_floors", "subject": made.candidate.digest, "passed": False}
    body |= {"gate_version": 1, "context": {}}
    scene.ledger.append(kind="verdict", model=MODEL, body=body, run_id="r")


def test_an_override_lets_exactly_what_was_judged_pass(scene: Scene) -> None:
    made, other = report(scene.bundle(1), 1), report(scene.bundle(2), 2)
    failed_floor(scene, made)
    with pytest.raises(GateBlocked, match="metric_floors"):
        scene.deliver(made)
    override(scene.settings, scene.ledger, MODEL, "metric_floors", reason="known", days=1)
    failed_floor(scene, other)
    with pytest.raises(GateBlocked, match="metric_floors"):
        scene.deliver(other)
    assert scene.deliver(made) == "released"


def test_an_override_ends_with_the_policy(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    failed_floor(scene, made)
    override(scene.settings, scene.ledger, MODEL, "metric_floors", reason="known", days=1)
    stricter = GATES.model_copy(update={"floors": {"roc_auc": 0.9}})
    failed_floor(scene, made, stricter)
    with pytest.raises(GateBlocked, match="metric_floors"):
        scene.deliver(made, gates=stricter)


def test_an_override_ends(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    failed_floor(scene, made)
    override(scene.settings, scene.ledger, MODEL, "metric_floors", reason="known", days=0)
    with pytest.raises(GateBlocked, match="metric_floors"):
        scene.deliver(made)


@pytest.mark.parametrize("gate", ["contract", "no_such_gate"])
def test_only_a_failed_verdict_can_be_overridden(gate: str, scene: Scene) -> None:
    pass_every_gate(scene.ledger, report(scene.bundle(1), 1))
    with pytest.raises(ReleaseError, match="no failed verdict"):
        override(scene.settings, scene.ledger, MODEL, gate, reason="known", days=1)


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
