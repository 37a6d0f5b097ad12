"""The release store's layout, its pointers (what servers obey) and its release notes.

<root>/<model>/pointer.json                     which bundle is live
<root>/<model>/bundles/<digest>/                immutable (io/bundle.py)
<root>/<model>/bundles/<digest>.release.json    what the ledger said at its release
"""

import fcntl
import os
import re
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from mlcicd_assets.ml.errors import PointerMoved, ReleaseError

MODEL_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")


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


def pointer_path(root: Path, model: str) -> Path:
    """Return where the model's pointer stands; ReleaseError if its name could lead elsewhere."""
    if not MODEL_NAME.fullmatch(model):
        raise ReleaseError("a model's name must be lower-case letters, digits and underscores")
    return root / model / "pointer.json"


def bundle_folder(root: Path, model: str, digest: str) -> Path:
    """Return the folder of a bundle; ReleaseError if name or digest could lead elsewhere."""
    if not DIGEST.fullmatch(digest):
        raise ReleaseError("a bundle's digest must be 64 lower-case hex digits")
    return pointer_path(root, model).parent / "bundles" / digest


def pointer_stamps(root: Path) -> dict[str, tuple[int, int]]:
    """Return the models that have a pointer, each with a stamp that changes when it moves."""
    stamps: dict[str, tuple[int, int]] = {}
    for folder in root.iterdir() if root.is_dir() else ():
        if MODEL_NAME.fullmatch(folder.name):
            with suppress(FileNotFoundError, NotADirectoryError):
                status = pointer_path(root, folder.name).stat()
                stamps[folder.name] = (status.st_ino, status.st_mtime_ns)
    return stamps


def read_pointer(root: Path, model: str) -> Pointer | None:
    """Return the model's pointer, None when it has none; ReleaseError if it is damaged."""
    path = pointer_path(root, model)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Pointer)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"{path} is damaged: put back the last good copy, or remove it and release again"
        ) from error


def swap_pointer(root: Path, pointer: Pointer, *, expected_digest: str | None) -> None:
    """Replace the pointer, atomically and durably, if it still names `expected_digest`.

    Raises:
        PointerMoved: it names another digest (None: there is no pointer yet), or stands on a
            later entry of the ledger: whoever was late must not undo what came after.
    """
    with _still_naming(expected_digest, root, pointer.model) as path:
        current = read_pointer(root, pointer.model)
        if current is not None and current.ledger_seq > pointer.ledger_seq:
            raise PointerMoved(
                f"the pointer of '{pointer.model}' stands on entry {current.ledger_seq} of the "
                f"ledger, later than {pointer.ledger_seq}: look again, then decide"
            )
        write_atomic(path, msgspec.json.encode(pointer))


def remove_pointer(root: Path, model: str, *, expected_digest: str | None) -> None:
    """Take the model out of service if its pointer still names `expected_digest`, see above."""
    with _still_naming(expected_digest, root, model) as path:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_release_note(root: Path, model: str, digest: str, note: dict[str, Any]) -> Path:
    """Write the note beside the bundle, replacing an earlier one; return its path."""
    path = bundle_folder(root, model, digest).with_name(f"{digest}.release.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(msgspec.json.encode(note, order="sorted")))
    return path


def write_atomic(path: Path, content: bytes) -> None:
    """Write the file so that a reader, or a power loss, sees the old or the new content whole."""
    staged = path.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        with staged.open("xb") as file:
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
def _still_naming(expected_digest: str | None, root: Path, model: str) -> Generator[Path]:
    """Hold the model's lock (between processes too) while the pointer names this digest."""
    path = pointer_path(root, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        current = read_pointer(root, model)
        found = current.digest if current else None
        if found != expected_digest:
            raise PointerMoved(
                f"the pointer of '{model}' names bundle {found} instead of {expected_digest}: "
                "someone else released first; look again, then decide"
            )
        yield path
