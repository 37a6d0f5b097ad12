"""Model bundles: immutable folders named by the digest of their content.

model.json     contract (columns), feature definitions, threshold, golden rows, the scorer's meta
<array>.npy    the scorer's arrays
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.store import Place, listing, place_files, read
from mlcicd_assets.ml.errors import BundleError, DigestMismatch
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import ExportedModel, Scorer, largest_difference

GOLDEN_TOLERANCE: Final = 1e-12
MAX_BYTES: Final = 1024**3


@dataclass(frozen=True, eq=False)
class Bundle:
    """One model, ready to score; `golden_scores` is what its golden rows must give.

    `classes` is empty unless there are several; `threshold` is None unless the target is binary.
    """

    model: str
    digest: str
    columns: tuple[FeatureColumn, ...]
    classes: tuple[str | int, ...]
    threshold: float | None
    definitions: dict[str, Any]
    train_until: str
    golden_columns: dict[str, np.ndarray]
    golden_scores: np.ndarray
    scorer: Scorer


class _Document(msgspec.Struct):
    model: str
    train_until: str
    threshold: float | None
    columns: tuple[FeatureColumn, ...]
    definitions: dict[str, Any]
    scorer: dict[str, Any]
    golden: dict[str, list[float | str | None]]
    golden_scores: list[float | list[float]]


def write_bundle(
    root: Place,
    *,
    model: str,
    exported: ExportedModel,
    columns: tuple[FeatureColumn, ...],
    threshold: float | None,
    definitions: dict[str, Any],
    train_until: str,
    golden: Mapping[str, np.ndarray],
) -> Bundle:
    """Write the bundle durably (or find it already there) and return it as read back.

    `golden` holds real input rows in the Scorer's form; their scores are kept beside them.
    Equal content gives an equal digest: no clock and no path goes in.

    Raises:
        BundleError: what would be read back does not score as it does now.
        DigestMismatch: a folder of this digest is there and damaged.
    """
    document = _Document(
        model=model,
        train_until=train_until,
        threshold=threshold,
        columns=columns,
        definitions=definitions,
        scorer=exported.meta,
        # JSON has no NaN: it is written as null, and null is read as NaN.
        golden={name: values.tolist() for name, values in golden.items()},
        golden_scores=Scorer(exported.meta, exported.arrays).score(golden).tolist(),
    )
    text = msgspec.json.encode(document, order="deterministic")
    contents = {"model.json": msgspec.json.format(text)}
    for name, array in exported.arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        contents[f"{name}.npy"] = buffer.getvalue()
    digest = _digest(contents)
    check_golden(_parse(contents, model, digest))
    place_files(bundle_folder(root, model, digest), contents)
    return load_bundle(root, model, digest)


def load_bundle(root: Place, model: str, digest: str) -> Bundle:
    """Read a bundle; every byte is checked against the digest before any is interpreted.

    Raises:
        DigestMismatch: a file is missing, extra, changed, linked or far too large.
        BundleError: there is no such bundle, or another version or model wrote it.
        ReleaseError: the name or digest is not one.
    """
    folder = bundle_folder(root, model, digest)
    sizes = listing(folder)
    if not sizes:
        raise BundleError(
            f"there is no bundle {folder}: train again, or copy it from another store"
        )
    plain = [size for size in sizes.values() if size is not None]
    if len(plain) < len(sizes) or sum(plain) > MAX_BYTES:
        raise DigestMismatch(f"{folder} holds a link, a folder or over 1 GiB: restore it")
    contents = {name: read(folder / name) or b"" for name in sizes}
    if _digest(contents) != digest:
        raise DigestMismatch(
            f"the files of {folder} are not what its digest says: restore the folder from a copy, "
            "or remove it and train again"
        )
    return _parse(contents, model, digest)


def check_golden(bundle: Bundle) -> None:
    """Score the golden rows; this also warms the arrays before the first request.

    Raises:
        BundleError: a score is more than 1e-12 (relative above 1) from what it was.
    """
    scores = bundle.scorer.score(bundle.golden_columns)
    difference = largest_difference(scores, bundle.golden_scores)
    if not difference <= GOLDEN_TOLERANCE:
        raise BundleError(
            f"the golden rows of bundle {bundle.digest[:12]} score {difference:.3g} off: this "
            "machine or version computes differently, do not serve it here"
        )


def _digest(contents: Mapping[str, bytes]) -> str:
    lines = (f"{name} {hashlib.sha256(contents[name]).hexdigest()}\n" for name in sorted(contents))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parse(contents: Mapping[str, bytes], model: str, digest: str) -> Bundle:
    """Rebuild the bundle; its digest says that our own writer wrote it."""
    try:
        document = msgspec.json.decode(contents["model.json"], type=_Document)
        arrays = {
            name.removesuffix(".npy"): np.load(io.BytesIO(content), allow_pickle=False)
            for name, content in contents.items()
            if name != "model.json"
        }
        scorer = Scorer(document.scorer, arrays)
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise BundleError(
            f"bundle {digest[:12]} is not what this version writes: train again"
        ) from error
    if document.model != model:
        raise BundleError(f"bundle {digest[:12]} is of '{document.model}', not of '{model}'")
    kinds = {"number": float, "category": object}
    return Bundle(
        model=model,
        digest=digest,
        columns=document.columns,
        classes=tuple(document.definitions.get("label", {}).get("classes", ())),
        threshold=document.threshold,
        definitions=document.definitions,
        train_until=document.train_until,
        golden_columns={
            column.name: np.array(document.golden[column.name], dtype=kinds[column.kind])
            for column in document.columns
        },
        golden_scores=np.array(document.golden_scores),
        scorer=scorer,
    )
