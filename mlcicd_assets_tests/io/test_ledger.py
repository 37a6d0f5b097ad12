import fcntl
import multiprocessing
import os
import re
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from mlcicd_assets.io.ledger import EMPTY, INTENT, Head, Ledger, _hash
from mlcicd_assets.io.ledger_tables import SeenFile, TrainedRecord, utc_now
from mlcicd_assets.ml.errors import LedgerError, LedgerMoved
from mlcicd_assets.ml.values import Verdict

SPAWN = multiprocessing.get_context("spawn")

GOOD = Verdict(
    gate="contract",
    gate_version=1,
    subject="f" * 64,
    policy="p" * 64,
    passed=True,
    observed="0 rows",
    threshold="0 rows",
    sample_size=10,
    context={"table": "raw@v3"},
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url)


def add(ledger: Ledger, *, model: str = "m", kind: str = "note", expected_seq: int | None = None):
    return ledger.append(
        kind=kind, model=model, body={"n": 1}, run_id="r", expected_seq=expected_seq
    )


def release(ledger: Ledger, version: int, *, outcome: str = "released", intent: int | None = None):
    return ledger.record_outcome(
        "m",
        outcome,
        version=version,
        digest=str(version) * 64,
        reason="because",
        intent_seq=intent,
        verdict_lines=["gate 'contract' passed"],
        run_id=f"run-{version}",
    )


