"""Model bundles: immutable folders named by the digest of their content."""

import hashlib
import io
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from mlcicd_assets.io.releases import bundle_folder, sync_folder
from mlcicd_assets.ml.errors import BundleError, DigestMismatch
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import ExportedModel, Scorer

GOLDEN_TOLERANCE: Final = 1e-12
MAX_BYTES: Final = 1024**3
DOCUMENTS: Final = frozenset({"model.json", "contract.json", "features.json", "golden.json"})
ARRAY_PATH: Final = re.compile(r"arrays/([a-z][a-z_]{0,30})\.npy")
# One flat array of a known type and nothing else: numpy's own header parser evaluates Python.
ARRAY_HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '(<f8|<i4|\|b1)', 'fortran_order': False, "
    rb"'shape': \((\d{1,10}),\), \} *\n",
    re.DOTALL,
)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Bundle:
    """One model, ready to score; `golden_scores` is what its golden rows must give."""

    model: str
    digest: str
    columns: tuple[FeatureColumn, ...]
    threshold: float
    definitions: dict[str, Any]
    train_until: str
    golden_columns: dict[str, np.ndarray]
    golden_scores: np.ndarray
    scorer: Scorer


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    threshold: float
    train_until: str
    scorer: dict[str, Any]


class _Golden(msgspec.Struct, forbid_unknown_fields=True):
    columns: dict[str, list[float | str | None]]
    scores: list[float]


def write_bundle(
    root: Path,
    *,
    model: str,
    exported: ExportedModel,
    columns: tuple[FeatureColumn, ...],
    threshold: float,
    definitions: dict[str, Any],
    train_until: str,
    golden: Mapping[str, np.ndarray],
) -> Bundle:
    """Write the bundle durably (or find it already there) and return it as read back.

    `golden` holds real input rows in the Scorer's form; their scores are kept beside them.
    Equal content gives an equal digest: no clock and no path goes in.

    Raises:
        BundleError: the parts do not fit together.
        DigestMismatch: a folder of this digest is there and damaged.
    """
    scorer = Scorer(exported.meta, exported.arrays)
    scores = scorer.score(golden)
    head = _Model(model, float(threshold), train_until, exported.meta)
    documents = {
        "model.json": head,
        # Through JSON and back, so that bounds given as 0 or as 0.0 are the same contract.
        "contract.json": _decode(_encode(columns), tuple[FeatureColumn, ...]),
        "features.json": definitions,
        "golden.json": _Golden(
            {name: _to_json(golden[name]) for name in scorer.columns}, scores.tolist()
        ),
    }
    contents = {path: _encode(document) for path, document in documents.items()}
    contents |= {f"arrays/{name}.npy": _npy(array) for name, array in exported.arrays.items()}
    digest = _digest(contents)
    _parse(contents, model, digest)
    folder = bundle_folder(root, model, digest)
    if not folder.exists():
        _place(folder, contents)
    return load_bundle(root, model, digest)


def load_bundle(root: Path, model: str, digest: str) -> Bundle:
    """Read a bundle; every byte is checked against the digest before any is interpreted.

    Raises:
        DigestMismatch: a file is missing, extra, changed, linked or far too large.
        BundleError: there is no such bundle, or its content is inconsistent.
        ReleaseError: the name or digest is not one.
    """
    folder = bundle_folder(root, model, digest)
    if not folder.is_dir():
        raise BundleError(
            f"there is no bundle {folder}: train again, or copy it from another store"
        )
    if folder.resolve() != root.resolve() / folder.relative_to(root):
        raise DigestMismatch(f"{folder} is reached through a link: put the real folder there")
    contents = _read_folder(folder)
    if _digest(contents) != digest:
        raise DigestMismatch(
            f"the files of {folder} are not what its digest says: restore the folder from a copy, "
            "or remove it and train again"
        )
    return _parse(contents, model, digest)


def check_golden(bundle: Bundle) -> None:
    """Score the golden rows; this also warms the arrays before the first request.

    Raises:
        BundleError: a score is more than 1e-12 from what it was when the bundle was made.
    """
    difference = np.abs(bundle.scorer.score(bundle.golden_columns) - bundle.golden_scores).max()
    if not difference <= GOLDEN_TOLERANCE:
        raise BundleError(
            f"the golden rows of bundle {bundle.digest[:12]} score {difference:.3g} off: this "
            "machine or version computes differently, do not serve it here"
        )


