"""One process at a time, on one machine."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager

from mlcicd_assets.io.settings import Settings


@contextmanager
def one_at_a_time(settings: Settings, name: str) -> Generator[None]:
    """Wait for others that hold this name; the system releases it when a process dies."""
    path = settings.home / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
