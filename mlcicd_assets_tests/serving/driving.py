"""Two ways to drive the server in tests: the ASGI app in this process, and a real process."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mlcicd_assets.io.endpoint import is_alive
from mlcicd_assets.serving.app import App
from mlcicd_assets_tests.conftest import free_port


class Reply(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    content: Any


def ask(
    app: App,
    method: str,
    path: str,
    *,
    body: bytes | Sequence[bytes] = b"",
    headers: Mapping[bytes, bytes] | None = None,
) -> Reply:
    """Send one request, its body in the given chunks; a list that ends early hangs up."""
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    return asyncio.run(_exchange(app, method, path, messages, headers or {}))


async def _exchange(
    app: App, method: str, path: str, messages: list[Any], headers: Mapping[bytes, bytes]
) -> Reply:
    sent: list[dict[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers.items())}
    await app(scope, receive, send)
    start, end = sent
    assert int(dict(start["headers"])[b"content-length"]) == len(end["body"])
    return Reply(start["status"], dict(start["headers"]), json.loads(end["body"]))


class Running(NamedTuple):
    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running(releases: Path, *, token: str | None = None) -> Iterator[Running]:
    """A server process on a free port; killed at the end if the test did not stop it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = releases.parent / "server.log"
    command = [sys.executable, "-m", "mlcicd_assets.serving.server"]
    environment = {**os.environ, **({"MLCICD_TOKEN": token} if token else {})}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--releases", str(releases), "--port", str(port)],
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        deadline = time.monotonic() + 30
        while not is_alive(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Running(url, process, log)
    finally:
        process.kill()
        process.wait()
