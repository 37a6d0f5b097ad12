"""The ledger database: its engine and tables, and the two side tables that only remember."""

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import event, exc

from mlcicd_assets.ml.errors import LedgerError
from mlcicd_assets.ml.values import Trial

metadata = sa.MetaData()


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


entries = sa.Table(
    "ledger_entries",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("prev_seq", sa.Integer, nullable=False, unique=True),
    *_texts("prev_hash", "hash", "kind", "model", "run_id", "at", "body"),
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

seen_tables = sa.Table(
    "seen_tables",
    metadata,
    sa.Column("uri", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    *_texts("table_id", "fingerprint", "commit"),
)

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("training_key", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("parameters", sa.JSON, nullable=False),
    sa.Column("score", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

reuses = sa.Table(
    "reuses",
    metadata,
    sa.Column("training_key", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("seconds", sa.Float, nullable=False),
    *_texts("model", "at"),
)

file_sums = sa.Table(
    "file_sums",
    metadata,
    *[sa.Column(name, sa.Text, primary_key=True) for name in ("table_id", "recipe", "path")],
    sa.Column("days", sa.Text, nullable=False),
)

# Against accidents only: who may write the file can drop these. `verify_chain` finds that.
_REFUSAL = "'the ledger is append-only: append a correction instead'"
_REFUSE = {
    "sqlite": [
        f"CREATE TRIGGER ledger_entries_no_{verb.lower()} BEFORE {verb} ON ledger_entries BEGIN "
        f"SELECT RAISE(ABORT, {_REFUSAL}); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION ledger_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION {_REFUSAL}; END $$",
        "CREATE TRIGGER ledger_entries_refuse BEFORE UPDATE OR DELETE OR TRUNCATE "
        "ON ledger_entries EXECUTE FUNCTION ledger_entries_refuse()",
    ],
}
for _dialect, _statements in _REFUSE.items():
    for _statement in _statements:
        event.listen(entries, "after_create", sa.DDL(_statement).execute_if(dialect=_dialect))

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


@dataclass(frozen=True)
class SeenTable:
    """What was last seen of a Delta table; `commit` is the sha256 of that version's log file."""

    uri: str
    table_id: str
    version: int
    fingerprint: str
    commit: str


def utc_now() -> str:
    """Return the clock's time as ISO 8601 UTC: information for people, never an input."""
    return datetime.now(UTC).isoformat()


class LedgerDatabase:
    """Connections to the ledger database, and its side tables outside the chain."""

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)

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

    def trials(self, training_key: str) -> dict[int, Trial]:
        """Return the finished trials of this training's search, by number."""
        columns = [column for column in trials.c if column.name != "training_key"]
        query = sa.select(*columns).where(trials.c.training_key == training_key)
        with self._reading() as connection:
            return {row["number"]: Trial(**row) for row in connection.execute(query).mappings()}

    def remember_trial(self, training_key: str, trial: Trial) -> None:
        """Keep a finished trial, once."""
        self._keep(trials, {"training_key": training_key, **asdict(trial)})

    def remember_reuse(self, known: TrainedRecord, run_id: str) -> None:
        """Keep that a run trained nothing because the key was known, once for each run."""
        saved = {"model": known.model, "seconds": known.seconds, "at": utc_now()}
        self._keep(reuses, {"training_key": known.training_key, "run_id": run_id, **saved})

    def saved_seconds(self, model: str) -> float:
        """Return the CPU seconds that known keys of this model have saved so far."""
        query = sa.select(sa.func.sum(reuses.c.seconds)).where(reuses.c.model == model)
        with self._reading() as connection:
            return connection.execute(query).scalar() or 0.0

    def _keep(self, table: sa.Table, row: dict[str, Any]) -> None:
        same = sa.and_(*(column == row[column.name] for column in table.primary_key))
        with self._writing() as connection:
            if connection.execute(sa.select(table).where(same)).first() is None:
                connection.execute(table.insert().values(row))

    def file_sums(self, table_id: str, recipe: str) -> dict[str, str]:
        """Return what is remembered of a table's files, by path (see io/content.py)."""
        same = (file_sums.c.table_id == table_id) & (file_sums.c.recipe == recipe)
        query = sa.select(file_sums.c.path, file_sums.c.days).where(same)
        with self._reading() as connection:
            return {row.path: row.days for row in connection.execute(query)}

    def remember_file_sums(self, table_id: str, recipe: str, sums: Mapping[str, str]) -> None:
        """Keep these; a path already known is replaced."""
        names = {"table_id": table_id, "recipe": recipe}
        rows = [{**names, "path": path, "days": days} for path, days in sums.items()]
        same = [file_sums.c[name] == sa.bindparam(f"b_{name}") for name in (*names, "path")]
        with self._writing() as connection:
            keys = [{f"b_{name}": row[name] for name in (*names, "path")} for row in rows]
            connection.execute(file_sums.delete().where(*same), keys)
            connection.execute(file_sums.insert(), rows)

    def seen_files(self, folder: str) -> dict[str, SeenFile]:
        """Return the files of this landing folder dealt with so far, by name."""
        columns = [column for column in landing_files.c if column.name != "folder"]
        query = sa.select(*columns).where(landing_files.c.folder == folder)
        with self._reading() as connection:
            return {row["name"]: SeenFile(**row) for row in connection.execute(query).mappings()}

    def remember_files(self, folder: str, files: Collection[SeenFile]) -> None:
        """Keep these files; a name already known is replaced."""
        table = landing_files
        with self._writing() as connection:
            for file in files:
                same = (table.c.folder == folder) & (table.c.name == file.name)
                connection.execute(table.delete().where(same))
                connection.execute(table.insert().values(folder=folder, **asdict(file)))

    def seen_table(self, uri: str) -> SeenTable | None:
        """Return what was last seen of this table; None if it is new, or was forgotten."""
        query = sa.select(seen_tables).where(seen_tables.c.uri == uri)
        with self._reading() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else SeenTable(**row)

    def seen_addresses(self) -> list[str]:
        """Return the addresses of all tables seen, sorted."""
        with self._reading() as connection:
            return sorted(connection.execute(sa.select(seen_tables.c.uri)).scalars())

    def remember_table(self, seen: SeenTable) -> None:
        """Keep what was seen, unless a newer version of the same table was seen meanwhile."""
        table = seen_tables
        same = table.c.uri == seen.uri
        newer = (table.c.table_id == seen.table_id) & (table.c.version > seen.version)
        with self._writing() as connection:
            if connection.execute(sa.select(table).where(same & newer)).one_or_none() is None:
                connection.execute(table.delete().where(same))
                connection.execute(table.insert().values(asdict(seen)))

    def forget_table(self, uri: str) -> None:
        """Accept whatever version comes next."""
        with self._writing() as connection:
            connection.execute(seen_tables.delete().where(seen_tables.c.uri == uri))

    def hold(self, name: str) -> sa.Connection:
        """Wait for PostgreSQL's lock of this name; it is held until the connection ends."""
        query = sa.text("SELECT pg_advisory_lock(hashtextextended(:name, 0))")
        with self._told():
            # No transaction stays open meanwhile: it would hold up the clean-up of every table.
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(query, {"name": f"mlcicd {name}"})
        return connection

    @contextmanager
    def _reading(self) -> Generator[sa.Connection]:
        with self._told(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Generator[None]:
        """Say which database did not answer, without its password."""
        try:
            yield
        except exc.DBAPIError as error:
            raise LedgerError(
                f"the ledger {self._url.render_as_string(hide_password=True)} cannot be used: "
                f"{error.orig}; check MLCICD_LEDGER_URL, and that its database answers and may be "
                "written"
            ) from error

    @contextmanager
    def _writing(self) -> Generator[sa.Connection]:
        with self._reading() as connection:
            connection.exec_driver_sql(_WRITE_LOCK[connection.dialect.name])
            yield connection

    @cached_property
    def _engine(self) -> sa.Engine:
        """The engine; whoever comes first creates the tables."""
        is_sqlite = self._url.get_backend_name() == "sqlite"
        # isolation_level None leaves BEGIN to us; timeout: seconds to wait for other writers.
        arguments = {"timeout": 30, "isolation_level": None} if is_sqlite else {}
        # Without a pool no connection outlives its use: safe over a fork, nothing to close.
        engine = sa.create_engine(self._url, poolclass=sa.NullPool, connect_args=arguments)
        if is_sqlite:
            event.listen(engine, "connect", _durable)
        with engine.begin() as connection:
            connection.exec_driver_sql(_WRITE_LOCK[engine.dialect.name])
            metadata.create_all(connection)
        return engine


def _durable(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
    # EXTRA also syncs the folder: after a power cut no journal comes back to undo a commit.
    connection.cursor().execute("PRAGMA synchronous=EXTRA")


def _trained(connection: sa.Connection, training_key: str) -> TrainedRecord | None:
    query = sa.select(trained).where(trained.c.training_key == training_key)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else TrainedRecord(**row)
