"""Rollback: an earlier release live again everywhere, also while everything else is down."""

from pathlib import Path

import pytest

from mlcicd_assets.io import carrier, decisions, rollback
from mlcicd_assets.io import offline as offline_store
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.offline import pending_notes
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.store import write
from mlcicd_assets.ml.errors import BundleError, ReleaseError, SmokeTestFailed
from mlcicd_assets_tests.io.scene import (
    Crash,
    Scene,
    crash,
    offline,
    pass_every_gate,
    report,
    roll_back,
)
from mlcicd_assets_tests.io.tiny import MODEL

PLACES = ["folder", pytest.param("object storage", marks=pytest.mark.ci)]
BOTH = pytest.mark.parametrize("scene", PLACES, indirect=True)


@pytest.fixture
def two(scene: Scene) -> tuple[Bundle, Bundle]:
    """Version 1 released, then version 2."""
    first = scene.released(1, 1)
    return first, scene.released(2, 2, champion=first)


def pointer_digest(scene: Scene) -> str | None:
    pointer = read_pointer(scene.settings.releases, MODEL)
    return pointer.digest if pointer else None


@BOTH
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


@BOTH
def test_a_damaged_target_leaves_what_is_live(scene: Scene, two: tuple) -> None:
    first, second = two
    folder = scene.settings.releases / MODEL / "bundles" / first.digest
    write(folder / "coefficient.npy", b"x")
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


@BOTH
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


@BOTH
@pytest.mark.parametrize("step", ["_point_at", "alias"])
def test_a_rollback_that_crashed_is_finished_by_the_next_run(
    step: str, scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two

    with monkeypatch.context() as patch:
        patch.setattr(carrier.Carrier, "_mark" if step == "alias" else step, crash)
        with pytest.raises(Crash):
            roll_back(scene)
    assert scene.deliver(report(first, 1)) == "kept"
    assert scene.served() == 1
    assert scene.outcomes() == ["released", "released", "rolled_back", "kept"]
    assert second.digest in decisions.withdrawals(scene.ledger, MODEL)


# --- rollback while everything else is down


@BOTH
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


@BOTH
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

    with monkeypatch.context() as patch:
        patch.setattr(carrier, "smoke_test", crash)
        with pytest.raises(Crash):
            scene.deliver(third)
    assert offline(scene) == (2, second.digest)
    assert scene.deliver(third) == "kept"
    assert scene.served() == 2
    assert scene.outcomes()[-3:] == ["blocked", "rolled_back", "kept"]
    assert scene.ledger.unfinished_intent(MODEL) is None


@BOTH
def test_an_offline_rollback_cut_off_before_the_pointer_is_completed(
    scene: Scene, two: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = two

    with monkeypatch.context() as patch:
        patch.setattr(offline_store, "swap_pointer", crash)
        with pytest.raises(Crash):
            offline(scene)
    assert scene.deliver(report(first, 1)) == "kept"
    assert scene.served() == 1


@BOTH
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