def _place(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".staging-"))
    try:
        staged.chmod(0o755)
        (staged / "arrays").mkdir()
        for path, content in contents.items():
            with (staged / path).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(staged / "arrays")
        sync_folder(staged)
        _rename(staged, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _rename(staged: Path, folder: Path) -> None:
    try:
        staged.rename(folder)
    except OSError:
        # Someone else may have placed the same bundle meanwhile; load_bundle verifies theirs.
        if not folder.is_dir():
            raise


def _read_folder(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.iterdir() if path.name != "arrays"]
    if (folder / "arrays").is_dir() and not (folder / "arrays").is_symlink():
        files += (folder / "arrays").iterdir()
    names = {path.relative_to(folder).as_posix(): path for path in files}
    if any(name not in DOCUMENTS and not ARRAY_PATH.fullmatch(name) for name in names):
        raise DigestMismatch(f"{folder} holds files that are not of a bundle: remove them")
    contents: dict[str, bytes] = {}
    room = MAX_BYTES
    for name, path in names.items():
        contents[name] = _read_file(path, limit=room)
        room -= len(contents[name])
    return contents


def _read_file(path: Path, *, limit: int) -> bytes:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DigestMismatch(f"{path} is not a plain file: restore the bundle from a copy")
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DigestMismatch(
            f"{path.parent} is larger than a bundle may be: restore it from a copy"
        )
    return content


def _digest(contents: Mapping[str, bytes]) -> str:
    lines = (f"{path} {hashlib.sha256(contents[path]).hexdigest()}\n" for path in sorted(contents))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parse(contents: Mapping[str, bytes], model: str, digest: str) -> Bundle:
    if not DOCUMENTS.issubset(contents):
        raise BundleError(f"a bundle needs the files {', '.join(sorted(DOCUMENTS))}")
    head = _decode(contents["model.json"], _Model)
    columns = _decode(contents["contract.json"], tuple[FeatureColumn, ...])
    golden = _decode(contents["golden.json"], _Golden)
    names = [column.name for column in columns]
    arrays = {
        match[1]: _array(content)
        for path, content in contents.items()
        if (match := ARRAY_PATH.fullmatch(path))
    }
    scorer = Scorer(head.scorer, arrays)
    if head.model != model or not math.isfinite(head.threshold):
        raise BundleError(f"this is not a bundle of '{model}' with a finite threshold")
    if scorer.columns != set(names) or len(names) != len(set(names)):
        raise BundleError("the contract and the model do not have the same columns")
    if set(golden.columns) != set(names) or not golden.scores:
        raise BundleError("golden rows are missing, or have other columns than the contract")
    return Bundle(
        model=model,
        digest=digest,
        columns=columns,
        threshold=head.threshold,
        definitions=_decode(contents["features.json"], dict[str, Any]),
        train_until=head.train_until,
        golden_columns={
            column.name: _from_json(golden.columns[column.name], column, len(golden.scores))
            for column in columns
        },
        golden_scores=np.array(golden.scores, dtype=np.float64),
        scorer=scorer,
    )


def _array(content: bytes) -> np.ndarray:
    header = ARRAY_HEADER.match(content)
    if header is None:
        raise BundleError("an array file is not one flat array of a known type")
    dtype = np.dtype(header[1].decode())
    if len(content) - header.end() != int(header[2]) * dtype.itemsize:
        raise BundleError("an array file is shorter or longer than its header says")
    return np.frombuffer(content, dtype=dtype, offset=header.end())


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _to_json(values: np.ndarray) -> list[float | str | None]:
    if values.dtype == object:
        return values.tolist()
    if np.isinf(values).any():
        raise BundleError("a golden row holds an infinite number: choose rows the contract allows")
    return [None if math.isnan(value) else float(value) for value in values.tolist()]


def _from_json(values: list[float | str | None], column: FeatureColumn, rows: int) -> np.ndarray:
    type_ = str if column.kind == "category" else (float, NoneType)
    if len(values) != rows or not all(isinstance(value, type_) for value in values):
        raise BundleError(f"the golden rows of '{column.name}' are not {rows} values of its kind")
    # numpy makes NaN of None where the type is float.
    return np.array(values, dtype=object if column.kind == "category" else np.float64)


def _encode(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"))


def _decode(content: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError("a document of the bundle is not what this version writes") from error
