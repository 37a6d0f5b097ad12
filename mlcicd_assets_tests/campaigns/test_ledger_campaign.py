"""Campaign: `live-at` against a replayed oracle, and `verify` against four kinds of damage."""

import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlcicd_assets.io import ledger as ledger_module
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.readings import live_at
from mlcicd_assets.io.registry import CHAMPION, set_alias
from mlcicd_assets.io.verify import verify
from mlcicd_assets_tests.io.test_verify import DELETE, MODEL, TwoReleases, flip_byte, rewrite

pytestmark = pytest.mark.prove
DECISIONS, SEEDS = 200, 25
START = datetime(2026, 1, 1, tzinfo=UTC)
Change = tuple[datetime, int]


class Clock:
    """A clock that somebody sets back now and then."""

    def __init__(self, choice: random.Random) -> None:
        self.now, self.choice = START, choice

    def __call__(self) -> str:
        if self.choice.random() < 0.1:
            self.now -= timedelta(hours=self.choice.uniform(0, 60))
        self.now += timedelta(minutes=self.choice.uniform(0, 600))
        return self.now.isoformat()


def random_history(ledger: Ledger, clock: Clock, choice: random.Random) -> list[Change]:
    """Book 200 decisions; return what each change of the live version claims, in their order."""
    changes: list[Change] = []
    kinds = ("released", "released", "rolled_back", "offline", "kept", "blocked", "freeze")
    for version in range(1, DECISIONS + 1):
        kind = choice.choice(kinds)
        if kind == "freeze":
            body = {"until": clock(), "by": "ann", "reason": "r"}
            ledger.append(kind="freeze", model="m", body=body, run_id="r")
            continue
        more: dict[str, Any] = {}
        if kind == "offline":
            done = clock.now - timedelta(hours=choice.uniform(0, 24))
            more = {"offline_id": str(version), "effective_at": done.isoformat()}
        ledger.record_outcome(
            choice.choice(["m", "m", "m", "other"]) if kind in {"kept", "blocked"} else "m",
            "rolled_back" if kind == "offline" else kind,  # type: ignore[arg-type]
            version=version,
            digest="d",
            reason="r",
            data={},
            run_id="r",
            **more,
        )
        if kind in {"released", "rolled_back"}:
            changes.append((clock.now, version))
        elif kind == "offline":
            changes.append((done, version))
    return changes


def oracle(changes: list[Change], moment: datetime) -> int | None:
    """Replay: nothing that comes later in the chain than something not yet done is done."""
    live = None
    for claimed, version in changes:
        if claimed > moment:
            break
        live = version
    return live


def test_live_at_equals_a_replayed_oracle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = random.Random(4)  # noqa: S311 - a campaign that can be repeated
    clock = Clock(choice)
    monkeypatch.setattr(ledger_module, "utc_now", clock)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    changes = random_history(ledger, clock, choice)
    entries = ledger.entries(model="m")
    times = [claimed for claimed, _ in changes]
    tick = timedelta(microseconds=1)
    moments = [time + step for time in times for step in (-tick, 0 * tick, tick)]
    span = (max(times) - min(times)) * 1.2
    moments += [START + span * choice.uniform(-0.1, 1) for _ in range(2000)]
    wrong, seen = 0, set[int | None]()
    for moment in moments:
        found = live_at(entries, moment)
        version = found[1].body["version"] if found else None
        wrong += version != oracle(changes, moment)
        seen.add(version)
    print(f"figure live_at_questions {len(moments)} >= 2000")
    print(f"figure live_at_different_answers {len(seen)} >= 20")
    print(f"figure live_at_answers_wrong {wrong} == 0")
    assert wrong == 0


def test_verify_names_every_damage(server: str) -> None:
    """What came after the newest release's intent has no witness: only a row lost there shows."""
    scene = TwoReleases(server)
    whole = scene.path.with_name("whole.db")
    shutil.copy(scene.path, whole)
    entries = scene.ledger.entries()
    intent = scene.ledger.entries(kinds=("intent",))[-1].seq
    unnamed = dict.fromkeys(("byte", "alias", "row", "chain"), 0)
    assert scene.problems() == ""
    for seed in range(SEEDS):
        choice = random.Random(seed)  # noqa: S311
        flip_byte(scene.path, choice.choice(entries), choice)
        unnamed["byte"] += "ledger: " not in scene.problems()
        shutil.copy(whole, scene.path)
        set_alias(scene.settings, MODEL, CHAMPION, 1)
        unnamed["alias"] += "alias champion names version 1" not in scene.problems()
        set_alias(scene.settings, MODEL, CHAMPION, 2)
        scene.tamper(DELETE, (choice.choice(entries).seq,))
        told = scene.problems()
        unnamed["row"] += "does not continue" not in told and "has no outcome" not in told
        shutil.copy(whole, scene.path)
        rewrite(scene, seq=choice.randint(1, intent))
        unnamed["chain"] += "shortened or rewritten" not in scene.problems()
        shutil.copy(whole, scene.path)
    assert verify(scene.settings, scene.ledger) == ([], [])
    for damage, count in unnamed.items():
        print(f"figure verify_{damage}_damages_unnamed {count} == 0")
    print(f"figure verify_damages_unnamed {sum(unnamed.values())} == 0")
    assert sum(unnamed.values()) == 0
