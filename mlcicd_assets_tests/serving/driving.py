"""Two ways to drive the server in tests: the ASGI app in this process, and a real process."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlcicd_assets.serving.app import App
from mlcicd_assets.serving.models import ModelStore
from mlcicd_assets_tests.processes import free_port, running_server


class Reply(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    content: Any


def loaded(root: Path) -> ModelStore:
    store = ModelStore(root)
    store.refresh()
    return store


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


@contextmanager
def serving(releases: Path, *, token: str | None = None) -> Iterator[running_server]:
    """`mlcicd serve` for this release store, in a process of its own."""
    url = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MLCICD_RELEASES", str(releases))
            environment.setenv("MLCICD_ENDPOINTS", url)
            if token:
                environment.setenv("MLCICD_TOKEN", token)
            server = stack.enter_context(running_server(url, releases.parent))
        yield server
