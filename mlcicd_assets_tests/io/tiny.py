"""A bundle made by hand: small enough to swap a hundred times in a test."""

from typing import Any

import numpy as np

from mlcicd_assets.io.bundle import Bundle, write_bundle
from mlcicd_assets.io.releases import Pointer, read_pointer, swap_pointer
from mlcicd_assets.io.store import Place
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import ExportedModel

MODEL = "card_fraud"
COLUMNS = (
    FeatureColumn("amount", "number", min=0, max=1000),
    FeatureColumn("channel", "category", categories=("chip", "online")),
    FeatureColumn("rate", "number", nullable=True, min=0, max=1),
)
ROWS = {
    "amount": np.array([1.0, 250.5, 999.0]),
    "channel": np.array(["chip", "online", "chip"], dtype=object),
    "rate": np.array([0.25, np.nan, 0.75]),
}


def linear(intercept: float = 0.0) -> ExportedModel:
    meta = {
        "format": 1,
        "kind": "linear",
        "numbers": ["amount", "rate"],
        "categories": [["channel", ["chip", "online"]]],
        "intercept": intercept,
    }
    arrays = {
        "fill": np.array([100.0, 0.5]),
        "mean": np.array([100.0, 0.5]),
        "scale": np.array([50.0, 0.25]),
        "coefficient": np.array([0.3, 0.7, -0.2, 0.4]),
    }
    return ExportedModel(meta, arrays)


def bundle(root: Place, intercept: float = 0.0, *, model: str = MODEL, **changes: Any) -> Bundle:
    parts: dict[str, Any] = {
        "exported": linear(intercept),
        "columns": COLUMNS,
        "threshold": 0.5,
        "definitions": {"windows": []},
        "train_until": "2026-01-01T00:00:00Z",
        "golden": ROWS,
    }
    return write_bundle(root, model=model, **{**parts, **changes})


def release(root: Place, digest: str, *, version: int = 1, model: str = MODEL) -> Pointer:
    """Point the model at the digest, whatever it points at now."""
    old = read_pointer(root, model)
    previous = (old.version, old.digest) if old else (None, None)
    pointer = Pointer(model, version, digest, 1, "0" * 64, *previous)
    swap_pointer(root, pointer, expected_digest=previous[1])
    return pointer
