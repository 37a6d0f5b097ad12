"""Ways around that touch no check: rows written by hand, an alias, the clock, interleaved runs."""

import sqlite3
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest

from mlcicd_assets.io import ledger as ledger_module
from mlcicd_assets.io.interventions import approve, override
from mlcicd_assets.io.offline import OfflineRollback, write_note
from mlcicd_assets.io.registry import CHAMPION, client, set_alias
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import GateBlocked, LedgerError, ReleaseError
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.values import Verdict
from mlcicd_assets_tests.io.days import DAY_2, Days, three_days
from mlcicd_assets_tests.io.scene import (
    ASKS,
    MODEL,
    Scene,
    offline,
    pass_every_gate,
    report,
    roll_back,
)
from mlcicd_assets_tests.small_model import deliver_days, outcomes, run_job, small_spec


@pytest.fixture
def scene(server: str) -> Scene:
    return Scene(server)


def write_by_hand(scene: Scene, statement: str, *values: object) -> None:
    path = Settings.from_env().home / "ledger.db"
    with sqlite3.connect(path) as database:
        for verb in ("update", "delete"):
            database.execute(f"DROP TRIGGER IF EXISTS ledger_entries_no_{verb}")
        database.execute(statement, values)
    database.close()


def failing(scene: Scene) -> Verdict:
    """Book all verdicts of a candidate, the floor failed; return the failed one."""
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    told = [e.body for e in scene.ledger.entries() if e.body.get("gate") == "metric_floors"][-1]
    failed = Verdict(**{**told, "passed": False})
    scene.ledger.record_verdict(MODEL, failed, run_id="r")
    with pytest.raises(GateBlocked, match="metric_floors"):
        scene.deliver(made)
    return failed


def test_an_edited_verdict_is_refused(scene: Scene) -> None:
    failing(scene)
    write_by_hand(
        scene,
        "UPDATE ledger_entries SET body = replace(body, '\"passed\":false', '\"passed\":true')",
    )
    with pytest.raises(LedgerError, match="was changed after it was written"):
        scene.deliver(report(scene.bundle(1), 1))
    assert scene.served() is None


def test_a_removed_failure_is_seen_in_the_chain(scene: Scene) -> None:
    failing(scene)
    write_by_hand(
        scene, "DELETE FROM ledger_entries WHERE body LIKE ?", '%metric_floors%"passed":false%'
    )
    assert scene.ledger.verify_chain()


def test_a_verdict_slipped_in_without_its_hash_is_refused(scene: Scene) -> None:
    failed = failing(scene)
    row = scene.ledger.head()
    body = ledger_module._canonical_json(asdict(replace(failed, passed=True)))
    write_by_hand(
        scene,
        "INSERT INTO ledger_entries SELECT seq + 1, seq, hash, hash, 'verdict', model, run_id, at,"
        " ? FROM ledger_entries WHERE seq = ?",
        body,
        row.seq,
    )
    with pytest.raises(LedgerError, match="was changed after it was written"):
        scene.deliver(report(scene.bundle(1), 1))
    assert scene.served() is None


@pytest.mark.ci
def test_an_alias_moved_by_hand_is_obeyed_by_nothing(server: str) -> None:
    deliver_days()
    assert run_job(small_spec()).success
    worse = small_spec(training__parameters={"max_iter": 2}, gates__floors={"roc_auc": 0.1})
    run_job(worse)
    settings = Settings.from_env()
    set_alias(settings, MODEL, CHAMPION, 2)
    assert run_job(small_spec(), only="deployed_endpoint").success is False
    assert run_job(small_spec()).success
    assert outcomes()[-1] == "kept"
    live = client(settings).get_model_version_by_alias(MODEL, CHAMPION)
    assert int(live.version) == 2  # left as the person put it; `mlcicd verify` names it
    assert Scene(server).served() == 1


def test_a_clock_set_back_changes_nothing_that_is_decided(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scene.released(1, 1)
    monkeypatch.setattr(ledger_module, "utc_now", lambda: "2001-01-01T00:00:00+00:00")
    second = scene.released(2, 2, champion=first)
    assert scene.ledger.live(MODEL).digest == second.digest
    assert scene.served() == 2
    assert scene.deliver(report(second, 2)) == "kept"


def test_two_runs_interleaved_compare_with_the_champion_of_now(scene: Scene) -> None:
    first = scene.released(1, 1)
    slow = report(scene.bundle(2), 2, champion=first)
    pass_every_gate(scene.ledger, slow)
    quick = scene.released(3, 3, champion=first)
    with pytest.raises(GateBlocked, match="not the one it compared with"):
        scene.deliver(slow)
    assert scene.ledger.live(MODEL).digest == quick.digest


# --- ways back for what was recalled


def by_verdicts(scene: Days) -> None:
    """Every gate passed, by hand, on data that holds no bad row."""
    again = report(scene.bundles[3], 3, champion=scene.bundles[1])
    pass_every_gate(scene.ledger, again)
    assert scene.deliver(again) == "kept"


def by_approval(scene: Days) -> None:
    again = report(scene.bundles[3], 3, champion=scene.bundles[1])
    pass_every_gate(scene.ledger, again, gates=ASKS)
    assert scene.deliver(again, gates=ASKS) == "kept"
    with pytest.raises(ReleaseError, match="does not await approval"):
        approve(scene.settings, scene.ledger, MODEL, 3, reason="good", days=1, how="x")


def by_override(scene: Days) -> None:
    again = report(scene.bundles[3], 3, champion=scene.bundles[1])
    pass_every_gate(scene.ledger, again, fails=NOT_WORSE.name)
    override(scene.settings, scene.ledger, MODEL, NOT_WORSE.name, reason="good", days=1)
    assert scene.deliver(again) == "kept"


def by_another_model_from_the_rows(scene: Days) -> None:
    made = scene.made(4)
    pass_every_gate(scene.ledger, made, fails="metric_floors")
    override(scene.settings, scene.ledger, MODEL, "metric_floors", reason="good", days=1)
    with pytest.raises(GateBlocked, match="recalled"):
        scene.deliver(made)


def by_rollback(scene: Days) -> None:
    for to in (None, 3):
        with pytest.raises(ReleaseError, match="no earlier release"):
            roll_back(scene, to)


def by_offline_rollback(scene: Days) -> None:
    for to in (None, 3):
        with pytest.raises(ReleaseError, match=r"the store has: $"):
            offline(scene, to)


def by_a_note_written_by_hand(scene: Days) -> None:
    """An offline rollback that our command refuses: it is booked, and left again at once."""
    first, third = scene.bundles[1].digest, scene.bundles[3].digest
    note = OfflineRollback("x", MODEL, 3, third, first, "eve", "-", "2026-01-01T00:00:00+00:00")
    write_note(scene.settings.releases, note)
    scene.raw.delete("k >= 200 and k < 300")
    assert scene.deliver(scene.made(1, of=scene.bundles[1])) == "kept"


WAYS_BACK = [
    by_verdicts,
    by_approval,
    by_override,
    by_another_model_from_the_rows,
    by_rollback,
    by_offline_rollback,
    by_a_note_written_by_hand,
]


@pytest.mark.parametrize("way", WAYS_BACK, ids=lambda way: way.__name__)
def test_no_way_leads_back_to_what_was_recalled(way: Callable[[Days], None], server: str) -> None:
    scene = three_days(server)
    scene.recall(DAY_2)
    way(scene)
    assert scene.served() == 1
    assert scene.ledger.live(MODEL).digest == scene.bundles[1].digest
