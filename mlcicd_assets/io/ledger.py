"""The ledger: the append-only, hash-chained truth about verdicts, intents and outcomes."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa

from mlcicd_assets.io.ledger_tables import LedgerDatabase, entries, utc_now
from mlcicd_assets.ml.errors import LedgerError, LedgerMoved
from mlcicd_assets.ml.values import Outcome, Verdict

VERDICT, INTENT, OUTCOME = "verdict", "intent", "outcome"

BookedOutcome = Outcome | Literal["abandoned"]


@dataclass(frozen=True)
class Head:
    """The newest entry: its number and its hash, which stands for everything before it."""

    seq: int
    hash: str


EMPTY = Head(0, "0" * 64)


@dataclass(frozen=True)
class Entry:
    """One row; `at` is ISO 8601 UTC by the writer's clock, order comes from `seq` alone."""

    seq: int
    prev_seq: int
    prev_hash: str
    hash: str
    kind: str
    model: str
    run_id: str
    at: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Live:
    """The version that the newest released outcome names."""

    version: int
    digest: str
    seq: int
    at: str
    run_id: str
    reason: str


class Ledger(LedgerDatabase):
    """Append-only entries in SQLite or PostgreSQL, each bound to the one before by its hash.

    Writers are serialised by a lock of the database, and `UNIQUE(prev_seq)` makes a fork
    impossible without it. On SQLite, triggers refuse UPDATE and DELETE: protection against
    accidents, not attackers. Edited rows are refused when they are read; `verify_chain` also
    finds removed ones, and with the heads written into pointers a ledger rewritten as a whole.

    Every method raises LedgerError when the database does not answer.
    """

    def head(self) -> Head:
        """Return the newest entry's number and hash; `EMPTY` when there is none."""
        with self._reading() as connection:
            return _head(connection)

    def append(
        self,
        *,
        kind: str,
        model: str,
        body: Mapping[str, Any],
        run_id: str,
        expected_seq: int | None = None,
    ) -> Entry:
        """Write one entry; with `expected_seq` only while the head is still that entry.

        Raises:
            LedgerMoved: the head is no longer `expected_seq`; nothing was written.
            LedgerError: `body` has no JSON form (NaN has none).
        """
        text = _body_text(body)
        with self._writing() as connection:
            head = _head(connection)
            if expected_seq is not None and head.seq != expected_seq:
                raise LedgerMoved(
                    f"the ledger stands at entry {head.seq}, not {expected_seq}: someone else "
                    "wrote first; read it and decide again"
                )
            row: dict[str, Any] = {"seq": head.seq + 1, "prev_seq": head.seq}
            row |= {"prev_hash": head.hash, "kind": kind, "model": model}
            row |= {"run_id": run_id, "at": utc_now(), "body": text}
            row["hash"] = _hash(row)
            connection.execute(entries.insert().values(row))
        return _entry(row)

    def entries(
        self, *, model: str | None = None, kinds: Collection[str] | None = None
    ) -> list[Entry]:
        """Return entries oldest first, of one model or all, of some kinds or all.

        Raises:
            LedgerError: one of them was edited after it was written.
        """
        return [_entry(row) for row in self._rows(model, kinds)]

    def verify_chain(self, *, known_heads: Collection[Head] = ()) -> list[str]:
        """Return every break of the chain in words; empty means that it is whole.

        `known_heads` are heads kept elsewhere (release pointers): without them a shortened or
        wholly rewritten ledger looks whole.
        """
        rows = self._rows(None, None)
        problems: list[str] = []
        before = EMPTY
        for row in rows:
            problems += _breaks(row, before)
            before = Head(row["seq"], row["hash"])
        hashes = {EMPTY.seq: EMPTY.hash} | {row["seq"]: row["hash"] for row in rows}
        problems += [
            f"entry {head.seq} is not the one that a release was bound to: the ledger was "
            "shortened or rewritten; restore it from a backup"
            for head in known_heads
            if hashes.get(head.seq) != head.hash
        ]
        return problems

    def record_verdict(self, model: str, verdict: Verdict, *, run_id: str) -> Entry:
        """Book one gate's answer."""
        return self.append(kind=VERDICT, model=model, body=asdict(verdict), run_id=run_id)

    def latest_verdicts(
        self, model: str, *, subjects: Collection[str], policy: str
    ) -> dict[tuple[str, str], Verdict]:
        """Return the newest verdict per (gate, subject) under exactly this policy."""
        quoted = [json.dumps(subject) for subject in subjects]
        newest: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self._rows(model, (VERDICT,)):
            if any(text in row["body"] for text in quoted):  # spares parsing all the others
                body = _entry(row).body
                if body["subject"] in subjects and body["policy"] == policy:
                    newest[body["gate"], body["subject"]] = body
        # A verdict with other fields is from another release of this package: as good as none.
        names = {field.name for field in fields(Verdict)}
        return {key: Verdict(**body) for key, body in newest.items() if set(body) == names}

    def record_outcome(
        self,
        model: str,
        outcome: BookedOutcome,
        *,
        version: int | None = None,
        digest: str | None = None,
        reason: str,
        data: Mapping[str, tuple[str, int]],
        intent_seq: int | None = None,
        run_id: str,
        expected_seq: int | None = None,
    ) -> Entry:
        """Book how a run ended; `intent_seq` closes that intent.

        `data` is table id and version by table (`RawData.versions`): what the run was about.

        `version` and `digest` are None only when a run ended before there was a model.

        Raises:
            LedgerError: a release that does not say what was released.
            LedgerMoved: as in `append`.
        """
        if outcome == "released" and (version is None or digest is None):
            raise LedgerError("a released outcome must name its version and digest: give both")
        body = {"outcome": outcome, "version": version, "digest": digest, "reason": reason}
        body |= {"intent_seq": intent_seq, "data": dict(data)}
        return self.append(
            kind=OUTCOME, model=model, body=body, run_id=run_id, expected_seq=expected_seq
        )

    def live(self, model: str) -> Live | None:
        """Return what the newest released outcome made live; None before the first release."""
        for row in reversed(self._rows(model, (OUTCOME,))):
            entry = _entry(row)
            if entry.body["outcome"] == "released":
                return Live(
                    version=entry.body["version"],
                    digest=entry.body["digest"],
                    seq=entry.seq,
                    at=entry.at,
                    run_id=entry.run_id,
                    reason=entry.body["reason"],
                )
        return None

    def unfinished_intent(self, model: str) -> Entry | None:
        """Return the newest intent that no later outcome names: a release that was cut off."""
        answered: set[int | None] = set()
        for row in reversed(self._rows(model, (INTENT, OUTCOME))):
            entry = _entry(row)
            if entry.kind == OUTCOME:
                answered.add(entry.body["intent_seq"])
            elif entry.seq not in answered:
                return entry
        return None

    def last_outcome(self, model: str) -> Entry | None:
        """Return how the model's newest finished run ended."""
        rows = self._rows(model, (OUTCOME,))
        return _entry(rows[-1]) if rows else None

    def models(self) -> list[str]:
        """Return the names of all models that the ledger knows, sorted."""
        query = sa.select(entries.c.model).distinct()
        with self._reading() as connection:
            return sorted(connection.execute(query).scalars())

    def _rows(self, model: str | None, kinds: Collection[str] | None) -> list[dict[str, Any]]:
        query = sa.select(entries).order_by(entries.c.seq)
        if model is not None:
            query = query.where(entries.c.model == model)
        if kinds is not None:
            query = query.where(entries.c.kind.in_(kinds))
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def canonical_json(value: Mapping[str, Any]) -> str:
    """Return the one JSON text of a value: sorted keys, no blanks, ASCII, no NaN.

    Raises:
        TypeError, ValueError: a part has no JSON form.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _body_text(body: Mapping[str, Any]) -> str:
    try:
        return canonical_json(body)
    except (TypeError, ValueError) as error:
        raise LedgerError(
            f"a ledger entry must be JSON: {error}; write numbers that are not finite as null"
        ) from error


def _hash(row: Mapping[str, Any]) -> str:
    content = {name: value for name, value in row.items() if name != "hash"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def _head(connection: sa.Connection) -> Head:
    query = sa.select(entries.c.seq, entries.c.hash).order_by(entries.c.seq.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return EMPTY if row is None else Head(row.seq, row.hash)


def _entry(row: Mapping[str, Any]) -> Entry:
    if _hash(row) != row["hash"]:
        raise LedgerError(
            f"entry {row['seq']} was changed after it was written: verify the chain and restore "
            "the ledger from a backup"
        )
    return Entry(**{**row, "body": json.loads(row["body"])})


def _breaks(row: Mapping[str, Any], before: Head) -> list[str]:
    seq = row["seq"]
    problems: list[str] = []
    if _hash(row) != row["hash"]:
        problems.append(f"entry {seq} was edited: its content does not give its hash")
    if seq != before.seq + 1:
        problems.append(f"entries {before.seq + 1} to {seq - 1} are missing")
    if row["prev_seq"] != seq - 1 or row["prev_hash"] != before.hash:
        problems.append(f"entry {seq} does not continue entry {before.seq}: the chain is broken")
    return problems
