"""Promoters that race and promoters that are killed: real processes, ledger, server and MLflow.

Whatever happens, ledger, pointer, server and alias name one version, and it was compared with the
one that it replaced.
"""

import multiprocessing
import os
import sys
import time
from collections import Counter
from multiprocessing.synchronize import Barrier

import numpy as np
import pytest

from mlcicd_assets.io import carrier
from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.ledger import Head, Ledger
from mlcicd_assets.io.registry import CHAMPION, client, set_alias
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import GateBlocked, ReleaseError
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets_tests.io.scene import GATES, Scene, pass_every_gate, report
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.io.tiny import bundle as tiny_bundle

pytestmark = pytest.mark.prove

RACES, KILLS = 100, 30
BLOCKED, FAILED, KILLED = 3, 4, 9
# What a process may be stopped at. Two steps are writes to the ledger, told apart by their kind.
STEPS = {
    "intent": (Ledger, "append"),
    "note": (carrier, "write_release_note"),
    "pointer": (carrier, "swap_pointer"),
    "server answer": (carrier, "smoke_test"),
    "alias": (carrier, "set_alias"),
    "outcome": (Ledger, "append"),
}
POINTS = [(step, when) for step in STEPS for when in ("before", "after")]
# Each process is a fork of a clean one that has imported everything: no threads, no connections.
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload(
    [
        __name__,
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
    ]
)


def promote(
    settings: Settings,
    made: ReportRef,
    *,
    start: Barrier | None = None,
    stop_at: tuple[str, str] | None = None,
    seconds: float | None = None,
) -> None:
    """What one process does: deliver; `stop_at` a step for some seconds, or else for ever.

    Exits with 0, BLOCKED, FAILED (the release), KILLED, or 1 after whatever else.
    """

    def mark(model: str, version: int) -> None:
        carrier.set_alias(settings, model, CHAMPION, version)

    carrier.set_alias = set_alias  # a name of its own, so that a process can die at it
    if stop_at is not None:
        _plan_stop(*stop_at, seconds)
    delivery = Delivery(settings, Ledger(settings.ledger_url), f"run-{os.getpid()}", mark)
    if start is not None:
        start.wait()
    try:
        delivery.deliver(made, gates=GATES)
    except GateBlocked:
        sys.exit(BLOCKED)
    except ReleaseError:
        sys.exit(FAILED)


def _plan_stop(step: str, when: str, seconds: float | None) -> None:
    """Sleep, or die as by kill -9, just before or just after this step."""
    owner, name = STEPS[step]
    honest = getattr(owner, name)

    def stopping(*words: object, **options: object) -> object:
        is_step = options.get("kind", step) == step
        if is_step and when == "before":
            _stop(seconds)
        result = honest(*words, **options)
        if is_step and when == "after":
            _stop(seconds)
        return result

    setattr(owner, name, stopping)


def _stop(seconds: float | None) -> None:
    if seconds is None:
        os._exit(KILLED)
    time.sleep(seconds)


def in_processes(*all_options: dict) -> list[int | None]:
    """Run `promote` with each of these options at the same time; return how each ended."""
    processes = [CLEAN.Process(target=promote, kwargs=options) for options in all_options]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()  # one that hangs has failed
        process.join()
    return [process.exitcode for process in processes]


