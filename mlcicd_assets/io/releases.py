"""The release store's layout, its pointers (what servers obey) and its release notes.

<root>/<model>/pointer.json                     which bundle is live
<root>/<model>/bundles/<digest>/                immutable (io/bundle.py)
<root>/<model>/bundles/<digest>.release.json    card, verdicts, ledger head of the release
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from mlcicd_assets.ml.errors import PointerMoved, ReleaseError

MODEL_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
POINTER: Final = "pointer.json"
MAX_POINTER_BYTES: Final = 64 * 1024
MAX_NOTE_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Pointer:
    """Which bundle of a model is live, why (the ledger's head), and what was live before."""

    model: str
    version: int
    digest: str
    ledger_seq: int
    ledger_hash: str
    previous_version: int | None
    previous_digest: str | None


def model_folder(root: Path, model: str) -> Path:
    """Return the model's folder in the store.

    Raises:
        ReleaseError: the name could lead elsewhere.
    """
    if not MODEL_NAME.fullmatch(model):
        raise ReleaseError("a model's name must be lower-case letters, digits and underscores")
    return root / model


def bundle_folder(root: Path, model: str, digest: str) -> Path:
    """Return the folder of one bundle.

    Raises:
        ReleaseError: the name or digest could lead elsewhere.
    """
    if not DIGEST.fullmatch(digest):
        raise ReleaseError("a bundle's digest must be 64 lower-case hex digits")
    return model_folder(root, model) / "bundles" / digest


def pointer_path(root: Path, model: str) -> Path:
    """Return where the model's pointer stands."""
    return model_folder(root, model) / POINTER


def list_models(root: Path) -> tuple[str, ...]:
    """Return the names of the models that have a pointer, sorted."""
    if not root.is_dir():
        return ()
    folders = (path.name for path in root.iterdir() if (path / POINTER).exists())
    return tuple(sorted(name for name in folders if MODEL_NAME.fullmatch(name)))


def read_pointer(root: Path, model: str) -> Pointer | None:
    """Return the model's pointer; None when it has none.

    Raises:
        ReleaseError: the file is not a pointer of this model.
    """
    path = pointer_path(root, model)
    content = _read(path, limit=MAX_POINTER_BYTES)
    if content is None:
        return None
    try:
        pointer = msgspec.json.decode(content, type=Pointer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(path) from error
    if pointer.model != model or not _is_whole(pointer):
        raise _unusable(path)
    return pointer


def swap_pointer(root: Path, pointer: Pointer, *, expected_digest: str | None) -> None:
    """Replace the pointer, atomically and durably, if it still names `expected_digest`.

    Raises:
        PointerMoved: it names another digest (None: there is no pointer yet).
        ReleaseError: the new pointer is not well-formed, or the old one cannot be read.
    """
    if not _is_whole(pointer):
        raise ReleaseError("a pointer needs a version from 1 on and digests of 64 hex digits")
    with _locked(root, pointer.model) as path:
        _expect(root, pointer.model, expected_digest)
        write_atomic(path, msgspec.json.encode(pointer))


def remove_pointer(root: Path, model: str, *, expected_digest: str | None) -> None:
    """Take the model out of service if its pointer still names `expected_digest`.

    Raises:
        PointerMoved: it names another digest.
        ReleaseError: it cannot be read.
    """
    with _locked(root, model) as path:
        _expect(root, model, expected_digest)
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_release_note(root: Path, model: str, digest: str, note: dict[str, Any]) -> Path:
    """Write the note beside the bundle, replacing an earlier one; return its path."""
    path = _note_path(root, model, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(note, order="sorted")))
    return path


def read_release_note(root: Path, model: str, digest: str) -> dict[str, Any] | None:
    """Return the note beside the bundle; None when there is none.

    Raises:
        ReleaseError: the file is not a note.
    """
    path = _note_path(root, model, digest)
    content = _read(path, limit=MAX_NOTE_BYTES)
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unusable(path) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write the file so that a reader, or a power loss, sees the old or the new content whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(root: Path, model: str) -> Generator[Path]:
    """Hold the model's lock (between processes too); gives the pointer's path."""
    path = pointer_path(root, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


def _expect(root: Path, model: str, expected_digest: str | None) -> None:
    current = read_pointer(root, model)
    digest = current.digest if current else None
    if digest != expected_digest:
        raise PointerMoved(
            f"the pointer of '{model}' names {_short(digest)} instead of "
            f"{_short(expected_digest)}: someone else released first; look again, then decide"
        )


def _short(digest: str | None) -> str:
    return f"bundle {digest[:12]}" if digest else "no bundle"


def _is_whole(pointer: Pointer) -> bool:
    digests = [pointer.digest, *([pointer.previous_digest] if pointer.previous_digest else [])]
    return pointer.version >= 1 and all(DIGEST.fullmatch(digest) for digest in digests)


def _note_path(root: Path, model: str, digest: str) -> Path:
    folder = bundle_folder(root, model, digest)
    return folder.with_name(f"{digest}.release.json")


def _read(path: Path, *, limit: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        return None
    if len(content) > limit:
        raise _unusable(path)
    return content


def _unusable(path: Path) -> ReleaseError:
    return ReleaseError(
        f"{path} is damaged: put back the last good copy, or remove it and release again"
    )
