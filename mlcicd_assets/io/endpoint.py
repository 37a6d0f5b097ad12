"""The client side of a scoring server: what is live there, and scores over HTTP."""

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np

from mlcicd_assets.ml.errors import EndpointUnreachable, ReleaseError

TIMEOUT_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class ModelStatus:
    """What answers at an endpoint; `load_error` says why `failed_digest` does not."""

    model: str
    version: int
    digest: str
    threshold: float
    load_error: str | None
    failed_digest: str | None


class _Parameters(msgspec.Struct):
    digest: str
    threshold: float
    load_error: str | None
    failed_digest: str | None


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str]
    parameters: _Parameters


class _Output(msgspec.Struct):
    data: list[float]


class _Scores(msgspec.Struct):
    outputs: list[_Output]


class _Refusal(msgspec.Struct):
    error: str
    parameters: dict[str, str | None] = {}


T = TypeVar("T")


def is_alive(url: str) -> bool:
    """Tell whether a server answers at the address; it may have no model yet."""
    try:
        return _exchange(url, "/v2/health/live", token=None, body=None)[0] == 200
    except EndpointUnreachable:
        return False


def model_status(url: str, model: str, *, token: str | None) -> ModelStatus | None:
    """Return what is live; None when the server is up and the model is not live.

    Raises:
        EndpointUnreachable: nothing answers at the address.
        ReleaseError: the server refuses, or is not one of ours.
    """
    answer = _look(url, model, token=token)
    return answer if isinstance(answer, ModelStatus) else None


def wait_until_live(
    url: str, model: str, digest: str, *, token: str | None, timeout_s: float = 30
) -> ModelStatus:
    """Wait until the server answers with this bundle.

    Raises:
        ReleaseError: the server cannot load it (its own reason is given), or time is up.
        EndpointUnreachable: nothing answers at the address.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = _look(url, model, token=token)
        if isinstance(answer, ModelStatus):
            if answer.digest == digest:
                return answer
            failed, reason = answer.failed_digest, answer.load_error
        else:
            failed = answer.parameters.get("failed_digest")
            reason = answer.parameters.get("load_error")
        if failed == digest:
            raise ReleaseError(f"the server at {url} cannot load the bundle: {reason}")
        if time.monotonic() > deadline:
            raise ReleaseError(
                f"the server at {url} did not take up bundle {digest[:12]} of '{model}' within "
                f"{timeout_s:g} s: check that it watches the same MLCICD_RELEASES"
            )
        time.sleep(POLL_SECONDS)


def score_rows(
    url: str, model: str, columns: Mapping[str, np.ndarray], *, token: str | None, batch: int = 500
) -> np.ndarray:
    """Return the server's scores, float64 (n,), for columns in the Scorer's form.

    Raises:
        EndpointUnreachable: nothing answers at the address.
        ReleaseError: the server refuses the rows (its reason is given) or is not one of ours.
    """
    rows = len(next(iter(columns.values())))
    scores = np.empty(rows, dtype=np.float64)
    for start in range(0, rows, batch):
        part = slice(start, min(start + batch, rows))
        tensors = [_tensor(name, values[part]) for name, values in columns.items()]
        body = msgspec.json.encode({"inputs": tensors, "outputs": [{"name": "score"}]})
        status, content = _exchange(url, f"/v2/models/{model}/infer", token=token, body=body)
        if status != 200:
            raise _refused(url, status, content)
        outputs = _decode(url, content, _Scores).outputs
        if len(outputs) != 1 or len(outputs[0].data) != part.stop - part.start:
            raise ReleaseError(f"the server at {url} gave other than one score a row: update it")
        scores[part] = outputs[0].data
    return scores


def predict_row(
    url: str, model: str, row: Mapping[str, float | str | None], *, token: str | None
) -> dict[str, Any]:
    """Return the answer to one row (NaN counts as null): version, score, decision, threshold.

    Raises:
        EndpointUnreachable: nothing answers at the address.
        ReleaseError: the server refuses the row; its reason is given.
    """
    body = msgspec.json.encode({"model": model, "row": row})
    status, content = _exchange(url, "/predict", token=token, body=body)
    if status != 200:
        raise _refused(url, status, content)
    return _decode(url, content, dict[str, Any])


def _tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    kind = "BYTES" if values.dtype == object else "FP64"
    if kind == "FP64" and np.isinf(values).any():
        raise ReleaseError(f"column '{name}' holds an infinite number: no server accepts that")
    # msgspec writes NaN as null, which is how a null number travels.
    return {"name": name, "datatype": kind, "shape": [len(values)], "data": values.tolist()}


def _look(url: str, model: str, *, token: str | None) -> ModelStatus | _Refusal:
    status, content = _exchange(url, f"/v2/models/{model}", token=token, body=None)
    if status == 404:
        return _decode(url, content, _Refusal)
    if status != 200:
        raise _refused(url, status, content)
    found = _decode(url, content, _Metadata)
    return ModelStatus(
        model=found.name,
        version=int(found.versions[0]),
        digest=found.parameters.digest,
        threshold=found.parameters.threshold,
        load_error=found.parameters.load_error,
        failed_digest=found.parameters.failed_digest,
    )


def _decode(url: str, content: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"what answers at {url} is not a server of ours: correct MLCICD_ENDPOINTS"
        ) from error


def _refused(url: str, status: int, content: bytes) -> ReleaseError:
    if status == 401:
        return ReleaseError(f"the server at {url} refuses the token: set MLCICD_TOKEN to its own")
    reason = _decode(url, content, _Refusal).error
    return ReleaseError(f"the server at {url} answers {status}: {reason}")


def _exchange(url: str, path: str, *, token: str | None, body: bytes | None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request("POST" if body else "GET", parts.path + path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EndpointUnreachable(
            f"no server answers at {url} ({error}): run `make serve`, or correct MLCICD_ENDPOINTS"
        ) from error
    finally:
        connection.close()