class Arena(Scene):
    """A scene with MLflow, and a supply of candidates that passed against what is live."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.mlflow = client(self.settings)
        self.mlflow.create_registered_model(MODEL)

    def candidates(self) -> list[ReportRef]:
        """Two new ones, each compared with the champion of now."""
        live, made = self.ledger.live(MODEL), []
        for _ in range(2):
            version = int(self.mlflow.create_model_version(MODEL, source="file:///none").version)
            bundle = tiny_bundle(self.settings.releases, version / 1000)
            one = report(bundle, version)
            one = ReportRef(one.candidate, live.digest if live else None, one.policy, one.metrics)
            pass_every_gate(self.ledger, one)
            made.append(one)
        return made

    def disagreements(self) -> list[str]:
        """Everything that is not as the ledger says, in words."""
        live, pointer = self.ledger.live(MODEL), read_pointer(self.settings.releases, MODEL)
        if live is None or pointer is None:
            return [f"live {live}, pointer {pointer}"]
        seen = {"pointer": pointer.version, "server": self.served()}
        seen["alias"] = int(self.mlflow.get_model_version_by_alias(MODEL, CHAMPION).version)
        told = [f"{n} says {v}, not {live.version}" for n, v in seen.items() if v != live.version]
        if pointer.digest != live.digest:
            told.append("pointer and ledger name different bundles")
        ends = Counter(e.body["intent_seq"] for e in self.ledger.entries(kinds=("outcome",)))
        intents = [intent.seq for intent in self.ledger.entries(kinds=("intent",))]
        told += [f"intent {n} has {ends[n]} outcomes" for n in intents if ends[n] != 1]
        return told

    def forks(self) -> list[str]:
        pointer = read_pointer(self.settings.releases, MODEL)
        assert pointer is not None
        return self.ledger.verify_chain(known_heads=[Head(pointer.ledger_seq, pointer.ledger_hash)])

    def never_compared(self) -> list[str]:
        """Releases of a candidate whose comparison was with another than the champion of then."""
        champion, compared, told = None, dict[str, str | None](), list[str]()
        for entry in self.ledger.entries(model=MODEL):
            body = entry.body
            if entry.kind == "verdict" and body["gate"] == NOT_WORSE.name:
                compared[body["subject"]] = body["context"]["champion_digest"]
            elif entry.kind == "outcome" and body["outcome"] == "released":
                if compared[body["digest"]] != champion:
                    told.append(f"v{body['version']} replaced what it was not compared with")
                champion = body["digest"]
        return told


@pytest.fixture
def arena(server: str) -> Arena:
    return Arena(server)


def test_of_two_racing_promoters_one_wins(arena: Arena) -> None:
    rng, ends, wrong = np.random.default_rng(1), Counter[str](), list[str]()
    for number in range(RACES):
        # One of the two loses the processor for a while, at any step.
        stop = {"stop_at": POINTS[rng.integers(len(POINTS))], "seconds": rng.random()}
        common = {"settings": arena.settings, "start": CLEAN.Barrier(2)}
        one, rival = arena.candidates()
        codes = in_processes({**common, **stop, "made": one}, {**common, "made": rival})
        ends[str(sorted(codes, key=str))] += 1
        faults = arena.disagreements()
        if faults:
            print(f"\nrace {number}, one held {stop}: exit codes {codes}, {faults}")
        wrong += faults[:1]
    wrong += arena.never_compared()
    print(f"\nexit codes {dict(ends)}; released {arena.outcomes().count('released')}")
    print(f"figure race_wrong_champions {len(wrong)} == 0")
    print(f"figure race_forks {len(arena.forks())} == 0")


def test_what_a_kill_left_is_reconciled_by_the_next_run(arena: Arena) -> None:
    rng, reconciled = np.random.default_rng(2), 0
    for number in rng.permutation(3 * len(POINTS))[:KILLS]:
        point = POINTS[number % len(POINTS)]
        one, rival = arena.candidates()
        codes = in_processes({"settings": arena.settings, "made": one, "stop_at": point})
        # The next run may be of the same candidate, or of one that knows nothing of it.
        follower = (one, rival)[rng.integers(2)]
        codes += in_processes({"settings": arena.settings, "made": follower})
        has_begun = point != ("intent", "before")
        expected = one if has_begun else follower
        live = arena.ledger.live(MODEL)
        faults = arena.disagreements() + arena.never_compared() + arena.forks()
        if live is None or live.digest != expected.candidate.digest:
            faults.append(f"live is {live}")
        if codes != [KILLED, BLOCKED if has_begun and follower is rival else 0]:
            faults.append(f"exit codes {codes}")
        if faults:
            print(f"\nkilled {point}: {faults}")
        reconciled += not faults
    print(f"\nfigure kills_reconciled {reconciled} >= {KILLS}")
