"""Open Inference Protocol v2: the messages we read, and the words we answer with."""

from typing import Any, Final, TypeVar

import msgspec

from mlcicd_assets.ml.errors import RequestError

INTEGERS: Final = frozenset(
    {"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"}
)
FLOATS: Final = frozenset({"FP32", "FP64"})
OUTPUTS: Final = {"score": "FP64", "decision": "BOOL"}
# Either asks for raw bytes after the JSON, which we do not speak.
BINARY_PARAMETERS: Final = frozenset({"binary_data_size", "binary_data", "binary_data_output"})
T = TypeVar("T")


class Tensor(msgspec.Struct):
    """One input column: `shape` [n] or [n, 1], `data` flat or as n lists of one."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] = {}


class RequestedOutput(msgspec.Struct):
    """One output the caller wants."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """Body of POST /v2/models/<model>/infer."""

    inputs: list[Tensor]
    outputs: list[RequestedOutput] = []
    id: str | None = None
    parameters: dict[str, Any] = {}


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /predict: one row as plain JSON."""

    row: dict[str, Any]
    model: str | None = None


_infer = msgspec.json.Decoder(InferRequest)
_predict = msgspec.json.Decoder(PredictRequest)


def decode_infer(body: bytes) -> InferRequest:
    """Read an infer request.

    Raises:
        RequestError: it is not one, or it asks for binary tensors.
    """
    request = _decode(_infer, body, "an infer request: {'inputs': [{name, shape, datatype, data}]}")
    asked = set(request.parameters)
    for part in (*request.inputs, *request.outputs):
        asked |= set(part.parameters)
    if asked & BINARY_PARAMETERS:
        raise RequestError("binary tensors are not supported: send the data as JSON")
    if any(output.name not in OUTPUTS for output in request.outputs):
        raise RequestError(f"unknown output: this server gives {' and '.join(OUTPUTS)}")
    return request


def decode_predict(body: bytes) -> PredictRequest:
    """Read a predict request.

    Raises:
        RequestError: it is not one.
    """
    return _decode(_predict, body, "a predict request: {'model': ..., 'row': {column: value}}")


def _decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    # The decoder's own message can quote the body, so it is dropped.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError(f"the body is not {what}, in strict JSON") from None
