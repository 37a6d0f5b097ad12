"""The server process: one uvicorn worker that follows a release store until SIGTERM."""

import argparse
import ipaddress
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Final

import uvicorn

from mlcicd_assets.ml.errors import SettingsError
from mlcicd_assets.serving.app import App
from mlcicd_assets.serving.models import ModelStore

DRAIN_SECONDS: Final = 30
# Refused by uvicorn itself with 503: rejecting in our code would cost as much as answering.
MAX_CONNECTIONS: Final = 1_000


def run(releases: Path, *, host: str, port: int, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and exit with code 0.

    Call it in the main thread; it takes over signals and logging.

    Raises:
        SettingsError: others could reach it, and there is no token.
    """
    if token == "":  # an empty secret is a mistake, not a wish
        raise SettingsError("MLCICD_TOKEN is empty: unset it, or give it a value")
    if token is None and not is_loopback(host):
        raise SettingsError(
            f"{host} can be reached by others: set MLCICD_TOKEN, or serve on 127.0.0.1"
        )
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    store = ModelStore(releases)
    server = uvicorn.Server(
        uvicorn.Config(
            App(store, token=token),
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
    # uvicorn drains, then raises the signal again for the handler it found: this one.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    with store.watching():
        server.run()


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _stop(_number: int, _frame: object) -> None:
    sys.exit(0)


def main() -> None:
    """Run from the command line; the token comes from MLCICD_TOKEN, never from an argument."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    run(
        options.releases,
        host=options.host,
        port=options.port,
        token=os.environ.get("MLCICD_TOKEN"),
    )


if __name__ == "__main__":
    main()
