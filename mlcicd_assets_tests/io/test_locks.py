"""One at a time: others wait, a holder that was killed holds nothing, other names are free."""

import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from mlcicd_assets.io.locks import one_at_a_time
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import LedgerError
from mlcicd_assets_tests.processes import free_port

HOLD = """
import sys
from mlcicd_assets.io.locks import one_at_a_time
from mlcicd_assets.io.settings import Settings
sys.stdout.write("A"), sys.stdout.flush()
with one_at_a_time(Settings.from_env(), sys.argv[1]):
    sys.stdout.write("H"), sys.stdout.flush()
    sys.stdin.read()
"""


class Holder:
    """A process that asks for a name, and holds it until it is killed."""

    def __init__(self, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._said(60) == b"A"

    def has_it(self, *, within: float = 60) -> bool:
        return self._said(within) == b"H"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _said(self, seconds: float) -> bytes:
        said = self.process.stdout
        assert said is not None
        return said.read(1) if select.select([said], [], [], seconds)[0] else b""


@pytest.fixture
def hold(home: Path, ledger_url: str) -> Iterator[Callable[[str], Holder]]:
    made: list[Holder] = []
    yield lambda name: made.append(Holder(name)) or made[-1]
    for holder in made:
        holder.kill()


def test_the_next_waits_until_the_holder_is_killed(hold: Callable[[str], Holder]) -> None:
    first = hold("one")
    assert first.has_it()
    second = hold("one")
    assert not second.has_it(within=1)
    assert hold("two").has_it(), "another name is free"
    first.kill()
    assert second.has_it()


def test_whoever_ends_lets_go_also_by_an_error(
    home: Path, ledger_url: str, hold: Callable[[str], Holder]
) -> None:
    waiting: list[Holder] = []

    def fail() -> None:
        waiting.append(hold("one"))
        assert not waiting[0].has_it(within=0.5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), one_at_a_time(Settings.from_env(), "one"):
        fail()
    assert waiting[0].has_it()


@pytest.mark.ci
@pytest.mark.parametrize("ledger_url", ["postgresql"], indirect=True)
def test_a_session_that_the_server_ended_hides_nothing(home: Path, ledger_url: str) -> None:
    """The lock is gone, the work goes on: `UNIQUE(training_key)` still leaves one winner."""
    engine = sa.create_engine(ledger_url, poolclass=sa.NullPool)
    others = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory'"
    done = []
    with one_at_a_time(Settings.from_env(), "one"), engine.connect() as connection:
        assert connection.exec_driver_sql(others).scalar_one() == 1
        done.append(1)
    assert done == [1]


def test_a_server_that_is_down_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLCICD_LEDGER_URL", f"postgresql://mlcicd@127.0.0.1:{free_port()}/x")
    with (
        pytest.raises(LedgerError, match="cannot be used"),
        one_at_a_time(Settings.from_env(), "x"),
    ):
        pytest.fail("nobody holds a lock of a server that is down")
