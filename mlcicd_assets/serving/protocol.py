"""Open Inference Protocol v2: the messages we read, and the words we answer with."""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from mlcicd_assets.ml.errors import RequestError

MAX_ROWS: Final = 10_000
Size = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
T = TypeVar("T")


class Parameters(msgspec.Struct, frozen=True):
    """Any but those that announce raw bytes beside the JSON, which we do not speak."""

    binary_data_size: None = None
    binary_data: None = None
    binary_data_output: None = None


class Tensor(msgspec.Struct):
    """One input column: `shape` [n] or [n, 1], `data` flat or as n lists of one."""

    name: str
    shape: Annotated[list[Size], msgspec.Meta(min_length=1)]
    datatype: str
    data: list[Any]
    parameters: Parameters = Parameters()


class RequestedOutput(msgspec.Struct):
    """One output the caller wants."""

    name: Literal["score", "decision"]
    parameters: Parameters = Parameters()


class InferRequest(msgspec.Struct):
    """Body of POST /v2/models/<model>/infer."""

    inputs: list[Tensor]
    outputs: list[RequestedOutput] = []
    id: str | None = None
    parameters: Parameters = Parameters()


class PredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Body of POST /predict: one row as plain JSON."""

    row: dict[str, Any]
    model: str | None = None


FORMS: Final[dict[type[Any], str]] = {
    InferRequest: "{'inputs': [{name, shape: [n], datatype, data}], 'outputs': [{'name': 'score' "
    f"or 'decision'}}]}}, n from 1 to {MAX_ROWS}, no binary tensors",
    PredictRequest: "{'row': {column: value}, 'model': name, needed when several are live}",
}


def decode(body: bytes, type_: type[T]) -> T:
    """Read a request of one of the two types.

    Raises:
        RequestError: it is not one. The decoder's own message is dropped, it can quote the body.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RequestError(f"the body must be strict, plain JSON: {FORMS[type_]}") from None
