"""The ASGI application: routes, token, body limit, and errors as JSON."""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from mlcicd_assets.ml.errors import RequestError
from mlcicd_assets.serving.dataplane import (
    failure_parameters,
    infer_answer,
    infer_columns,
    metadata_answer,
    predict_answer,
    predict_columns,
)
from mlcicd_assets.serving.models import LiveModel, ModelStore
from mlcicd_assets.serving.protocol import decode_infer, decode_predict

MAX_BODY_BYTES: Final = 1024 * 1024
ROWS_IN_LOOP: Final = 256  # more rows are scored in a thread, so that nobody waits behind them
LOG: Final = logging.getLogger("mlcicd.serving")
SERVER: Final = {"name": "mlcicd", "version": version("mlcicd-assets"), "extensions": []}

Headers = Mapping[bytes, bytes]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Answer(NamedTuple):
    """Status, JSON-able content, further headers."""

    status: int
    content: Any
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Route(NamedTuple):
    """The one method an address takes, and what answers it, given the body."""

    method: str
    handle: Callable[[bytes], Awaitable[Answer]]


class App:
    """Answers Open Inference Protocol v2 and POST /predict for the models of a store."""

    def __init__(
        self, store: ModelStore, *, token: str | None, max_body: int = MAX_BODY_BYTES
    ) -> None:
        self._store = store
        self._expected = f"Bearer {token}".encode() if token is not None else None
        self._max_body = max_body

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; whatever is wrong with it becomes a 4xx with {"error": ...}."""
        try:
            answer = await self._answer(scope, receive)
        except RequestError as error:
            # A caller in the middle of a body that is too large must not go on sending it.
            close = ((b"connection", b"close"),) if error.status == 413 else ()
            answer = Answer(error.status, {"error": str(error)}, close)
        # The edge of the process: the log learns everything, the caller nothing.
        except Exception:
            LOG.exception("a request could not be answered")
            answer = Answer(500, {"error": "the server failed, its log says why"})
        body = msgspec.json.encode(answer.content)
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        headers += answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Mapping[str, Any], receive: Receive) -> Answer:
        headers: Headers = dict(scope["headers"])
        parts = scope["path"].split("/")[1:]
        if parts[:2] != ["v2", "health"]:
            self._check_token(headers)
        route = self._find(parts)
        if scope["method"] != route.method:
            error = {"error": f"this address takes {route.method} only"}
            return Answer(405, error, ((b"allow", route.method.encode()),))
        body = await self._body(headers, receive) if route.method == "POST" else b""
        return await route.handle(body)

    def _find(self, parts: list[str]) -> Route:
        match parts:
            case ["v2"]:
                return Route("GET", self._server)
            case ["v2", "health", "live"]:
                return Route("GET", self._alive)
            case ["v2", "health", "ready"]:
                return Route("GET", self._ready)
            case ["predict"]:
                return Route("POST", self._predict)
            case ["v2", "models", name, "versions", wanted, *rest]:
                return self._model_route(name, rest, wanted)
            case ["v2", "models", name, *rest]:
                return self._model_route(name, rest, None)
            case _:
                raise RequestError("there is nothing at this address", status=404)

    def _model_route(self, name: str, rest: list[str], wanted: str | None) -> Route:
        match rest:
            case []:
                return Route("GET", partial(self._metadata, name, wanted))
            case ["ready"]:
                return Route("GET", partial(self._model_ready, name, wanted))
            case ["infer"]:
                return Route("POST", partial(self._infer, name, wanted))
            case _:
                raise RequestError("there is nothing at this address", status=404)

    async def _server(self, _: bytes) -> Answer:
        return Answer(200, SERVER)

    async def _alive(self, _: bytes) -> Answer:
        return Answer(200, {"live": True, "ready": self._store.is_ready()})

    async def _ready(self, _: bytes) -> Answer:
        ready = self._store.is_ready()
        return Answer(200 if ready else 503, {"live": True, "ready": ready})

    async def _metadata(self, name: str, wanted: str | None, _: bytes) -> Answer:
        failure = self._store.failure(name)
        if failure and name not in self._store.live():
            # The releaser asks here why its bundle does not come up.
            error = {
                "error": "no version of this model is live",
                "parameters": failure_parameters(failure),
            }
            return Answer(404, error)
        return Answer(200, metadata_answer(name, self._live(name, wanted), failure))

    async def _model_ready(self, name: str, wanted: str | None, _: bytes) -> Answer:
        self._live(name, wanted)
        return Answer(200, {"name": name, "ready": True})

    async def _infer(self, name: str, wanted: str | None, body: bytes) -> Answer:
        live = self._live(name, wanted)
        request = decode_infer(body)
        columns = infer_columns(request, live.bundle.columns)
        return Answer(200, infer_answer(request, name, live, await _score(live, columns)))

    async def _predict(self, body: bytes) -> Answer:
        request = decode_predict(body)
        names = list(self._store.live())
        if request.model is None and len(names) != 1:
            raise RequestError("say which model: {'model': ..., 'row': ...}")
        name = names[0] if request.model is None else request.model
        live = self._live(name, None)
        columns = predict_columns(request, live.bundle.columns)
        return Answer(200, predict_answer(name, live, await _score(live, columns)))

    def _live(self, name: str, wanted: str | None) -> LiveModel:
        live = self._store.live().get(name)
        if live is None or wanted not in {None, str(live.version)}:
            raise RequestError("this model, or this version of it, is not live", status=404)
        return live

    def _check_token(self, headers: Headers) -> None:
        given = headers.get(b"authorization", b"")
        if self._expected is not None and not hmac.compare_digest(given, self._expected):
            raise RequestError("send the header 'Authorization: Bearer <token>'", status=401)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise RequestError("compressed bodies are not read: send plain JSON", status=415)
        if b"inference-header-content-length" in headers:
            raise RequestError("binary tensors are not supported: send the data as JSON")
        length = headers.get(b"content-length", b"0")
        if len(length) > 15 or (length.isdigit() and int(length) > self._max_body):
            raise self._too_large()
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError("the connection ended within the body")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_body:
                raise self._too_large()
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _too_large(self) -> RequestError:
        limit = f"the body may have {self._max_body} bytes: send fewer rows at once"
        return RequestError(limit, status=413)


async def _score(live: LiveModel, columns: dict[str, np.ndarray]) -> np.ndarray:
    scorer = live.bundle.scorer
    if len(next(iter(columns.values()))) > ROWS_IN_LOOP:
        return await asyncio.to_thread(scorer.score, columns)
    return scorer.score(columns)