def tamper(url: str, statement: str) -> None:
    """Do what somebody with the file can do: drop the triggers, then change rows."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.executescript(
        "DROP TRIGGER ledger_entries_no_update; DROP TRIGGER ledger_entries_no_delete;" + statement
    )
    connection.close()


def append_many(url: str, start, moved, count: int, expected_seq: int | None) -> None:
    ledger = Ledger(url)
    start.wait()
    for _ in range(count):
        try:
            add(ledger, expected_seq=expected_seq)
        except LedgerMoved:
            with moved.get_lock():
                moved.value += 1


def run_together(url: str, *, processes: int, count: int, expected_seq: int | None = None) -> int:
    start, moved = SPAWN.Barrier(processes), SPAWN.Value("i", 0)
    workers = [
        SPAWN.Process(target=append_many, args=(url, start, moved, count, expected_seq))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    return moved.value


def test_nothing_is_created_before_the_first_use(url, tmp_path):
    ledger = Ledger(url)
    assert not (tmp_path / "new").exists()
    assert ledger.head() == EMPTY == Head(0, "0" * 64)
    assert ledger.verify_chain() == []


def test_a_first_process_waits_while_another_one_creates_the_database(url, tmp_path):
    # Switching to WAL at the same moment fails at once in spite of busy_timeout: 21 of 3,200.
    folder = tmp_path / "new"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    second = threading.Thread(target=Ledger(url).head)
    second.start()
    second.join(timeout=0.5)
    assert list(folder.iterdir()) == []
    os.close(handle)
    second.join()
    assert (folder / "ledger.db").exists()


def test_entries_are_chained_and_survive_reopening(url, ledger):
    first, second = add(ledger), add(ledger, model="other", kind="else")
    assert (first.seq, first.prev_seq, first.prev_hash) == (1, 0, EMPTY.hash)
    assert (second.seq, second.prev_seq, second.prev_hash) == (2, 1, first.hash)
    reopened = Ledger(url)
    assert reopened.head() == Head(2, second.hash)
    assert reopened.entries() == [first, second]
    assert reopened.entries(model="other") == [second]
    assert reopened.entries(kinds=("note",)) == [first]
    assert reopened.entries(model="other", kinds=("note",)) == []
    assert reopened.models() == ["m", "other"]
    assert reopened.verify_chain() == []


def test_the_database_is_durable_and_shared(url, ledger):
    with ledger._reading() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "busy_timeout", "synchronous")
        ]
    assert pragmas == ["wal", 30_000, 2]


@pytest.mark.parametrize("processes", [2, 4])
def test_concurrent_processes_lose_nothing_and_fork_nothing(url, processes):
    assert run_together(url, processes=processes, count=25) == 0
    ledger = Ledger(url)
    assert [entry.seq for entry in ledger.entries()] == list(range(1, processes * 25 + 1))
    assert ledger.verify_chain() == []


def test_of_many_who_decided_on_the_same_head_one_wins(url, ledger):
    seq = add(ledger).seq
    assert run_together(url, processes=4, count=5, expected_seq=seq) == 4 * 5 - 1
    assert ledger.head().seq == seq + 1


def test_expected_seq_of_the_past_or_the_future_writes_nothing(ledger):
    add(ledger, expected_seq=0)
    for wrong in (0, 2):
        with pytest.raises(LedgerMoved, match=f"entry 1, not {wrong}.*decide again"):
            add(ledger, expected_seq=wrong)
    assert ledger.head().seq == 1


def test_a_writer_that_ignores_the_lock_cannot_fork_the_chain(url, ledger):
    add(ledger)
    fork = "INSERT INTO ledger_entries SELECT 2, 0, prev_hash, hash, kind, model, run_id, at, body"
    with pytest.raises(LedgerMoved, match="UNIQUE"), ledger._writing() as connection:
        connection.exec_driver_sql(f"{fork} FROM ledger_entries")
    assert ledger.head().seq == 1


@pytest.mark.parametrize(
    "statement", ["UPDATE ledger_entries SET model = 'x'", "DELETE FROM ledger_entries"]
)
def test_update_and_delete_are_refused(ledger, statement):
    entry = add(ledger)
    with pytest.raises(LedgerError, match="append-only"), ledger._writing() as connection:
        connection.exec_driver_sql(statement)
    assert ledger.entries() == [entry]


@pytest.mark.parametrize("column", ["kind", "model", "run_id", "at", "body"])
def test_an_edited_entry_is_found_and_not_read(url, ledger, column):
    for _ in range(3):
        add(ledger)
    tamper(url, f"UPDATE ledger_entries SET {column} = '{{}}' WHERE seq = 2")  # noqa: S608
    assert ledger.verify_chain() == ["entry 2 was edited: its content does not give its hash"]
    with pytest.raises(LedgerError, match="entry 2 was changed"):
        ledger.entries()


def test_an_entry_edited_with_a_new_hash_breaks_the_link(url, ledger):
    for _ in range(3):
        add(ledger)
    tamper(url, f"UPDATE ledger_entries SET hash = '{'a' * 64}' WHERE seq = 2")  # noqa: S608
    problems = ledger.verify_chain()
    assert problems[0].startswith("entry 2 was edited")
    assert problems[1:] == ["entry 3 does not continue entry 2: the chain is broken"]


def test_an_edited_link_is_found(url, ledger):
    for _ in range(2):
        add(ledger)
    tamper(url, f"UPDATE ledger_entries SET prev_hash = '{'a' * 64}' WHERE seq = 1")  # noqa: S608
    assert ledger.verify_chain() == [
        "entry 1 was edited: its content does not give its hash",
        "entry 1 does not continue entry 0: the chain is broken",
    ]


def test_a_forged_link_is_found_though_its_hash_is_right(url, ledger):
    add(ledger)
    row = {**ledger._rows(None, None)[0], "prev_seq": 7}
    tamper(url, f"UPDATE ledger_entries SET prev_seq = 7, hash = '{_hash(row)}'")  # noqa: S608
    assert ledger.verify_chain() == ["entry 1 does not continue entry 0: the chain is broken"]


def test_a_removed_entry_is_found(url, ledger):
    for _ in range(4):
        add(ledger)
    tamper(url, "DELETE FROM ledger_entries WHERE seq IN (2, 3)")
    assert ledger.verify_chain() == [
        "entries 2 to 3 are missing",
        "entry 4 does not continue entry 1: the chain is broken",
    ]


def test_reordered_entries_are_found(url, ledger):
    for model in "abc":
        add(ledger, model=model)
    tamper(
        url,
        "UPDATE ledger_entries SET seq = seq + 10 WHERE seq = 2;"
        "UPDATE ledger_entries SET seq = 2 WHERE seq = 3;"
        "UPDATE ledger_entries SET seq = 3 WHERE seq = 12;",
    )
    assert any("entry 2 does not continue entry 1" in line for line in ledger.verify_chain())


def test_a_shortened_or_rewritten_ledger_is_found_by_the_heads_kept_elsewhere(url, ledger):
    kept = [ledger.head()]
    for _ in range(3):
        add(ledger)
        kept.append(ledger.head())
    assert ledger.verify_chain(known_heads=kept) == []
    tamper(url, "DELETE FROM ledger_entries WHERE seq = 3")
    assert ledger.verify_chain() == []
    assert len(ledger.verify_chain(known_heads=kept)) == 1
    add(ledger, model="rewritten")
    problems = ledger.verify_chain(known_heads=kept)
    assert len(problems) == 1
    assert re.match("entry 3 .* restore it from a backup", problems[0])


def test_a_body_without_json_form_is_refused(ledger):
    for value in (float("nan"), float("inf"), object()):
        with pytest.raises(LedgerError, match="must be JSON"):
            ledger.append(kind="note", model="m", body={"x": value}, run_id="r")
    assert ledger.head() == EMPTY


def test_a_database_that_is_none_is_named(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_text("this is no database, but it is long enough to be read as a header" * 30)
    with pytest.raises(LedgerError, match=r"ledger\.db cannot be used.*MLCICD_LEDGER_URL"):
        Ledger(f"sqlite:///{path}").head()


def test_a_verdict_comes_back_as_it_was_booked(ledger):
    ledger.record_verdict("m", GOOD, run_id="r")
    found = ledger.latest_verdicts("m", subjects=[GOOD.subject], policy=GOOD.policy)
    assert found == {("contract", GOOD.subject): GOOD}


def test_the_newest_verdict_counts(ledger):
    for verdict in (GOOD, replace(GOOD, passed=False), replace(GOOD, gate="floors")):
        ledger.record_verdict("m", verdict, run_id="r")
    found = ledger.latest_verdicts("m", subjects=[GOOD.subject], policy=GOOD.policy)
    assert {gate: verdict.passed for (gate, _), verdict in found.items()} == {
        "contract": False,
        "floors": True,
    }


@pytest.mark.parametrize("other", [{"policy": "q" * 64}, {"subject": "e" * 64}])
def test_verdicts_on_other_subjects_or_policies_do_not_count(ledger, other):
    mention = {"detail": f"mentions {GOOD.subject}", "context": {"as": GOOD.subject}}
    ledger.record_verdict("m", replace(GOOD, **other, **mention), run_id="r")
    assert ledger.latest_verdicts("m", subjects=[GOOD.subject], policy=GOOD.policy) == {}


def test_verdicts_of_another_model_do_not_count(ledger):
    ledger.record_verdict("other", GOOD, run_id="r")
    assert ledger.latest_verdicts("m", subjects=[GOOD.subject], policy=GOOD.policy) == {}


def test_a_verdict_of_another_shape_hides_the_one_before(ledger):
    ledger.record_verdict("m", GOOD, run_id="r")
    body = {"gate": GOOD.gate, "subject": GOOD.subject, "policy": GOOD.policy, "passed": True}
    ledger.append(kind="verdict", model="m", body=body, run_id="r")
    assert ledger.latest_verdicts("m", subjects=[GOOD.subject], policy=GOOD.policy) == {}


def test_live_is_the_newest_released_outcome(ledger):
    assert ledger.live("m") is None
    assert ledger.last_outcome("m") is None
    release(ledger, 1)
    released = release(ledger, 2)
    last = [release(ledger, 3, outcome=name) for name in ("kept", "blocked", "abandoned")][-1]
    live = ledger.live("m")
    assert live is not None
    assert (live.version, live.digest, live.seq, live.at) == (
        2,
        "2" * 64,
        released.seq,
        released.at,
    )
    assert (live.run_id, live.reason) == ("run-2", "because")
    assert ledger.last_outcome("m") == last
    assert last.body["verdicts"] == ["gate 'contract' passed"]
    assert ledger.live("other") is None


def test_a_blocked_run_may_have_no_model_but_a_release_must(ledger):
    nothing = {"version": None, "digest": None, "reason": "bad data", "intent_seq": None}
    ledger.record_outcome("m", "blocked", **nothing, verdict_lines=[], run_id="r")
    for half in ({"version": 1}, {"digest": "d" * 64}):
        with pytest.raises(LedgerError, match="version and digest"):
            ledger.record_outcome(
                "m", "released", **{**nothing, **half}, verdict_lines=[], run_id="r"
            )
    assert ledger.head().seq == 1


def test_an_outcome_is_bound_to_the_head_it_was_decided_on(ledger):
    add(ledger)
    with pytest.raises(LedgerMoved):
        ledger.record_outcome(
            "m",
            "kept",
            version=1,
            digest="d",
            reason="",
            intent_seq=None,
            verdict_lines=[],
            run_id="r",
            expected_seq=0,
        )


def test_an_intent_is_unfinished_until_an_outcome_names_it(ledger):
    assert ledger.unfinished_intent("m") is None
    first, second = add(ledger, kind=INTENT), add(ledger, kind=INTENT)
    add(ledger, kind=INTENT, model="other")
    release(ledger, 1)
    assert ledger.unfinished_intent("m") == second
    release(ledger, 1, outcome="abandoned", intent=second.seq)
    assert ledger.unfinished_intent("m") == first
    release(ledger, 1, intent=first.seq)
    assert ledger.unfinished_intent("m") is None
    assert ledger.unfinished_intent("other") is not None


def test_of_two_trainings_of_one_key_the_first_is_kept(url, ledger):
    record = TrainedRecord("key", "m", 1, "d" * 64, "mlflow-1", 12.5, utc_now())
    assert ledger.find_trained("key") is None
    assert ledger.remember_trained(record) == record
    assert Ledger(url).remember_trained(replace(record, version=2)) == record
    assert ledger.find_trained("key") == record
    assert ledger.find_trained("other") is None


def test_landing_files_are_remembered_by_folder_and_replaced_by_name(ledger):
    old, bad = (
        SeenFile("a.csv", 1, 2, "x", "refused", "no header"),
        SeenFile("b.csv", 5, 2**62, "y", "ingested"),
    )
    ledger.remember_files("in", [])
    assert ledger.seen_files("in") == {}
    ledger.remember_files("in", [old, bad])
    ledger.remember_files("elsewhere", [bad])
    new = SeenFile("a.csv", 3, 4, "z", "ingested")
    ledger.remember_files("in", [old, new])
    assert ledger.seen_files("in") == {"a.csv": new, "b.csv": bad}
    assert ledger.seen_files("elsewhere") == {"b.csv": bad}
