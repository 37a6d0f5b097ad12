"""From a decoded request to checked columns, and from scores to an answer; knows no HTTP.

Errors name a column of our contract and the rule, never a name or value from the request.
"""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final

import numpy as np

from mlcicd_assets.ml.errors import RequestError
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.serving.models import LiveModel, LoadFailure
from mlcicd_assets.serving.protocol import (
    FLOATS,
    INTEGERS,
    OUTPUTS,
    InferRequest,
    PredictRequest,
    Tensor,
)

MAX_ROWS: Final = 10_000
# JSON types a caller may send for each datatype, null apart. bool is no number here.
ELEMENTS: Final = {
    **{name: frozenset({int}) for name in INTEGERS},
    **{name: frozenset({int, float}) for name in FLOATS},
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str}),
}


def infer_columns(request: InferRequest, columns: Sequence[FeatureColumn]) -> dict[str, np.ndarray]:
    """Return the Scorer's input, one (n,) array per column.

    Raises:
        RequestError: a tensor is missing, unknown, twice there, of another shape or breaks a rule.
    """
    tensors = {tensor.name: tensor for tensor in request.inputs}
    if len(tensors) != len(request.inputs):
        raise RequestError("an input is given twice: send one tensor per column")
    _check_names(tensors, columns)
    rows = {_rows(tensors[column.name], column) for column in columns}
    if len(rows) != 1:
        raise RequestError("the inputs differ in their number of rows")
    return {column.name: _tensor_values(tensors[column.name], column) for column in columns}


def predict_columns(
    request: PredictRequest, columns: Sequence[FeatureColumn]
) -> dict[str, np.ndarray]:
    """Return the Scorer's input for one row.

    Raises:
        RequestError: a column is missing, unknown or breaks a rule.
    """
    _check_names(request.row, columns)
    allowed = {"number": frozenset({int, float, bool}), "category": frozenset({str})}
    return {
        column.name: _values([request.row[column.name]], column, types=allowed[column.kind])
        for column in columns
    }


def infer_answer(request: InferRequest, name: str, live: LiveModel, scores: np.ndarray) -> Any:
    """Return the v2 response for these scores, shape (n,)."""
    values = {"score": scores, "decision": scores >= live.bundle.threshold}
    wanted = [output.name for output in request.outputs] or list(OUTPUTS)
    answer: dict[str, Any] = {
        "model_name": name,
        "model_version": str(live.version),
        "outputs": [
            {
                "name": output,
                "shape": [len(scores)],
                "datatype": OUTPUTS[output],
                "data": values[output].tolist(),
            }
            for output in wanted
        ],
    }
    return answer if request.id is None else {**answer, "id": request.id}


def predict_answer(name: str, live: LiveModel, scores: np.ndarray) -> Any:
    """Return the answer for one row: its score, and the decision at the model's threshold."""
    return {
        "model": name,
        "version": live.version,
        "score": float(scores[0]),
        "decision": bool(scores[0] >= live.bundle.threshold),
        "threshold": live.bundle.threshold,
    }


def metadata_answer(name: str, live: LiveModel, failure: LoadFailure | None) -> Any:
    """Return the v2 description of a model, and what keeps a newer bundle from serving."""
    return {
        "name": name,
        "versions": [str(live.version)],
        "platform": "mlcicd_arrays",
        "inputs": [
            {
                "name": column.name,
                "datatype": "BYTES" if column.kind == "category" else "FP64",
                "shape": [-1],
            }
            for column in live.bundle.columns
        ],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": [-1]}
            for output, datatype in OUTPUTS.items()
        ],
        "parameters": {
            "digest": live.bundle.digest,
            "threshold": live.bundle.threshold,
            **failure_parameters(failure),
        },
    }


def failure_parameters(failure: LoadFailure | None) -> dict[str, str | None]:
    """Return why the newest pointer is not what serves; nulls when it is."""
    return {
        "load_error": failure.reason if failure else None,
        "failed_digest": failure.digest if failure else None,
    }


def _check_names(given: Mapping[str, object], columns: Sequence[FeatureColumn]) -> None:
    names = {column.name for column in columns}
    missing = sorted(names - given.keys())
    if missing:
        raise RequestError(f"missing column '{missing[0]}': send every input of the model")
    if given.keys() - names:
        raise RequestError(f"unknown column: the inputs are {', '.join(sorted(names))}")


def _rows(tensor: Tensor, column: FeatureColumn) -> int:
    rows, *rest = tensor.shape or [0]
    if rest not in ([], [1]):
        raise RequestError(f"column '{column.name}': its shape must be [n] or [n, 1]")
    if not 1 <= rows <= MAX_ROWS:
        raise RequestError(f"column '{column.name}': send 1 to {MAX_ROWS} rows at once")
    if len(tensor.data) != rows:
        raise RequestError(f"column '{column.name}': its data does not have the rows of its shape")
    return rows


def _tensor_values(tensor: Tensor, column: FeatureColumn) -> np.ndarray:
    types = ELEMENTS.get(tensor.datatype)
    if types is None or (tensor.datatype == "BYTES") != (column.kind == "category"):
        kind = "BYTES" if column.kind == "category" else "BOOL, FP32, FP64 or an integer type"
        raise RequestError(f"column '{column.name}': its datatype must be {kind}")
    data = tensor.data
    if len(tensor.shape) == 2 and all(isinstance(item, list) for item in data):
        if any(len(item) != 1 for item in data):
            raise RequestError(f"column '{column.name}': each row of shape [n, 1] holds one value")
        data = [item[0] for item in data]
    if tensor.datatype in INTEGERS:
        _check_integers(data, column, np.iinfo(tensor.datatype.lower()))
    return _values(data, column, types=types)


def _check_integers(data: list[Any], column: FeatureColumn, limits: np.iinfo[Any]) -> None:
    numbers = [value for value in data if isinstance(value, int)]
    if numbers and not limits.min <= min(numbers) <= max(numbers) <= limits.max:
        raise RequestError(f"column '{column.name}': must fit its datatype")


def _values(data: list[Any], column: FeatureColumn, *, types: frozenset[type]) -> np.ndarray:
    found = set(map(type, data))
    if NoneType in found and not column.nullable:
        raise RequestError(f"column '{column.name}': null is not allowed")
    if found - types - {NoneType}:
        names = " or ".join(sorted(type_.__name__ for type_ in types))
        raise RequestError(f"column '{column.name}': every value must be {names}")
    return _category(data, column) if column.kind == "category" else _number(data, column)


def _number(data: list[Any], column: FeatureColumn) -> np.ndarray:
    try:
        values = np.array(data, dtype=np.float64)
    except OverflowError:
        raise RequestError(f"column '{column.name}': must be a finite number") from None
    if column.min is not None and (values < column.min).any():
        raise RequestError(f"column '{column.name}': must be at least {column.min}")
    if column.max is not None and (values > column.max).any():
        raise RequestError(f"column '{column.name}': must be at most {column.max}")
    return values


def _category(data: list[Any], column: FeatureColumn) -> np.ndarray:
    values = ["" if value is None else value for value in data]
    # The empty text is the null category, as in training.
    known = {*(column.categories or values), *([""] if column.nullable else [])}
    if not known.issuperset(values):
        raise RequestError(
            f"column '{column.name}': must be one of {', '.join(column.categories or ())}"
        )
    return np.array(values, dtype=object)
