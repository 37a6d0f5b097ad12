"""The client side of a scoring server: what is live there, and scores over HTTP."""

import http.client
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np

from mlcicd_assets.ml.errors import EndpointUnreachable, ReleaseError

TIMEOUT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.1
T = TypeVar("T")


class ModelStatus(msgspec.Struct, frozen=True):
    """What a server says of a model; None: nothing live, nothing failed.

    `load_error` says why `failed_digest`, which its pointer names, is not what is live.
    """

    load_error: str | None
    failed_digest: str | None
    version: int | None = None
    digest: str | None = None


class _Metadata(msgspec.Struct):
    parameters: ModelStatus


class _Output(msgspec.Struct):
    data: list[float | list[float]]


class _Scores(msgspec.Struct):
    outputs: list[_Output]


class _Refusal(msgspec.Struct):
    error: str


def is_alive(url: str) -> bool:
    """Tell whether a server answers at the address; it may have no model yet."""
    try:
        return _ask(url, "/v2/health/live", dict[str, bool], token=None)["live"]
    except (ReleaseError, KeyError):
        return False


def model_status(url: str, model: str, *, token: str | None) -> ModelStatus | None:
    """Return what is live; None when the server is up and the model is not live.

    Raises:
        EndpointUnreachable: nothing answers at the address.
        ReleaseError: the server refuses, or is not one of ours.
    """
    status = _status(url, model, token)
    return status if status.digest else None


def wait_until_live(
    url: str,
    model: str,
    digest: str,
    *,
    token: str | None,
    timeout_s: float = 30,
    failure: Callable[[], str | None] = lambda: None,
) -> ModelStatus:
    """Wait until the server answers with this bundle; `failure` tells early that it will not.

    Raises:
        ReleaseError: the server cannot load it (its own reason is given), or time is up.
        EndpointUnreachable: nothing answers at the address.
    """
    deadline = time.monotonic() + timeout_s
    while (status := _status(url, model, token)).digest != digest:
        if status.failed_digest == digest:
            raise ReleaseError(f"the server at {url} cannot load the bundle: {status.load_error}")
        if (reason := failure()) is not None:
            raise ReleaseError(f"the server at {url} cannot take up the release: {reason}")
        if time.monotonic() > deadline:
            raise ReleaseError(
                f"the server at {url} did not take up bundle {digest[:12]} of '{model}' within "
                f"{timeout_s:g} s: check that it watches the same MLCICD_RELEASES"
            )
        time.sleep(POLL_SECONDS)
    return status


def score_rows(
    url: str, model: str, columns: Mapping[str, np.ndarray], *, token: str | None, batch: int = 500
) -> np.ndarray:
    """Return the server's scores, float64 (n,) or (n, classes), for columns in the Scorer's form.

    Raises:
        EndpointUnreachable: nothing answers at the address.
        ReleaseError: the server refuses the rows (its reason is given) or is not one of ours.
    """
    rows = len(next(iter(columns.values())))
    parts: list[np.ndarray] = []
    for start in range(0, rows, batch):
        part = {name: values[start : start + batch] for name, values in columns.items()}
        tensors = [
            {
                "name": name,
                "datatype": "BYTES" if values.dtype == object else "FP64",
                "shape": [len(values)],
                # msgspec writes NaN as null, which is how a null number travels.
                "data": values.tolist(),
            }
            for name, values in part.items()
        ]
        body = {"inputs": tensors, "outputs": [{"name": "score"}]}
        answer = _ask(url, f"/v2/models/{model}/infer", _Scores, token=token, body=body)
        parts.append(np.array(answer.outputs[0].data))
    scores = np.concatenate(parts)
    if len(scores) != rows:
        raise ReleaseError(f"the server at {url} gave other than one score a row: update it")
    return scores


def predict_row(
    url: str, model: str, row: Mapping[str, float | str | None], *, token: str | None
) -> dict[str, Any]:
    """Return the answer to one row (NaN counts as null): version, score, decision.

    Raises:
        EndpointUnreachable: nothing answers at the address.
        ReleaseError: the server refuses the row; its reason is given.
    """
    body = {"model": model, "row": row}
    return _ask(url, "/predict", dict[str, Any], token=token, body=body)


def _status(url: str, model: str, token: str | None) -> ModelStatus:
    return _ask(url, f"/v2/models/{model}", _Metadata, token=token).parameters


def _ask(url: str, path: str, type_: type[T], *, token: str | None, body: Any = None) -> T:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        sent = None if body is None else msgspec.json.encode(body)
        connection.request("POST" if sent else "GET", parts.path + path, sent, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EndpointUnreachable(
            f"no server answers at {url} ({error}): run `mlcicd serve --detach`, or correct "
            "MLCICD_ENDPOINTS"
        ) from error
    finally:
        connection.close()
    if response.status == 401:
        raise ReleaseError(f"the server at {url} refuses the token: set MLCICD_TOKEN to its own")
    try:
        # That a model is not live is no refusal where its metadata was asked for.
        if response.status == 200 or (response.status == 404 and type_ is _Metadata):
            return msgspec.json.decode(content, type=type_)
        reason = msgspec.json.decode(content, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"what answers at {url} is not a server of ours: correct MLCICD_ENDPOINTS"
        ) from error
    raise ReleaseError(f"the server at {url} answers {response.status}: {reason}")
