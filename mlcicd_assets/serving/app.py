"""The ASGI application: routes, token, body limit, and errors as JSON."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any, Final

import msgspec
import numpy as np

from mlcicd_assets.ml.errors import RequestError
from mlcicd_assets.serving.dataplane import (
    infer_answer,
    infer_columns,
    predict_answer,
    predict_columns,
)
from mlcicd_assets.serving.models import LiveModel, ModelStore
from mlcicd_assets.serving.protocol import OUTPUTS, decode_infer, decode_predict

MAX_BODY_BYTES: Final = 1024 * 1024
ROWS_IN_LOOP: Final = 256  # more rows are scored in a thread, so that nobody waits behind them
LOG: Final = logging.getLogger("mlcicd.serving")
VERSION: Final = version("mlcicd-assets")

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[[bytes], Awaitable[Any]]


class App:
    """Answers Open Inference Protocol v2 and POST /predict for the models of a store."""

    def __init__(
        self, store: ModelStore, *, token: str | None, max_body: int = MAX_BODY_BYTES
    ) -> None:
        self._store = store
        self._token = token.encode() if token is not None else None
        self._max_body = max_body

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; whatever is wrong with it becomes a 4xx with {"error": ...}."""
        extra: list[tuple[bytes, bytes]] = []
        try:
            status, content = 200, await self._answer(scope, receive)
        except RequestError as error:
            status, content = error.status, {"error": str(error)}
            if status == 413:
                extra.append((b"connection", b"close"))
        except _Gone:
            return
        # The edge: whatever went wrong inside, the caller learns nothing of it, the log all.
        except Exception:
            LOG.exception("a request could not be answered")
            status, content = 500, {"error": "the server failed: see its log"}
        if status == 200 and content is NOT_READY:
            status = 503
        body = msgspec.json.encode(content)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
