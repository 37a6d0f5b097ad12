"""From a decoded request to checked columns, and from scores to an answer; knows no HTTP.

Errors name a column of our contract and the rule, never a name or value from the request.
"""

from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final

import numpy as np

from mlcicd_assets.ml.errors import RequestError
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import decide
from mlcicd_assets.serving.models import LiveModel
from mlcicd_assets.serving.protocol import InferRequest, PredictRequest, Tensor

# JSON types a caller may send for each datatype, null apart. bool is no number here.
NUMBERS: Final[dict[str, set[type]]] = {
    **{f"{sign}INT{bits}": {int} for sign in ("", "U") for bits in (8, 16, 32, 64)},
    "FP32": {int, float},
    "FP64": {int, float},
    "BOOL": {bool},
}
DATATYPES: Final[dict[str, dict[str, set[type]]]] = {
    "number": NUMBERS,
    "category": {"BYTES": {str}},
}
PLAIN: Final[dict[str, set[type]]] = {"number": {int, float, bool}, "category": {str}}


def infer_columns(request: InferRequest, columns: Sequence[FeatureColumn]) -> dict[str, np.ndarray]:
    """Return the Scorer's input, one (n,) array per column.

    Raises:
        RequestError: a tensor is missing, unknown, twice there, of another shape or breaks a rule.
    """
    tensors = {tensor.name: tensor for tensor in request.inputs}
    if len(tensors) != len(request.inputs):
        raise RequestError("an input is given twice: send one tensor per column")
    _check_names(tensors, columns)
    values = {column.name: _tensor_values(tensors[column.name], column) for column in columns}
    if len({len(array) for array in values.values()}) != 1:
        raise RequestError("the inputs differ in their number of rows")
    return values


def predict_columns(
    request: PredictRequest, columns: Sequence[FeatureColumn]
) -> dict[str, np.ndarray]:
    """Return the Scorer's input for one row.

    Raises:
        RequestError: a column is missing, unknown or breaks a rule.
    """
    _check_names(request.row, columns)
    return {
        column.name: _values([request.row[column.name]], column, PLAIN[column.kind])
        for column in columns
    }


def infer_answer(request: InferRequest, name: str, live: LiveModel, scores: np.ndarray) -> Any:
    """Return the v2 response for these scores, shape (n,) or (n, classes).

    Raises:
        RequestError: a decision is wanted of a model that predicts a number.
    """
    kinds = _outputs(live)
    wanted = [output.name for output in request.outputs] or list(kinds)
    if set(wanted) - kinds.keys():
        raise RequestError("this model predicts a number: its only output is 'score'")
    values = {"score": scores, "decision": _decisions(live, scores)}
    outputs = [
        {
            "name": output,
            "datatype": kinds[output],
            "shape": list(values[output].shape),
            "data": values[output].tolist(),
        }
        for output in wanted
    ]
    answer = {"model_name": name, "model_version": str(live.version), "outputs": outputs}
    return answer if request.id is None else {**answer, "id": request.id}


def predict_answer(name: str, live: LiveModel, scores: np.ndarray) -> Any:
    """Return the answer for one row: its score (of several classes one each), and the decision."""
    score, classes = scores[0].tolist(), live.bundle.classes
    if classes:
        score = dict(zip(map(str, classes), score, strict=True))
    answer: dict[str, Any] = {"model": name, "version": live.version, "score": score}
    if "decision" in _outputs(live):
        answer["decision"] = _decisions(live, scores)[0].item()
    if live.bundle.threshold is not None:
        answer["threshold"] = live.bundle.threshold
    return answer


def metadata_answer(name: str, live: LiveModel, failure: Mapping[str, str | None]) -> Any:
    """Return the v2 description of a model, and what keeps a newer bundle from serving."""
    inputs = [(c.name, "BYTES" if c.kind == "category" else "FP64") for c in live.bundle.columns]
    parts = {"inputs": inputs, "outputs": _outputs(live).items()}
    classes = live.bundle.classes
    tensors = {
        part: [
            {
                "name": tensor,
                "datatype": kind,
                "shape": [-1, len(classes)] if classes and tensor == "score" else [-1],
            }
            for tensor, kind in members
        ]
        for part, members in parts.items()
    }
    return {
        "name": name,
        "versions": [str(live.version)],
        "platform": "mlcicd_arrays",
        **tensors,
        "parameters": {
            "version": live.version,
            "digest": live.bundle.digest,
            "threshold": live.bundle.threshold,
            **({"classes": classes} if classes else {}),
            **failure,
        },
    }


def _outputs(live: LiveModel) -> dict[str, str]:
    """Return the outputs of a model with their datatypes."""
    classes = live.bundle.classes
    if classes:
        return {"score": "FP64", "decision": "BYTES" if isinstance(classes[0], str) else "INT64"}
    return (
        {"score": "FP64"}
        if live.bundle.threshold is None
        else {"score": "FP64", "decision": "BOOL"}
    )


def _decisions(live: LiveModel, scores: np.ndarray) -> np.ndarray:
    """Return what is decided: an alert or none, or a class."""
    decided = decide(scores, live.bundle.threshold)
    return np.array(live.bundle.classes)[decided] if live.bundle.classes else decided


def _check_names(given: Mapping[str, object], columns: Sequence[FeatureColumn]) -> None:
    names = {column.name for column in columns}
    missing = sorted(names - given.keys())
    if missing:
        raise RequestError(f"missing column '{missing[0]}': send every input of the model")
    if given.keys() - names:
        raise RequestError(f"unknown column: the inputs are {', '.join(sorted(names))}")


def _tensor_values(tensor: Tensor, column: FeatureColumn) -> np.ndarray:
    types = DATATYPES[column.kind].get(tensor.datatype)
    if types is None:
        allowed = ", ".join(DATATYPES[column.kind])
        raise RequestError(f"column '{column.name}': its datatype must be {allowed}")
    data = tensor.data
    if len(tensor.shape) == 2 and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if tensor.shape[1:] not in ([], [1]) or len(data) != tensor.shape[0]:
        raise RequestError(f"column '{column.name}': send n values, shape [n] or [n, 1]")
    return _values(data, column, types)


def _values(data: list[Any], column: FeatureColumn, types: set[type]) -> np.ndarray:
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
    # The empty text is the null category, as in training.
    values = ["" if value is None else value for value in data]
    allowed = column.categories
    if allowed is not None and set(values) - {*allowed, *([""] if column.nullable else [])}:
        raise RequestError(f"column '{column.name}': must be one of {', '.join(allowed)}")
    return np.array(values, dtype=object)
