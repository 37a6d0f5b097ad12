"""`mlcicd serve` and `mlcicd stop`: the scoring server, in the foreground or detached."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console

from mlcicd_assets.io.endpoint import is_alive
from mlcicd_assets.io.settings import DEFAULT_ENDPOINT, Settings
from mlcicd_assets.ml.errors import EndpointUnreachable, SettingsError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def serve(
    host: Annotated[str | None, typer.Option(help="Default: of the first endpoint.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: of the first endpoint.")] = None,
    detach: Annotated[bool, typer.Option(help="Start in the background and return.")] = False,
    containers: Annotated[
        bool, typer.Option(help="Each model by a container of its release image, blue/green.")
    ] = False,
    network: Annotated[
        str | None, typer.Option(help="With --containers: the Docker network that they join.")
    ] = None,
) -> None:
    """Serve every released model; follows the release pointers by itself."""
    settings = Settings.from_env()
    if containers:
        from mlcicd_assets.serving.blue_green import serve_containers

        serve_containers(settings, host=host, network=network)
        return
    address = urlsplit(settings.endpoints[0] if settings.endpoints else DEFAULT_ENDPOINT)
    host = host or address.hostname or "127.0.0.1"
    port = port or address.port or 8900
    if detach:
        _start_detached(settings, host, port)
        return
    from mlcicd_assets.io.store import check_store
    from mlcicd_assets.serving.server import run

    check_store(settings.releases)
    run(settings.releases, host=host, port=port, token=settings.token)


def stop() -> None:
    """Stop the server that `serve --detach` started; requests in flight are answered."""
    console = Console(soft_wrap=True)
    pid_file = _pid_file(Settings.from_env())
    pid = _running_pid(pid_file)
    if pid is None:
        console.print("no detached server is running")
        return
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _running_pid(pid_file) is not None:
        if time.monotonic() > deadline:
            raise EndpointUnreachable(f"server {pid} did not stop in {STOP_TIMEOUT_S:.0f} s")
        time.sleep(0.1)
    pid_file.unlink()
    console.print(f"server stopped (pid {pid})")


def _start_detached(settings: Settings, host: str, port: int) -> None:
    console = Console(soft_wrap=True)
    url = f"http://{host}:{port}"
    if is_alive(url):
        console.print(f"server already running at {url}", highlight=False)
        return
    settings.home.mkdir(parents=True, exist_ok=True)
    log = settings.home / "server.log"
    command = [sys.executable, "-m", "mlcicd_assets.cli.main", "serve"]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [*command, "--host", host, "--port", str(port)],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    _pid_file(settings).write_text(f"{process.pid}\n")
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_alive(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SettingsError(f"the server did not start at {url}: see {log}")
        time.sleep(0.1)
    console.print(f"server started at {url} (pid {process.pid}, log {log})", highlight=False)


def _pid_file(settings: Settings) -> Path:
    return settings.home / "server.pid"


def _running_pid(pid_file: Path) -> int | None:
    """Return the pid in the file if that process is still our server, not a recycled number."""
    if not pid_file.is_file():
        return None
    pid = int(pid_file.read_text())
    command_line = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self").exists():
        running = command_line.exists() and b"mlcicd_assets" in command_line.read_bytes()
        return pid if running else None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return pid
