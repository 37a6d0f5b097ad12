"""One process at a time: of all that share a PostgreSQL ledger, else of those on this machine."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager

from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.io.settings import Settings


@contextmanager
def one_at_a_time(settings: Settings, name: str) -> Generator[None]:
    """Wait for others that hold this name; it is released when a process dies."""
    if settings.ledger_url.startswith("postgresql"):
        with LedgerDatabase(settings.ledger_url).hold(name):
            yield
        return
    path = settings.home / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
