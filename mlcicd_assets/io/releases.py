"""The release store's layout, its pointers (what servers obey) and its release notes.

<root>/<model>/pointer.json                     which bundle is live
<root>/<model>/bundles/<digest>/                immutable (io/bundle.py)
<root>/<model>/bundles/<digest>.release.json    what the ledger said at its release
<root>/<model>/bundles/<digest>.recall.json     who recalled it: it must not be live again
<root>/<model>/bundles/<digest>.image.json      the image that serves it (io/images.py)
<root>/<model>/bundles/<digest>.failed.json     why a container of it did not come up
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mlcicd_assets.io.store import Place, change, listing, read, stamp, write
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


def pointer_path(root: Place, model: str) -> Place:
    """Return where the model's pointer stands; ReleaseError if its name could lead elsewhere."""
    if not MODEL_NAME.fullmatch(model):
        raise ReleaseError("a model's name must be lower-case letters, digits and underscores")
    return root / model / "pointer.json"


def bundle_folder(root: Place, model: str, digest: str) -> Place:
    """Return the folder of a bundle; ReleaseError if name or digest could lead elsewhere."""
    if not DIGEST.fullmatch(digest):
        raise ReleaseError("a bundle's digest must be 64 lower-case hex digits")
    return pointer_path(root, model).parent / "bundles" / digest


def models_in(root: Place) -> list[str]:
    """Return the models that have anything in the store."""
    return [name for name in listing(root) if MODEL_NAME.fullmatch(name)]


def pointer_stamps(root: Place) -> dict[str, str]:
    """Return the models that have a pointer, each with a stamp that changes when it moves."""
    stamps = {model: stamp(pointer_path(root, model)) for model in models_in(root)}
    return {model: told for model, told in stamps.items() if told}


def read_pointer(root: Place, model: str) -> Pointer | None:
    """Return the model's pointer, None when it has none; ReleaseError if it is damaged."""
    path = pointer_path(root, model)
    return _decoded(path, read(path))


def swap_pointer(root: Place, pointer: Pointer, *, expected_digest: str | None) -> None:
    """Replace the pointer, atomically and durably, if it still names `expected_digest`.

    Raises:
        PointerMoved: it names another digest (None: there is no pointer yet), or stands on a
            later entry of the ledger: whoever was late must not undo what came after.
    """

    def swapped(current: Pointer | None) -> bytes:
        if current is not None and current.ledger_seq > pointer.ledger_seq:
            raise PointerMoved(
                f"the pointer of '{pointer.model}' stands on entry {current.ledger_seq} of the "
                f"ledger, later than {pointer.ledger_seq}: look again, then decide"
            )
        return msgspec.json.encode(pointer)

    _change(root, pointer.model, expected_digest, swapped)


def remove_pointer(root: Place, model: str, *, expected_digest: str | None) -> None:
    """Take the model out of service if its pointer still names `expected_digest`, see above."""
    _change(root, model, expected_digest, lambda _: None)


def write_release_note(root: Place, model: str, digest: str, note: dict[str, Any]) -> Place:
    """Write the note beside the bundle, replacing an earlier one; return its path."""
    path = bundle_folder(root, model, digest).with_name(f"{digest}.release.json")
    write(path, msgspec.json.format(msgspec.json.encode(note, order="sorted")))
    return path


def release_notes(root: Place, model: str) -> list[Place]:
    """Return where the model's notes are."""
    folder = pointer_path(root, model).parent / "bundles"
    return [folder / name for name in listing(folder) if name.endswith(".release.json")]


def recall_note(root: Place, model: str, digest: str) -> Place:
    """Return where it stands that a bundle was recalled; offline there is no ledger to ask."""
    return bundle_folder(root, model, digest).with_name(f"{digest}.recall.json")


def image_note(root: Place, model: str, digest: str) -> Place:
    """Return where it stands which image serves a bundle."""
    return bundle_folder(root, model, digest).with_name(f"{digest}.image.json")


def noted_image(root: Place, model: str, digest: str) -> str | None:
    """Return the image that serves a bundle, by digest; None: none was made."""
    content = read(image_note(root, model, digest))
    return None if content is None else msgspec.json.decode(content)["image"]


def noted_failure(root: Place, model: str, digest: str) -> str | None:
    """Return why a bundle's image did not come up; None: nothing is known against it."""
    content = read(failure_note(root, model, digest))
    return None if content is None else msgspec.json.decode(content)["load_error"]


def failure_note(root: Place, model: str, digest: str) -> Place:
    """Return where the server of containers tells why a bundle's image did not come up."""
    return bundle_folder(root, model, digest).with_name(f"{digest}.failed.json")


def _change(
    root: Place, model: str, expected: str | None, swapped: Callable[[Pointer | None], bytes | None]
) -> None:
    """Replace the pointer while it names this digest; no other process comes between."""
    path = pointer_path(root, model)

    def decide(content: bytes | None) -> bytes | None:
        current = _decoded(path, content)
        found = current.digest if current else None
        if found != expected:
            raise PointerMoved(
                f"the pointer of '{model}' names bundle {found} instead of {expected}: "
                "someone else released first; look again, then decide"
            )
        return swapped(current)

    change(path, decide)


def _decoded(path: Place, content: bytes | None) -> Pointer | None:
    try:
        return None if content is None else msgspec.json.decode(content, type=Pointer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"{path} is damaged: put back the last good copy, or remove it and release again"
        ) from error
