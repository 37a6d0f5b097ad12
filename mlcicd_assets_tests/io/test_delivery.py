"""Delivery at its edges: crashes between steps, a failing smoke test, a pointer moved by hand."""

from pathlib import Path

import numpy as np
import pytest

from mlcicd_assets.io import carrier, smoke
from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.endpoint import wait_until_live
from mlcicd_assets.io.releases import Pointer, read_pointer, swap_pointer
from mlcicd_assets.io.rollback import rollback
from mlcicd_assets.io.verify import verify
from mlcicd_assets.ml.errors import (
    EndpointUnreachable,
    GateBlocked,
    PointerMoved,
    ReleaseError,
    SmokeTestFailed,
)
from mlcicd_assets.ml.values import (
    ReportRef,
)
from mlcicd_assets_tests.io.scene import (
    GATES,
    REQUIRED,
    Crash,
    Scene,
    crash,
    pass_every_gate,
    report,
)
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.io.tiny import release as point_at


def test_released_then_kept_then_a_better_one_released(scene: Scene) -> None:
    first = scene.released(1, 1)
    assert scene.deliver(report(first, 1, None)) == "kept"
    scene.released(2, 2, champion=first)
    assert scene.served() == 2
    assert scene.aliases == [1, 2]
    assert scene.outcomes() == ["released", "kept", "released"]
    pointer = read_pointer(scene.settings.releases, MODEL)
    assert pointer is not None
    intent = scene.ledger.entries(kinds=("intent",))[-1]
    assert (pointer.ledger_seq, pointer.ledger_hash) == (intent.seq, intent.hash)


@pytest.mark.parametrize("gate", REQUIRED)
def test_one_missing_verdict_is_enough_to_refuse(gate: str, scene: Scene) -> None:
    bundle = scene.bundle(1)
    made = report(bundle, 1)
    pass_every_gate(scene.ledger, made, leave_out=gate)
    with pytest.raises(GateBlocked, match=gate):
        scene.deliver(made)
    assert scene.served() is None
    assert scene.outcomes() == ["blocked"]


def test_a_comparison_with_another_champion_does_not_count(scene: Scene) -> None:
    first = scene.released(1, 1)
    scene.released(2, 2, champion=first)
    late = report(scene.bundle(3), 3, champion=first)
    pass_every_gate(scene.ledger, late)
    with pytest.raises(GateBlocked, match="champion"):
        scene.deliver(late)
    assert scene.served() == 2


