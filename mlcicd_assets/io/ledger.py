"""The ledger: the append-only, hash-chained truth about every decision."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import sqlalchemy as sa

from mlcicd_assets.io.ledger_tables import LedgerDatabase, entries, utc_now
from mlcicd_assets.ml.errors import LedgerError, LedgerMoved
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import Outcome, Verdict

Kind = Literal[
    "policy", "verdict", "intent", "outcome", "approval", "override", "freeze", "recall", "image"
]
MAKES_LIVE = {"released", "rolled_back"}


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
    kind: Kind
    model: str
    run_id: str
    at: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Live:
    """The version that the newest release or rollback names, since when and why."""

    version: int
    digest: str
    at: str
    reason: str


class Ledger(LedgerDatabase):
    """Append-only entries in SQLite or PostgreSQL, each bound to the one before by its hash.

    Writers are serialised by a lock of the database, and `UNIQUE(prev_seq)` makes a fork
    impossible without it. Triggers refuse UPDATE and DELETE: protection against accidents, not
    attackers. Edited rows are refused when they are read; `verify_chain` also
    finds removed ones, and with the heads written into pointers a ledger rewritten as a whole.

    `definition` says by what definition of the model runs decide; intents and outcomes keep it.

    Every method raises LedgerError when the database does not answer or an entry was edited.
    """

    def __init__(self, url: str, *, definition: str | None = None) -> None:
        super().__init__(url)
        self._definition = {"definition": definition} if definition else {}

    def head(self) -> Head:
        """Return the newest entry's number and hash; `EMPTY` when there is none."""
        with self._reading() as connection:
            return _head(connection)

    def append(
        self,
        *,
        kind: Kind,
        model: str,
        body: Mapping[str, Any],
        run_id: str,
        expected_seq: int | None = None,
    ) -> Entry:
        """Write one entry; with `expected_seq` only while the head is still that entry.

        Raises:
            LedgerMoved: the head is no longer `expected_seq`; nothing was written.
            ValueError: `body` has no JSON form (NaN has none).
        """
        if kind in {"intent", "outcome"}:
            body = {**self._definition, **body}
        with self._writing() as connection:
            head = _head(connection)
            if expected_seq is not None and head.seq != expected_seq:
                raise LedgerMoved(
                    f"the ledger stands at entry {head.seq}, not {expected_seq}: someone else "
                    "wrote first; read it and decide again"
                )
            row: dict[str, Any] = {"seq": head.seq + 1, "prev_seq": head.seq}
            row |= {"prev_hash": head.hash, "kind": kind, "model": model}
            row |= {"run_id": run_id, "at": utc_now(), "body": _canonical_json(body)}
            row["hash"] = _hash(row)
            connection.execute(entries.insert().values(row))
        return _entry(row)

    def entries(
        self, *, model: str | None = None, kinds: Collection[Kind] | None = None
    ) -> list[Entry]:
        """Return entries oldest first, of one model or all, of some kinds or all."""
        query = sa.select(entries).order_by(entries.c.seq)
        if model is not None:
            query = query.where(entries.c.model == model)
        if kinds is not None:
            query = query.where(entries.c.kind.in_(kinds))
        with self._reading() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def verify_chain(self, *, known_heads: Collection[Head] = ()) -> list[str]:
        """Return every break of the chain in words; empty means that it is whole.

        `known_heads` are heads kept elsewhere (release pointers): without them a shortened or
        wholly rewritten ledger looks whole.
        """
        with self._reading() as connection:
            rows = connection.execute(sa.select(entries).order_by(entries.c.seq)).mappings().all()
        problems: list[str] = []
        heads = [EMPTY]
        for row in rows:
            seq, before = row["seq"], heads[-1]
            if _hash(row) != row["hash"]:
                problems.append(f"entry {seq} was edited: its content does not give its hash")
            link = (seq, row["prev_seq"], row["prev_hash"])
            if link != (before.seq + 1, before.seq, before.hash):
                problems.append(f"entry {seq} does not continue entry {before.seq}")
            heads.append(Head(seq, row["hash"]))
        return problems + [
            f"entry {head.seq} is not the one that a release was bound to: the ledger was "
            "shortened or rewritten; restore it from a backup"
            for head in known_heads
            if head not in heads
        ]

    def record_policy(self, model: str, gates: Gates, *, run_id: str) -> None:
        """Keep what a policy digest stands for, once."""
        body = {"digest": policy_digest(gates), "gates": gates.model_dump(mode="json")}
        if all(entry.body != body for entry in self.entries(model=model, kinds=("policy",))):
            self.append(kind="policy", model=model, body=body, run_id=run_id)

    def record_verdict(self, model: str, verdict: Verdict, *, run_id: str) -> Entry:
        """Book one gate's answer."""
        return self.append(kind="verdict", model=model, body=asdict(verdict), run_id=run_id)

    def latest_verdicts(
        self, model: str, *, subjects: Collection[str], policy: str
    ) -> dict[tuple[str, str], Verdict]:
        """Return the newest verdict per (gate, subject) under exactly this policy."""
        newest = {
            (body["gate"], body["subject"]): body
            for body in (entry.body for entry in self.entries(model=model, kinds=("verdict",)))
            if body["subject"] in subjects and body["policy"] == policy
        }
        # A verdict with other fields is from another release of this package: as good as none.
        names = {field.name for field in fields(Verdict)}
        return {key: Verdict(**body) for key, body in newest.items() if set(body) == names}

    def record_outcome(
        self,
        model: str,
        outcome: Outcome,
        *,
        version: int | None = None,
        digest: str | None = None,
        reason: str,
        data: Mapping[str, tuple[str, int]],
        intent_seq: int | None = None,
        run_id: str,
        expected_seq: int | None = None,
        **more: Any,
    ) -> Entry:
        """Book how a run ended; `intent_seq` closes that intent.

        `data` is table id and version by table (`RawData.versions`): what the run was about.
        `version` and `digest` are None only when a run ended before there was a model. `more`
        goes into the body as it is.

        Raises:
            LedgerError: a release that does not say what was released.
            LedgerMoved: as in `append`.
        """
        if outcome in MAKES_LIVE and (version is None or digest is None):
            raise LedgerError("a released outcome must name its version and digest: give both")
        body = {"outcome": outcome, "version": version, "digest": digest, "reason": reason}
        # What an intent decided on may be another definition than that of the run that closes it.
        more = more if intent_seq is None else {"definition": None, **more}
        body |= {"intent_seq": intent_seq, "data": dict(data), **more}
        return self.append(
            kind="outcome", model=model, body=body, run_id=run_id, expected_seq=expected_seq
        )

    def live(self, model: str) -> Live | None:
        """Return what the newest release or rollback made live; None before the first release."""
        for entry in reversed(self.entries(model=model, kinds=("outcome",))):
            body = entry.body
            if body["outcome"] in MAKES_LIVE:
                return Live(body["version"], body["digest"], entry.at, body["reason"])
        return None

    def unfinished_intent(self, model: str) -> Entry | None:
        """Return the newest intent that no outcome names: a release that was cut off."""
        booked = self.entries(model=model, kinds=("intent", "outcome"))
        finished = {entry.body["intent_seq"] for entry in booked if entry.kind == "outcome"}
        open_ones = [e for e in booked if e.kind == "intent" and e.seq not in finished]
        return open_ones[-1] if open_ones else None

    def last_outcome(self, model: str) -> Entry | None:
        """Return how the model's newest finished run ended."""
        return next(iter(self.last_outcomes(model, limit=1)), None)

    def last_outcomes(self, model: str, *, limit: int) -> list[Entry]:
        """Return the model's newest outcomes, newest first; reads no more than that."""
        is_one = (entries.c.model == model) & (entries.c.kind == "outcome")
        query = sa.select(entries).where(is_one).order_by(entries.c.seq.desc()).limit(limit)
        with self._reading() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def models(self) -> list[str]:
        """Return the names of all models that the ledger knows, sorted."""
        query = sa.select(entries.c.model).distinct()
        with self._reading() as connection:
            return sorted(connection.execute(query).scalars())


def _canonical_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(row: Mapping[Any, Any]) -> str:
    # A flipped bit may make bytes of a text: that has no JSON form, and no right hash.
    content = {
        name: str(value) if isinstance(value, bytes) else value
        for name, value in row.items()
        if name != "hash"
    }
    return hashlib.sha256(_canonical_json(content).encode()).hexdigest()


def _head(connection: sa.Connection) -> Head:
    query = sa.select(entries.c.seq, entries.c.hash).order_by(entries.c.seq.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return EMPTY if row is None else Head(row.seq, row.hash)


def _entry(row: Mapping[Any, Any]) -> Entry:
    if _hash(row) != row["hash"]:
        raise LedgerError(
            f"entry {row['seq']} was changed after it was written: verify the chain and restore "
            "the ledger from a backup"
        )
    return Entry(**{**row, "body": json.loads(row["body"])})
