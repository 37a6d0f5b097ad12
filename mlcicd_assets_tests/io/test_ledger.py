import multiprocessing
from dataclasses import asdict, replace

import pytest
import sqlalchemy as sa

from mlcicd_assets.io.ledger import EMPTY, Head, Ledger, Live, _hash
from mlcicd_assets.io.ledger_tables import SeenFile, SeenTable, TrainedRecord, utc_now
from mlcicd_assets.ml.errors import LedgerError, LedgerMoved
from mlcicd_assets.ml.values import Trial, Verdict
from mlcicd_assets_tests.postgres import PASSWORD
from mlcicd_assets_tests.processes import free_port

SPAWN = multiprocessing.get_context("spawn")
GOOD = Verdict("contract", 1, "f" * 64, "p" * 64, True, "0 rows", "0 rows", 10, context={"a": 1})


@pytest.fixture
def url(ledger_url: str) -> str:
    return ledger_url


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url)


def add(ledger: Ledger, *, model: str = "m", kind: str = "note", expected_seq: int | None = None):
    return ledger.append(
        kind=kind, model=model, body={"n": 1}, run_id="r", expected_seq=expected_seq
    )


def finish(ledger: Ledger, version: int | None, outcome: str = "released", **more):
    digest = None if version is None else str(version) * 64
    told = {"reason": "because", "data": {"raw": ("table-id", 3)}, "run_id": f"run-{version}"}
    return ledger.record_outcome("m", outcome, version=version, digest=digest, **told | more)


