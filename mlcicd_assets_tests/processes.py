"""The command line and the scoring server, as real processes forked from one that imported them.

To start Python anew for each of the hundreds would double the time of the suite.
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlcicd_assets.io.endpoint import is_alive

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["mlcicd_assets.cli.main", "mlcicd_assets.serving.server", "polars", "deltalake", "mlflow"]
)


def mlcicd(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the command line to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "out"), Path(folder, "err")
        told = {**os.environ, "COLUMNS": "200", **environment}
        process = FORKS.Process(target=_command, args=(words, told, output, errors))
        process.start()
        process.join()
        code = process.exitcode
        process.close()
        assert code is not None
        return subprocess.CompletedProcess(words, code, output.read_text(), errors.read_text())


class running_server:
    """Start `mlcicd serve` at an address and stop it again."""

    def __init__(self, url: str, home: Path, *words: str) -> None:
        self.url, self.log, self.words = url, home / "server.log", ("serve", *words)

    def __enter__(self) -> "running_server":
        words = (self.words, dict(os.environ), self.log, self.log)
        self.process = FORKS.Process(target=_command, args=words, daemon=True)
        self.process.start()
        deadline = time.monotonic() + 30
        while not is_alive(self.url):
            assert self.process.exitcode is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.join(20)
        assert self.process.exitcode is not None
        self.process.close()


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _command(words: tuple[str, ...], environment: dict[str, str], out: Path, err: Path) -> None:
    from mlcicd_assets.cli.main import app

    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["mlcicd", *words]
    app()
