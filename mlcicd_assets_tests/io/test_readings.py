"""Readings of the ledger: order from the chain, words for people, everything about one version."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlcicd_assets.io import ledger as ledger_module
from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.readings import (
    alarms,
    case_of,
    entries_of,
    history,
    in_words,
    lineage,
    live_at,
    moment_of,
    reigns,
)
from mlcicd_assets.ml.errors import ReleaseError

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
LINES = {"features_fingerprint": "f" * 64, "git_commit": "c1"}


class Book:
    """A ledger whose clock the test sets; a version's digest is its number."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger = Ledger(f"sqlite:///{path / 'ledger.db'}")
        self.patch = monkeypatch

    def add(self, kind: Any, *, hours: float = 0, run_id: str = "run", **body: Any) -> Entry:
        now = (NOON + timedelta(hours=hours)).isoformat()
        self.patch.setattr(ledger_module, "utc_now", lambda: now)
        if body.get("version"):
            body["digest"] = str(body["version"]) * 64
        return self.ledger.append(kind=kind, model="m", body=body, run_id=run_id)

    def outcome(self, outcome: str, version: int | None, **more: Any) -> Entry:
        told = {"reason": "because", "intent_seq": None, "data": {"raw": ["id", 3]}, "by": "ann"}
        return self.add("outcome", outcome=outcome, version=version, **told | more)

    def verdict(self, gate: str, subject: str, *, passed: bool = True, **more: Any) -> Entry:
        told = {"observed": "1", "threshold": "2", "detail": "", "policy": "p"} | more
        return self.add("verdict", gate=gate, subject=subject, passed=passed, **told)

    def entries(self) -> list[Entry]:
        return self.ledger.entries(model="m")

    def live(self, hours: float) -> int | None:
        found = live_at(self.entries(), NOON + timedelta(hours=hours))
        return found[1].body["version"] if found else None


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    return Book(tmp_path, monkeypatch)


def test_live_at_follows_releases_and_rollbacks_and_nothing_else(book: Book) -> None:
    book.outcome("released", 1)
    book.outcome("kept", 2, hours=1)
    book.outcome("released", 3, hours=2)
    book.outcome("blocked", 4, hours=3)
    book.outcome("rolled_back", 1, hours=4)
    hours = (-0.1, 0, 1.5, 2, 3.9, 4, 99)
    assert [book.live(hour) for hour in hours] == [None, 1, 1, 3, 3, 1, 1]


def test_a_clock_set_back_reorders_nothing(book: Book) -> None:
    book.outcome("released", 1, hours=10)
    book.outcome("released", 2, hours=5)
    book.outcome("released", 3, hours=11)
    assert [book.live(hour) for hour in (5, 9.9, 10, 10.9, 11)] == [None, None, 2, 2, 3]
    assert [since.hour for since, _ in reigns(book.entries())] == [22, 22, 23]


def test_an_offline_rollback_counts_from_when_it_was_done(book: Book) -> None:
    book.outcome("released", 1)
    book.outcome("released", 2, hours=1)
    book.verdict("g", "elsewhere", hours=8)
    done = (NOON + timedelta(hours=3)).isoformat()
    entry = book.outcome("rolled_back", 1, hours=9, offline_id="x", effective_at=done)
    assert [book.live(hour) for hour in (2.9, 3, 8.5)] == [2, 1, 1]
    assert in_words(entry).startswith("2026-11-21T15:00:00Z  entry 4  rolled back v1, offline, bo")


