"""Rollback with the release store and the servers alone: no ledger, no MLflow, no Dagster.

<root>/<model>/offline/<id>.json    a rollback that the ledger does not know yet
"""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.operators import require_operator
from mlcicd_assets.io.releases import (
    Pointer,
    failure_note,
    pointer_path,
    read_pointer,
    recall_note,
    release_notes,
    swap_pointer,
)
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.smoke import smoke_test
from mlcicd_assets.io.store import Place, listing, read, remove, stamp, write
from mlcicd_assets.ml.errors import ReleaseError

Target = tuple[int, str]


@dataclass(frozen=True)
class OfflineRollback:
    """What was done, by whom and when (ISO 8601 UTC); `id` makes its booking repeatable."""

    id: str
    model: str
    version: int
    digest: str
    withdrawn: str
    by: str
    reason: str
    at: str


def rollback_offline(settings: Settings, model: str, *, to: int | None, reason: str) -> Target:
    """Do the same with the release store and the servers alone; booked by the next command.

    Raises:
        ReleaseError: the store has no such release, or a server does not take it up.
        NotAllowed: the caller is no operator.
    """
    by = require_operator(settings)
    pointer = read_pointer(settings.releases, model)
    if pointer is None:
        raise ReleaseError(f"'{model}' has no release: there is nothing to roll back")
    version, digest = _stored(settings.releases, pointer, to)
    bundle = load_bundle(settings.releases, model, digest)
    for url in settings.endpoints_of(model):
        model_status(url, model, token=settings.token)
    note = OfflineRollback(
        id=uuid.uuid4().hex,
        model=model,
        version=version,
        digest=digest,
        withdrawn=pointer.digest,
        by=by,
        reason=reason,
        at=datetime.now(UTC).isoformat(),
    )
    target = Pointer(model, version, digest, pointer.ledger_seq, pointer.ledger_hash, None, None)
    path = write_note(settings.releases, note)
    remove(failure_note(settings.releases, model, digest))
    swap_pointer(settings.releases, target, expected_digest=pointer.digest)
    try:
        smoke_test(settings, target, bundle)
    except ReleaseError:
        swap_pointer(settings.releases, pointer, expected_digest=digest)
        remove(path)
        raise
    return version, digest


def write_note(root: Place, note: OfflineRollback) -> Place:
    """Keep the note durably; written before the pointer moves, so no move is without one."""
    path = _folder(root, note.model) / f"{note.id}.json"
    write(path, msgspec.json.format(msgspec.json.encode(note)))
    return path


def pending_notes(root: Place, model: str) -> dict[Place, OfflineRollback]:
    """Return the notes that are not booked yet, oldest first."""
    found: dict[Place, OfflineRollback] = {}
    folder = _folder(root, model)
    for path in (folder / name for name in listing(folder) if name.endswith(".json")):
        content = read(path)
        if content is None:  # booked this moment
            continue
        try:
            found[path] = msgspec.json.decode(content, type=OfflineRollback)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ReleaseError(
                f"{path} is damaged: book the rollback by hand, remove it"
            ) from error
    return dict(sorted(found.items(), key=lambda item: (item[1].at, item[1].id)))


def complete(root: Place, note: OfflineRollback) -> None:
    """Move the pointer where a crash came between the note and the move."""
    pointer = read_pointer(root, note.model)
    if pointer is not None and pointer.digest == note.withdrawn:
        seq, head = pointer.ledger_seq, pointer.ledger_hash
        target = Pointer(note.model, note.version, note.digest, seq, head, None, None)
        swap_pointer(root, target, expected_digest=note.withdrawn)


def _stored(root: Place, pointer: Pointer, to: int | None) -> Target:
    """Find a release in the store: the one before by the pointer, or `to` by the release notes."""

    def is_good(digest: str) -> bool:
        return not stamp(recall_note(root, pointer.model, digest))

    version, digest = pointer.previous_version, pointer.previous_digest
    if to is None and version is not None and digest is not None and is_good(digest):
        return version, digest
    notes = [msgspec.json.decode(read(one) or b"") for one in release_notes(root, pointer.model)]
    stored = {note["version"]: note["digest"] for note in notes if is_good(note["digest"])}
    if to is None or to not in stored or to == pointer.version:
        known = ", ".join(f"v{version}" for version in sorted(stored) if version != pointer.version)
        raise ReleaseError(f"name the version to go back to with --to; the store has: {known}")
    return to, stored[to]


def _folder(root: Place, model: str) -> Place:
    return pointer_path(root, model).parent / "offline"
