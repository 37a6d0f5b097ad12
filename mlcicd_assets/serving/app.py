"""The ASGI application: routes, token, body limit, and errors as JSON."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import msgspec
import numpy as np

from mlcicd_assets.ml.errors import RequestError
from mlcicd_assets.serving.dataplane import (
    infer_answer,
    infer_columns,
    metadata_answer,
    predict_answer,
    predict_columns,
)
from mlcicd_assets.serving.models import LiveModel, ModelStore
from mlcicd_assets.serving.protocol import InferRequest, PredictRequest, decode

MAX_BODY_BYTES: Final = 1024 * 1024
ROWS_IN_LOOP: Final = 256  # more rows are scored in a thread, so that nobody waits behind them
LOG: Final = logging.getLogger("mlcicd.serving")
SERVER: Final = {"name": "mlcicd", "version": version("mlcicd-assets"), "extensions": []}

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Answer = tuple[int, Any]  # status, JSON-able content
Handler = Callable[[bytes], Awaitable[Answer]]


class App:
    """Answers Open Inference Protocol v2 and POST /predict for the models of a store."""

    def __init__(
        self, store: ModelStore, *, token: str | None, max_body: int = MAX_BODY_BYTES
    ) -> None:
        self._store = store
        self._token = token
        self._max_body = max_body
        self.is_draining = False

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; whatever is wrong with it becomes a 4xx with {"error": ...}."""
        headers = [(b"content-type", b"application/json")]
        try:
            self._check_token(scope)
            method, handle = self._route(scope["path"])
            if scope["method"] == method:
                body = await self._body(receive) if method == "POST" else b""
                status, content = await handle(body)
            else:
                headers.append((b"allow", method.encode()))
                status, content = 405, {"error": f"this address takes {method} only"}
        except RequestError as error:
            status, content = error.status, {"error": str(error)}
        # The edge of the process: the log learns everything, the caller nothing.
        except Exception:
            LOG.exception("a request could not be answered")
            status, content = 500, {"error": "the server failed, its log says why"}
        # The caller must not go on sending, or comes back to another server.
        if status == 413 or self.is_draining:
            headers.append((b"connection", b"close"))
        encoded = msgspec.json.encode(content)
        headers.append((b"content-length", str(len(encoded)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": encoded})

    def _check_token(self, scope: Mapping[str, Any]) -> None:
        if self._token is None or scope["path"].startswith("/v2/health/"):
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            raise RequestError("send the header 'Authorization: Bearer <token>'", status=401)

    def _route(self, path: str) -> tuple[str, Handler]:
        """Return the one method that an address takes, and what answers it, given the body."""
        match path.split("/")[1:]:
            case ["v2"]:
                return "GET", self._server
            case ["v2", "health", "live"]:
                return "GET", partial(self._health, 200)
            case ["v2", "health", "ready"]:
                return "GET", partial(self._health, 503)
            case ["predict"]:
                return "POST", self._predict
            case ["v2", "models", name, "versions", wanted, *rest]:
                pass
            case ["v2", "models", name, *rest]:
                wanted = None
            case _:
                raise RequestError("there is nothing at this address", status=404)
        match rest:
            case []:
                return "GET", partial(self._metadata, name, wanted)
            case ["ready"]:
                return "GET", partial(self._model_ready, name, wanted)
            case ["infer"]:
                return "POST", partial(self._infer, name, wanted)
            case _:
                raise RequestError("there is nothing at this address", status=404)

    async def _body(self, receive: Receive) -> bytes:
        """Read the body; of a caller who hangs up we get a part, which is no JSON."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body:
                limit = f"the body may have {self._max_body} bytes: send fewer rows at once"
                raise RequestError(limit, status=413)
        return bytes(body)

    async def _server(self, _: bytes) -> Answer:
        return 200, SERVER

    async def _health(self, status_if_not_ready: int, _: bytes) -> Answer:
        ready = self._store.is_ready()
        return 200 if ready else status_if_not_ready, {"live": True, "ready": ready}

    async def _metadata(self, name: str, wanted: str | None, _: bytes) -> Answer:
        failure = self._store.failure(name)
        try:
            return 200, metadata_answer(name, self._live(name, wanted), failure)
        except RequestError as error:
            # The releaser asks here why its bundle does not come up.
            return error.status, {"error": str(error), "parameters": failure}

    async def _model_ready(self, name: str, wanted: str | None, _: bytes) -> Answer:
        self._live(name, wanted)
        return 200, {"name": name, "ready": True}

    async def _infer(self, name: str, wanted: str | None, body: bytes) -> Answer:
        live = self._live(name, wanted)
        request = decode(body, InferRequest)
        columns = infer_columns(request, live.bundle.columns)
        return 200, infer_answer(request, name, live, await _score(live, columns))

    async def _predict(self, body: bytes) -> Answer:
        request = decode(body, PredictRequest)
        names = list(self._store.live())
        if request.model is None and len(names) != 1:
            raise RequestError("say which model: {'model': ..., 'row': ...}")
        name = names[0] if request.model is None else request.model
        live = self._live(name, None)
        columns = predict_columns(request, live.bundle.columns)
        return 200, predict_answer(name, live, await _score(live, columns))

    def _live(self, name: str, wanted: str | None) -> LiveModel:
        live = self._store.live().get(name)
        if live is None or wanted not in {None, str(live.version)}:
            raise RequestError("this model, or this version of it, is not live", status=404)
        return live


async def _score(live: LiveModel, columns: dict[str, np.ndarray]) -> np.ndarray:
    scorer = live.bundle.scorer
    if len(next(iter(columns.values()))) > ROWS_IN_LOOP:
        return await asyncio.to_thread(scorer.score, columns)
    return scorer.score(columns)
