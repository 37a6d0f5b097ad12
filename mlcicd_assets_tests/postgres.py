"""A PostgreSQL server of our own on loopback, in a folder that goes when it ends."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

# Read here: every test starts with an environment of its own.
REQUIRED: Final = bool(os.environ.get("MLCICD_REQUIRE_POSTGRES"))
NOBODY: Final = 65534  # PostgreSQL refuses to be root
PASSWORD: Final = "never-shown-4711"  # noqa: S105 - nobody asks for it; it may turn up nowhere


@contextmanager
def running_postgres(port: int) -> Iterator[str]:
    """Start it; gives the address of its first database."""
    initdb, postgres = _program("initdb"), _program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="mlcicd-postgres."))
    data, log = folder / "data", folder / "log"
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "cwd": folder}
    if os.geteuid() == 0:
        shutil.chown(folder, NOBODY, NOBODY)
        options |= {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    make = [initdb, "--auth=trust", "--username=mlcicd", "--no-sync", "--encoding=UTF8"]
    serve = [postgres, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
    url = f"postgresql+psycopg2://mlcicd:{PASSWORD}@127.0.0.1:{port}/postgres"
    try:
        subprocess.run(
            [*make, "--locale=C", "-D", str(data)], check=True, capture_output=True, **options
        )
        with log.open("wb") as output:
            server = subprocess.Popen(serve, stdout=output, stderr=output, **options)
        try:
            _wait(url, server, log)
            yield url
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait(20)
    finally:
        shutil.rmtree(folder)


def new_database(url: str) -> str:
    """Make an empty database beside this one; gives its address."""
    name = f"d{uuid.uuid4().hex[:8]}"
    with _engine(url).connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


def _engine(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert server.poll() is None, log.read_text()
        try:
            return _engine(url).connect().close()
        except sa.exc.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)


def _program(name: str) -> str:
    """Debian keeps the server's programs off the path; without them a skip, in CI a failure."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        told = f"'{name}' is missing: install PostgreSQL (apt-get install postgresql-15)"
        (pytest.fail if REQUIRED else pytest.skip)(told)
    return found
