"""The ledger database: its engine and tables, and the two side tables that only remember."""

import fcntl
import os
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy import event, exc

from mlcicd_assets.ml.errors import LedgerError, LedgerMoved

metadata = sa.MetaData()


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


entries = sa.Table(
    "ledger_entries",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("prev_seq", sa.Integer, nullable=False, unique=True),
    *_texts("prev_hash", "hash", "kind", "model", "run_id", "at", "body"),
    sa.Index("ledger_entries_by_model", "model", "kind", "seq"),
)

trained = sa.Table(
    "trained",
    metadata,
    sa.Column("training_key", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    *_texts("model", "digest", "mlflow_run_id", "at"),
)

landing_files = sa.Table(
    "landing_files",
    metadata,
    sa.Column("folder", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mtime_ns", sa.BigInteger, nullable=False),
    *_texts("digest", "status", "detail"),
)

# Against accidents only: who may write the file can drop these. `verify_chain` finds that.
_TRIGGERS = tuple(
    f"CREATE TRIGGER IF NOT EXISTS ledger_entries_no_{verb.lower()} "
    f"BEFORE {verb} ON ledger_entries BEGIN "
    "SELECT RAISE(ABORT, 'the ledger is append-only: append a correction instead'); END"
    for verb in ("UPDATE", "DELETE")
)

# One writer at a time, so that what a write read first is still true when it commits.
_WRITE_LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "SELECT pg_advisory_xact_lock(1835820905)",
}


@dataclass(frozen=True)
class TrainedRecord:
    """What one training key gave; `seconds` is what the training cost, `at` ISO 8601 UTC."""

    training_key: str
    model: str
    version: int
    digest: str
    mlflow_run_id: str
    seconds: float
    at: str


@dataclass(frozen=True)
class SeenFile:
    """A landing file that was dealt with; `detail` says why it was refused."""

    name: str
    size: int
    mtime_ns: int
    digest: str
    status: Literal["ingested", "refused"]
    detail: str = ""


def utc_now() -> str:
    """Return the clock's time as ISO 8601 UTC: information for people, never an input."""
    return datetime.now(UTC).isoformat()


class LedgerDatabase:
    """Connections to the ledger database, and its side tables outside the chain."""

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)
        self._engine: sa.Engine | None = None

    def find_trained(self, training_key: str) -> TrainedRecord | None:
        """Return what this key has already given, if anything."""
        with self._reading() as connection:
            return _trained(connection, training_key)

    def remember_trained(self, record: TrainedRecord) -> TrainedRecord:
        """Keep the record unless its key is known; return the one that is kept."""
        with self._writing() as connection:
            known = _trained(connection, record.training_key)
            if known is None:
                connection.execute(trained.insert().values(asdict(record)))
        return known or record

    def seen_files(self, folder: str) -> dict[str, SeenFile]:
        """Return the files of this landing folder dealt with so far, by name."""
        columns = [column for column in landing_files.c if column.name != "folder"]
        query = sa.select(*columns).where(landing_files.c.folder == folder)
        with self._reading() as connection:
            return {row["name"]: SeenFile(**row) for row in connection.execute(query).mappings()}

    def remember_files(self, folder: str, files: Collection[SeenFile]) -> None:
        """Keep these files; a name already known is replaced."""
        if not files:
            return
        rows = [{"folder": folder, **asdict(file)} for file in {f.name: f for f in files}.values()]
        same = landing_files.delete().where(
            landing_files.c.folder == folder, landing_files.c.name == sa.bindparam("seen")
        )
        with self._writing() as connection:
            connection.execute(same, [{"seen": row["name"]} for row in rows])
            connection.execute(landing_files.insert(), rows)

    @contextmanager
    def _reading(self) -> Generator[sa.Connection]:
        with self._translated(), self._ready().connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Generator[sa.Connection]:
        with self._translated(), self._ready().begin() as connection:
            connection.exec_driver_sql(_WRITE_LOCK[connection.dialect.name])
            yield connection

    @contextmanager
    def _translated(self) -> Generator[None]:
        where = self._url.render_as_string(hide_password=True)
        try:
            yield
        except exc.IntegrityError as error:
            raise LedgerMoved(f"{where}: {error.orig}; read the ledger and decide again") from error
        except exc.DBAPIError as error:
            raise LedgerError(
                f"the ledger {where} cannot be used: {error.orig}; check MLCICD_LEDGER_URL, and "
                "that its database answers and may be written"
            ) from error

    def _ready(self) -> sa.Engine:
        if self._engine is None:
            engine = _engine(self._url)
            _create_schema(engine)
            self._engine = engine
        return self._engine


def _engine(url: sa.URL) -> sa.Engine:
    # Without a pool no connection outlives its use: safe over a fork, nothing to close.
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, poolclass=sa.NullPool)
    # isolation_level None leaves BEGIN to us; timeout is SQLite's busy_timeout in seconds.
    arguments = {"timeout": 30, "isolation_level": None}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments)
    event.listen(engine, "connect", _durable)
    return engine


def _durable(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _create_schema(engine: sa.Engine) -> None:
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        _switch_to_wal(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(_WRITE_LOCK[engine.dialect.name])
        metadata.create_all(connection)
        for trigger in _TRIGGERS if is_sqlite else ():
            connection.exec_driver_sql(trigger)


def _switch_to_wal(engine: sa.Engine) -> None:
    folder = Path(engine.url.database or "").resolve().parent
    folder.mkdir(parents=True, exist_ok=True)
    # The switch does not wait for busy_timeout: two first processes need a lock of their own.
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    finally:
        os.close(handle)


def _trained(connection: sa.Connection, training_key: str) -> TrainedRecord | None:
    query = sa.select(trained).where(trained.c.training_key == training_key)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else TrainedRecord(**row)
