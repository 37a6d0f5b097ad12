"""Delivery at its edges: crashes between steps, a failing smoke test, a pointer moved by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlcicd_assets.io import carrier, smoke
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.releases import Pointer, read_pointer, swap_pointer
from mlcicd_assets.io.rollback import rollback
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import (
    EndpointUnreachable,
    GateBlocked,
    PointerMoved,
    ReleaseError,
    SmokeTestFailed,
)
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.gates import data_gates, model_gates
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import (
    FeatureSet,
    ModelVersionRef,
    RawData,
    ReportRef,
    TableVersion,
    Verdict,
)
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.io.tiny import bundle as tiny_bundle

GATES = Gates(floors={"roc_auc": 0.5})
POLICY = policy_digest(GATES)
REQUIRED = sorted(gate.name for gate in (*data_gates(GATES), *model_gates(GATES)))
TABLE = TableVersion("/lake/raw", "id", 3, "v1:1:2:3", 10)


class Crash(BaseException):
    """What kill -9 looks like from inside: nothing after it runs, no handler catches it."""


def report(bundle: Bundle, version: int, champion: Bundle | None = None) -> ReportRef:
    data = FeatureSet(TABLE, RawData(TABLE, None), "2026-01-01T00:00:00+00:00")
    ref = ModelVersionRef(MODEL, version, bundle.digest, f"key{version}", "run", data)
    return ReportRef(ref, champion.digest if champion else None, POLICY, {})


def pass_every_gate(
    ledger: Ledger, made: ReportRef, *, leave_out: str = "", gates: Gates = GATES
) -> None:
    for gate in (*data_gates(gates), *model_gates(gates)):
        if gate.name == leave_out:
            continue
        is_model = gate in model_gates(gates)
        context = {"champion_digest": made.champion_digest} if gate is NOT_WORSE else {}
        if context.get("champion_digest"):
            context |= {
                "metric": "average_precision",
                "candidate": 0.5,
                "champion": 0.4,
                "difference": 0.1,
                "lower_90": 0.05,
                "upper_95": 0.15,
                "rows": 100,
                "positives": 50,
            }
        verdict = Verdict(
            gate=gate.name,
            gate_version=gate.version,
            subject=made.candidate.digest if is_model else TABLE.fingerprint,
            policy=policy_digest(gates),
            passed=True,
            observed="1",
            threshold="1",
            sample_size=1,
            context=context,
        )
        ledger.record_verdict(MODEL, verdict, run_id="r")


class Scene:
    """A home with a server, a ledger and a way to deliver candidates."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = Settings.from_env()
        self.ledger = Ledger(self.settings.ledger_url)
        self.aliases: list[int] = []

    def bundle(self, seed: int) -> Bundle:
        return tiny_bundle(self.settings.releases, float(seed))

    def deliver(
        self,
        made: ReportRef,
        mark: Callable[[str, int], None] | None = None,
        gates: Gates = GATES,
    ) -> str:
        def remember(_: str, version: int) -> None:
            self.aliases.append(version)

        carrier = Delivery(self.settings, self.ledger, "run", mark or remember)
        return carrier.deliver(made, gates=gates).outcome

    def released(self, seed: int, version: int, champion: Bundle | None = None) -> Bundle:
        bundle = self.bundle(seed)
        made = report(bundle, version, champion)
        pass_every_gate(self.ledger, made)
        assert self.deliver(made) == "released"
        return bundle

    def served(self) -> int | None:
        status = model_status(self.url, MODEL, token=None)
        return status.version if status else None

    def outcomes(self) -> list[str]:
        return [entry.body["outcome"] for entry in self.ledger.entries(kinds=("outcome",))]


@pytest.fixture
def scene(server: str) -> Scene:
    return Scene(server)


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

    def crash(*_: object, **__: object) -> None:
        raise Crash

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
    carrier.wait_until_live(scene.url, MODEL, first.digest, token=None)
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
    with pytest.raises(EndpointUnreachable, match="make serve"):
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

    def crash(*_: object, **__: object) -> None:
        raise Crash

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
