"""The server process: one uvicorn worker that follows a release store until SIGTERM."""

import logging
import signal
import sys
from typing import Final

import uvicorn

from mlcicd_assets.io.store import Place
from mlcicd_assets.ml.errors import SettingsError
from mlcicd_assets.serving.app import App
from mlcicd_assets.serving.models import ModelStore

LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}
DRAIN_SECONDS: Final = 30
# Refused by uvicorn itself with 503: rejecting in our code would cost as much as answering.
MAX_CONNECTIONS: Final = 1_000
DRAIN, RESUME = signal.SIGUSR1, signal.SIGUSR2


def run(releases: Place, *, host: str, port: int, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and exit with code 0.

    Call it in the main thread; it takes over signals and logging.

    Raises:
        SettingsError: others could reach it, and there is no token.
    """
    if not token and host not in LOOPBACK:
        raise SettingsError(
            f"{host} can be reached by others: set MLCICD_TOKEN, or serve on 127.0.0.1"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = ModelStore(releases)
    app = App(store, token=token)
    server = server_of(app, host=host, port=port)
    # uvicorn drains, then raises the signal again for the handler it found: this one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    # From whoever sends new connections elsewhere now: those kept alive shall follow.
    signal.signal(DRAIN, lambda _number, _frame: setattr(app, "is_draining", True))
    signal.signal(RESUME, lambda _number, _frame: setattr(app, "is_draining", False))
    with store.watching():
        server.run()


def server_of(app: App, *, host: str, port: int) -> uvicorn.Server:
    """Return the server of an application, not yet running."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