@pytest.mark.parametrize("step", ["write_release_note", "_point_at", "smoke_test", "alias"])
def test_a_crash_after_the_intent_is_finished_by_the_next_run(
    step: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.released(1, 1)
    second = report(scene.bundle(2), 2, champion=first)
    pass_every_gate(scene.ledger, second)

    with monkeypatch.context() as patch:
        if step in {"write_release_note", "smoke_test"}:
            patch.setattr(carrier, step, crash)
        elif step != "alias":
            patch.setattr(Delivery, step, crash)
        with pytest.raises(Crash):
            scene.deliver(second, mark=crash if step == "alias" else None)
    assert scene.ledger.unfinished_intent(MODEL) is not None
    assert scene.deliver(second) == "kept"
    assert scene.served() == 2
    assert scene.outcomes() == ["released", "released", "kept"]
    assert scene.ledger.unfinished_intent(MODEL) is None
    assert scene.aliases[-1] == 2


def test_a_failed_smoke_test_sets_the_pointer_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.released(1, 1)
    second = report(scene.bundle(2), 2, champion=first)
    pass_every_gate(scene.ledger, second)
    monkeypatch.setattr(
        smoke, "score_rows", lambda *_, **__: np.full(len(first.golden_scores), 0.5)
    )
    with pytest.raises(SmokeTestFailed, match="differ from offline"):
        scene.deliver(second)
    pointer = read_pointer(scene.settings.releases, MODEL)
    assert pointer is not None
    assert pointer.digest == first.digest
    wait_until_live(scene.url, MODEL, first.digest, token=None)
    assert scene.outcomes() == ["released", "blocked"]
    assert scene.aliases == [1]


def test_a_first_release_that_fails_leaves_nothing_live(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    monkeypatch.setattr(smoke, "score_rows", lambda *_, **__: np.array([np.nan]))
    with pytest.raises(SmokeTestFailed):
        scene.deliver(made)
    assert read_pointer(scene.settings.releases, MODEL) is None
    assert scene.ledger.live(MODEL) is None


def test_a_pointer_moved_by_hand_is_left_alone_and_named(scene: Scene) -> None:
    first = scene.released(1, 1)
    other = scene.bundle(9)
    by_hand = Pointer(MODEL, 9, other.digest, scene.ledger.head().seq, "0" * 64, None, None)
    swap_pointer(scene.settings.releases, by_hand, expected_digest=first.digest)
    with pytest.raises(PointerMoved, match="moved by hand"):
        scene.deliver(report(first, 1))
    better = report(scene.bundle(2), 2, champion=first)
    pass_every_gate(scene.ledger, better)
    with pytest.raises(ReleaseError):
        scene.deliver(better)
    pointer = read_pointer(scene.settings.releases, MODEL)
    assert pointer is not None
    assert pointer.digest == other.digest


def test_a_server_that_cannot_be_reached_stops_before_the_intent(home: Path) -> None:
    scene = Scene("http://127.0.0.1:9")
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    with pytest.raises(EndpointUnreachable, match="mlcicd serve"):
        scene.deliver(made)
    assert scene.ledger.entries(kinds=("intent", "outcome")) == []


def test_a_release_that_an_overlapping_run_finishes_too_is_booked_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    honest = carrier.smoke_test

    def overlapped(*_: object) -> None:
        monkeypatch.setattr(carrier, "smoke_test", honest)
        other = Delivery(scene.settings, scene.ledger, "other run", lambda *_: None)
        other.settled_head(MODEL)
        raise ReleaseError("the slower one fails, after the other has succeeded")

    monkeypatch.setattr(carrier, "smoke_test", overlapped)
    with pytest.raises(ReleaseError, match="slower"):
        scene.deliver(made)
    assert scene.outcomes() == ["released"]
    assert scene.served() == 1
    assert read_pointer(scene.settings.releases, MODEL) is not None


def test_no_release_is_begun_while_another_is_open(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.released(1, 1)
    one, rival = (report(scene.bundle(n), n, champion=first) for n in (2, 3))
    for made in (one, rival):
        pass_every_gate(scene.ledger, made)

    with monkeypatch.context() as patch:
        patch.setattr(carrier, "write_release_note", crash)
        with pytest.raises(Crash):
            scene.deliver(one)
    # The rival has looked for unfinished releases before the other's intent was written.
    late = Delivery(scene.settings, scene.ledger, "late", lambda *_: None)
    with pytest.raises(GateBlocked, match="champion"):
        late._decide_once(rival, GATES)
    assert scene.outcomes() == ["released", "released", "blocked"]
    assert scene.served() == 2


@pytest.fixture
def issue_3(scene: Scene) -> ReportRef:
    """A ledger from before rollbacks: version 1 released, version 2 cut off after its intent."""
    first, second = scene.bundle(1), scene.bundle(2)
    candidate = report(second, 2, champion=first)
    pass_every_gate(scene.ledger, candidate)
    said = {"reason": "better", "data": {}}
    old = {**said, "policy": candidate.policy, "features": "v1:1:2:3"}
    old |= {"version": 1, "digest": first.digest, "previous_version": None, "previous_digest": None}
    made = scene.ledger.append(kind="intent", model=MODEL, body=old, run_id="old")
    point_at(scene.settings.releases, first.digest)
    said |= {"version": 1, "digest": first.digest, "intent_seq": made.seq}
    scene.ledger.record_outcome(MODEL, "released", **said, run_id="old")
    old |= {"version": 2, "digest": second.digest}
    old |= {"previous_version": 1, "previous_digest": first.digest}
    scene.ledger.append(kind="intent", model=MODEL, body=old, run_id="old")
    return candidate


def test_a_ledger_of_issue_3_is_finished_forward(scene: Scene, issue_3: ReportRef) -> None:
    assert "was cut off" in "\n".join(verify(scene.settings, scene.ledger)[0])
    assert scene.deliver(issue_3) == "kept"
    assert scene.served() == 2
    assert scene.aliases == [2]
    assert scene.outcomes() == ["released", "released", "kept"]


def test_an_intent_of_issue_3_that_fails_is_taken_back(
    scene: Scene, issue_3: ReportRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise SmokeTestFailed("scores differ")

    monkeypatch.setattr(carrier, "smoke_test", wrong)
    with pytest.raises(SmokeTestFailed):
        scene.deliver(issue_3)
    assert scene.ledger.last_outcome(MODEL).body["reason"] == "release failed: scores differ"
    assert read_pointer(scene.settings.releases, MODEL).version == 1


def test_a_run_that_was_late_does_not_undo_a_rollback(scene: Scene) -> None:
    first = scene.released(1, 1)
    second = scene.released(2, 2, champion=first)
    stalled = read_pointer(scene.settings.releases, MODEL)
    rollback(
        scene.settings, scene.ledger, MODEL, to=None, reason="bad", mark_champion=lambda *_: None
    )
    assert stalled is not None
    with pytest.raises(PointerMoved, match="later than"):
        swap_pointer(scene.settings.releases, stalled, expected_digest=first.digest)
    assert second.digest == stalled.digest
    assert scene.served() == 1