@pytest.mark.parametrize(
    ("text", "hour"), [("2026-11-21T09:30", 9), ("2026-11-21T09:30+02:00", 7), ("2026-11-21", 0)]
)
def test_a_moment_without_a_zone_is_utc(
    text: str, hour: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    assert moment_of(text).astimezone(UTC).hour == hour
    monkeypatch.undo()
    time.tzset()


def test_what_is_no_time_or_no_model_or_no_version_is_named(book: Book) -> None:
    with pytest.raises(ReleaseError, match="'soon' is no time"):
        moment_of("soon")
    with pytest.raises(ReleaseError, match="no model 'm'; the ledger knows: none"):
        entries_of(book.ledger, "m")
    book.outcome("blocked", None)
    with pytest.raises(ReleaseError, match="about v1, only about: none"):
        case_of(book.entries(), 1)
    book.outcome("kept", 2)
    with pytest.raises(ReleaseError, match="about v1, only about: v2"):
        lineage(entries_of(book.ledger, "m"), 1)


def test_history_puts_every_kind_into_words(book: Book) -> None:
    said = {"by": "ann", "reason": "why", "expires": "2026-12-01T00:00:00+00:00"}
    book.add("policy", digest="p", gates={})
    book.verdict("g", "s", passed=False)
    book.add("intent", action="rollback", version=1, by="ann", reason="why")
    book.outcome("blocked", None, reason="no [good]")
    book.add("approval", version=1, authenticated=False, how="command line", **said)
    book.add("override", gate="g", **said)
    book.add("freeze", until=said["expires"], by="ann", reason="why")
    told = [in_words(entry).split("  ", 2)[2] for entry in history(book.entries())]
    assert told == [
        "rollback begun v1  by ann: why",
        "blocked  by ann: no [good]",
        "approval until 2026-12-01T00:00 (command line, unauthenticated) v1  by ann: why",
        "override of gate g until 2026-12-01T00:00  by ann: why",
        "freeze until 2026-12-01T00:00  by ann: why",
    ]
    assert "gate g FAILED: observed 1, threshold 2  by run run: -" in in_words(book.entries()[1])


def test_a_case_holds_the_verdicts_of_the_decision_and_what_people_said(book: Book) -> None:
    digest, later = "2" * 64, (NOON + timedelta(hours=5)).isoformat()
    book.verdict("g", digest, passed=False)
    verdict = book.verdict("g", digest, passed=False)
    old_policy = book.verdict("g", digest, policy="old")
    data = book.verdict("d", LINES["features_fingerprint"])
    book.verdict("d", "another table", run_id="another")
    expired = book.add("freeze", until=NOON.isoformat(), by="bob", reason="done")
    frozen = book.add("freeze", until=later, by="bob", reason="hold", hours=1)
    said = {"by": "ann", "reason": "why", "expires": later}
    override = book.add("override", gate="g", subject=digest, policy="p", **said)
    book.add("override", gate="g", subject=digest, policy="old", **said)
    book.add("override", gate="g", subject="other", policy="p", **said)
    approval = book.add("approval", version=2, **said)
    book.add("approval", version=3, **said)
    intent = book.add("intent", action="release", version=2, policy="p", by="ann", reason="r")
    book.verdict("g", digest, passed=True)
    book.outcome("released", 2, intent_seq=intent.seq, hours=2, lineage=LINES)
    kept = book.outcome("kept", 2, hours=3)
    case = case_of(book.entries(), 2)
    assert (case.policy, case.decision.body["outcome"]) == ("p", "released")
    assert case.verdicts == [verdict, data]
    assert case.said == [frozen, override, approval, intent, case.decision, kept]
    assert old_policy not in case.verdicts
    assert expired not in case.said


def test_a_failed_gate_is_found_by_its_run_where_the_outcome_has_no_lineage(book: Book) -> None:
    data = book.verdict("d", "table", run_id="r1")
    book.verdict("d", "table", run_id="r2", policy="p")
    own = book.verdict("g", "1" * 64, passed=False, run_id="r1")
    book.add("freeze", until=NOON.isoformat(), by="bob", reason="over by then")
    outcome = book.outcome("blocked", 1, run_id="r1", lineage=None)
    case = case_of(book.entries(), 1)
    assert case.policy == "p"
    assert case.verdicts == [data, own]
    assert case.said == [outcome]


def test_lineage_tells_what_made_it_and_every_release(book: Book) -> None:
    book.outcome("awaiting", 1, lineage=LINES)
    book.outcome("released", 1, hours=1, lineage=LINES | {"git_commit": "c2"})
    book.outcome("released", 2, hours=2)
    book.outcome("rolled_back", 1, hours=3, lineage=None, data={})
    told = lineage(book.entries(), 1)
    assert told["lineage"]["git_commit"] == "c2"
    assert told["data"] == {"raw": ["id", 3]}
    assert [line.split(" by ")[1] for line in told["released"]] == ["entry 2", "entry 4"]


def test_alarms_are_what_is_in_force_now(book: Book) -> None:
    past, future = ("2020-01-01T00:00:00+00:00", "2990-01-01T00:00:00+00:00")
    said = {"gate": "g", "by": "ann", "reason": "why"}
    book.add("override", expires=past, **said)
    override = book.add("override", expires=future, **said)
    book.add("freeze", until=future, **said)
    frozen = book.add("freeze", until=future, **said)
    waiting = book.outcome("awaiting", 1)
    book.outcome("blocked", None)
    assert alarms(book.entries()) == [override, frozen, waiting]
    book.add("freeze", until=past, **said)
    book.outcome("released", 1)
    assert alarms(book.entries()) == [override]