def tamper(url: str, statement: str) -> None:
    """Do what the owner of the database can do: drop the triggers, then change rows."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    drop = ["DROP TRIGGER ledger_entries_no_update", "DROP TRIGGER ledger_entries_no_delete"]
    if url.startswith("postgresql"):
        drop = ["DROP TRIGGER ledger_entries_refuse ON ledger_entries"]
    with engine.begin() as connection:
        for one in (*drop, statement):
            connection.exec_driver_sql(one)


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


def test_nothing_is_created_before_the_first_use(url):
    ledger, engine = Ledger(url), sa.create_engine(url, poolclass=sa.NullPool)
    assert sa.inspect(engine).get_table_names() == []
    assert ledger.head() == EMPTY == Head(0, "0" * 64)
    assert ledger.verify_chain() == []


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


def test_the_database_waits_and_a_commit_survives_a_power_cut(tmp_path):
    with Ledger(f"sqlite:///{tmp_path / 'own.db'}")._reading() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("busy_timeout", "synchronous")
        ]
    assert pragmas == [30_000, 3]


def test_concurrent_processes_lose_nothing_and_fork_nothing(url):
    assert run_together(url, processes=4, count=25) == 0
    ledger = Ledger(url)
    assert [entry.seq for entry in ledger.entries()] == list(range(1, 101))
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
    with pytest.raises(LedgerError, match=r"(?i)unique"), ledger._writing() as connection:
        connection.exec_driver_sql(f"{fork} FROM ledger_entries")
    assert ledger.head().seq == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entries SET model = 'x'",
        "DELETE FROM ledger_entries",
        "TRUNCATE ledger_entries",
    ],
)
def test_update_and_delete_are_refused(url, ledger, statement):
    if url.startswith("sqlite"):
        statement = statement.replace("TRUNCATE", "DELETE FROM")  # it knows no other way
    entry = add(ledger)
    with pytest.raises(LedgerError, match="append-only"), ledger._writing() as connection:
        connection.exec_driver_sql(statement)
    assert ledger.entries() == [entry]


@pytest.mark.parametrize("column", ["kind", "model", "run_id", "at", "body"])
def test_an_edited_entry_is_found_and_not_read(url, ledger, column):
    add(ledger), add(ledger)
    tamper(url, f"UPDATE ledger_entries SET {column} = '{{}}' WHERE seq = 2")  # noqa: S608
    assert ledger.verify_chain() == ["entry 2 was edited: its content does not give its hash"]
    with pytest.raises(LedgerError, match="entry 2 was changed"):
        ledger.entries()


@pytest.mark.parametrize("changed", [{"seq": 7}, {"prev_seq": 7}, {"prev_hash": "a" * 64}])
def test_a_forged_link_is_found_though_its_hash_is_right(url, ledger, changed):
    row = asdict(add(ledger)) | {"body": '{"n":1}'} | changed
    values = ", ".join(f"{name} = '{value}'" for name, value in changed.items())
    tamper(url, f"UPDATE ledger_entries SET {values}, hash = '{_hash(row)}'")  # noqa: S608
    assert ledger.verify_chain() == [f"entry {row['seq']} does not continue entry 0"]


def test_a_removed_entry_is_found(url, ledger):
    add(ledger), add(ledger), add(ledger)
    tamper(url, "DELETE FROM ledger_entries WHERE seq = 2")
    assert ledger.verify_chain() == ["entry 3 does not continue entry 1"]


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
    assert [problem.split(" is not")[0] for problem in problems] == ["entry 3"]


def test_what_has_no_json_form_is_not_written(ledger):
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(kind="note", model="m", body={"x": float("nan")}, run_id="r")
    assert ledger.head() == EMPTY


def test_a_server_that_does_not_answer_is_named_without_its_password():
    down = f"127.0.0.1:{free_port()}/ledger"
    with pytest.raises(LedgerError) as caught:
        Ledger(f"postgresql+psycopg2://mlcicd:{PASSWORD}@{down}").head()
    told = str(caught.value)
    assert f"the ledger postgresql+psycopg2://mlcicd:***@{down} cannot be used" in told
    assert "check MLCICD_LEDGER_URL" in told
    assert PASSWORD not in told + repr(caught.value.__cause__)


def test_a_database_that_is_none_is_named(tmp_path):
    path = tmp_path / "ledger.db"
    path.write_text("this is no database, but it is long enough to be read as a header" * 30)
    with pytest.raises(LedgerError, match=r"ledger\.db cannot be used.*MLCICD_LEDGER_URL"):
        Ledger(f"sqlite:///{path}").head()


def judged(ledger: Ledger):
    return ledger.latest_verdicts("m", subjects=[GOOD.subject], policy=GOOD.policy)


def test_the_newest_verdict_comes_back_as_it_was_booked(ledger):
    floors = replace(GOOD, gate="floors")
    for verdict in (replace(GOOD, passed=False), floors, GOOD):
        ledger.record_verdict("m", verdict, run_id="r")
    assert judged(ledger) == {("contract", GOOD.subject): GOOD, ("floors", GOOD.subject): floors}
    ledger.record_verdict("m", replace(GOOD, passed=False), run_id="r")
    assert judged(ledger)["contract", GOOD.subject].passed is False


@pytest.mark.parametrize(
    ("model", "changed"),
    [("m", {"policy": "q" * 64}), ("m", {"subject": "e" * 64}), ("other", {})],
)
def test_verdicts_on_something_else_do_not_count(ledger, model, changed):
    ledger.record_verdict(model, replace(GOOD, **changed), run_id="r")
    assert judged(ledger) == {}


def test_a_verdict_of_another_shape_hides_the_one_before(ledger):
    ledger.record_verdict("m", GOOD, run_id="r")
    body = {"gate": GOOD.gate, "subject": GOOD.subject, "policy": GOOD.policy, "passed": True}
    ledger.append(kind="verdict", model="m", body=body, run_id="r")
    assert judged(ledger) == {}


def test_live_is_the_newest_released_outcome(ledger):
    assert ledger.live("m") is None
    assert ledger.last_outcome("m") is None
    finish(ledger, 1)
    released = finish(ledger, 2)
    finish(ledger, 3, "kept")
    last = finish(ledger, None, "blocked")
    assert ledger.live("m") == Live(2, "2" * 64, released.at, "because")
    assert ledger.live("other") is None
    assert ledger.last_outcome("m") == last


def test_an_outcome_says_what_it_is_about_and_is_bound_to_its_head(ledger):
    finish(ledger, None, "blocked", expected_seq=0)
    assert ledger.entries()[0].body == {
        "outcome": "blocked",
        "version": None,
        "digest": None,
        "reason": "because",
        "intent_seq": None,
        "data": {"raw": ["table-id", 3]},
    }
    with pytest.raises(LedgerMoved):
        finish(ledger, 1, "kept", expected_seq=0)


@pytest.mark.parametrize("half", [{"version": 1}, {"digest": "d" * 64}])
def test_a_release_must_say_what_was_released(ledger, half):
    with pytest.raises(LedgerError, match="version and digest"):
        ledger.record_outcome("m", "released", **half, reason="", data={}, run_id="r")


def test_an_intent_is_unfinished_until_an_outcome_names_it(ledger):
    assert ledger.unfinished_intent("m") is None
    first, second = add(ledger, kind="intent"), add(ledger, kind="intent")
    add(ledger, kind="intent", model="other")
    finish(ledger, 1)
    assert ledger.unfinished_intent("m") == second
    finish(ledger, 1, "blocked", intent_seq=second.seq)
    assert ledger.unfinished_intent("m") == first
    finish(ledger, 1, intent_seq=first.seq)
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
    old = SeenFile("a.csv", 1, 2, "x", "refused", "no header")
    new = SeenFile("a.csv", 3, 2**62, "z", "ingested")
    other = replace(old, name="b.csv")
    assert ledger.seen_files("in") == {}
    ledger.remember_files("in", [old, other])
    ledger.remember_files("elsewhere", [old])
    ledger.remember_files("in", [new])
    assert ledger.seen_files("in") == {"a.csv": new, "b.csv": other}
    assert ledger.seen_files("elsewhere") == {"a.csv": old}


def test_a_finished_trial_and_a_reuse_are_kept_once(url, ledger):
    record = TrainedRecord("key", "m", 1, "d" * 64, "mlflow-1", 12.5, utc_now())
    trial = Trial(0, {"max_iter": 20, "rate": None}, 0.75, 1.5)
    for again in (trial, replace(trial, score=0.1)):
        ledger.remember_trial("key", again)
    for run in ("a", "a", "b"):
        ledger.remember_reuse(record, run)
    assert Ledger(url).trials("key") == {0: trial}
    assert Ledger(url).trials("other") == {}
    assert ledger.saved_seconds("m") == 25.0
    assert ledger.saved_seconds("other") == 0.0


def test_sums_of_files_are_replaced_by_path(ledger):
    ledger.remember_file_sums("t", "r", {"a": "1", "b": "2"})
    ledger.remember_file_sums("t", "r", {"b": "3", "c": "100% new"})
    assert ledger.file_sums("t", "r") == {"a": "1", "b": "3", "c": "100% new"}
    assert ledger.file_sums("t", "other") == ledger.file_sums("other", "r") == {}


def test_an_older_look_at_a_table_does_not_replace_a_newer_one(ledger):
    seen = SeenTable("uri", "id", 2**40, "f", "c")
    for one in (seen, replace(seen, version=3), replace(seen, uri="another")):
        ledger.remember_table(one)
    assert ledger.seen_table("uri") == seen
    assert ledger.seen_addresses() == ["another", "uri"]
    ledger.remember_table(replace(seen, table_id="made again", version=0))
    assert ledger.seen_table("uri").version == 0
    ledger.forget_table("uri")
    assert ledger.seen_table("uri") is None
