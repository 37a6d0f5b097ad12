"""Places: a file or folder, local or on object storage; only this module knows which.

Locally a place is a `Path`. On object storage an empty object is one that was taken away: storage
has conditional writes but no conditional delete, which could undo what another has just written.
"""

import fcntl
import functools
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TYPE_CHECKING, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from mlcicd_assets.ml.errors import SettingsError, StoreDenied, StoreError

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Store

Result = TypeVar("Result")

SCHEMES: Final = ("s3", "s3a", "gs", "az", "abfs", "abfss")
ATTEMPTS: Final = 5
_PROVEN: Final = set[str]()


class ObjectPlace(PurePosixPath):
    """An object, or the prefix of some; its first two parts are the scheme and the bucket."""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def bucket(self) -> str:
        """Return it as an address."""
        return "//".join(self.parts[:2])

    @property
    def key(self) -> str:
        """Return the name within the bucket."""
        return "/".join(self.parts[2:])


Place = Path | ObjectPlace


def place_at(address: str) -> Place:
    """Return the place of a path or address; it is not asked whether anything is there.

    Raises:
        SettingsError: it cannot be used; the address is not repeated, it may hold a password.
    """
    parts = urlsplit(address)
    if "://" not in address or parts.scheme == "file":
        return Path(address.removeprefix("file://")).resolve()
    if parts.scheme not in SCHEMES or not parts.netloc:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise SettingsError(f"give a path, or an address that starts with one of {known}")
    if parts.password is not None or parts.query:
        raise SettingsError("give keys by the environment (AWS_ACCESS_KEY_ID, ...), not here")
    if find_spec("obstore") is None:
        raise SettingsError("object storage needs an extra: pip install 'mlcicd-assets[objects]'")
    return ObjectPlace(f"{parts.scheme}:", parts.netloc, unquote(parts.path).strip("/"))


def read(place: Place) -> bytes | None:
    """Return what is there, None where nothing is."""
    if isinstance(place, ObjectPlace):
        return _get(place)[0]
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None


def write(place: Place, content: bytes) -> None:
    """Write it so that a reader, or a power loss, sees the old or the new content whole."""
    if isinstance(place, ObjectPlace):
        _put(place, content, "overwrite")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    staged = place.with_name(f".writing-{uuid.uuid4().hex}")
    try:
        with staged.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(place)
    finally:
        staged.unlink(missing_ok=True)
    _sync_folder(place.parent)


def change(place: Place, decide: Callable[[bytes | None], bytes | None]) -> None:
    """Replace what is there by what `decide` makes of it; None means nothing, before and after.

    No other process comes between: locally it waits, elsewhere `decide` is asked again. What
    `decide` raises leaves everything as it is.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        with (place.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = decide(read(place))
            if content is not None:
                write(place, content)
            else:
                place.unlink(missing_ok=True)
                _sync_folder(place.parent)
        return
    for _ in range(ATTEMPTS):
        found, condition = _get(place)
        content = decide(found)
        # A write may have arrived although its answer was lost, and then meets itself.
        if _put(place, content or b"", condition) or read(place) == content:
            return
    raise StoreError(f"{place} changed {ATTEMPTS} times meanwhile: run it again")


def remove(place: Place) -> None:
    """Remove a file that no two processes decide about."""
    if isinstance(place, Path):
        place.unlink(missing_ok=True)
    else:
        _ask(place, lambda storage: storage.delete(place.key))


def listing(folder: Place) -> dict[str, int | None]:
    """Return the names in a folder with their sizes in bytes, None for what is no plain file."""
    sizes: dict[str, int | None] = {}
    if isinstance(folder, Path):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            with suppress(FileNotFoundError):  # gone this moment
                status = path.lstat()
                sizes[path.name] = status.st_size if S_ISREG(status.st_mode) else None
        return sizes
    if found := _ask(folder, lambda storage: storage.list_with_delimiter(folder.key or None)):
        sizes |= {one["path"]: one["size"] for one in found["objects"]}
        sizes |= dict.fromkeys(found["common_prefixes"])
    return {path.rpartition("/")[2]: size for path, size in sorted(sizes.items())}


def is_empty(place: Place) -> bool:
    """Tell whether a file is there and holds nothing, at the price of one look."""
    if isinstance(place, Path):
        return place.is_file() and not place.stat().st_size
    meta = _ask(place, lambda storage: storage.head(place.key))
    return meta is not None and not meta["size"]


def stamp(place: Place) -> str:
    """Return a text that changes with the file, at the price of one look; empty: nothing there."""
    if isinstance(place, Path):
        try:
            status = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            return ""
        return f"{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    meta = _ask(place, lambda storage: storage.head(place.key))
    if meta is None or not meta["size"]:
        return ""
    return f"{meta['e_tag']}:{meta['size']}:{meta['last_modified'].isoformat()}"


def place_files(folder: Place, contents: Mapping[str, bytes]) -> None:
    """Place a folder that never changes: as a whole, or on object storage file by file.

    What is there stays. Files that a crash left out there are added; until then digests tell.
    """
    if isinstance(folder, ObjectPlace):
        for name, content in contents.items():
            _put(folder / name, content, "create")
        return
    if folder.exists():
        return
    staged = folder.with_name(f".staging-{uuid.uuid4().hex}")
    staged.mkdir(parents=True)
    try:
        for name, content in contents.items():
            write(staged / name, content)
        staged.rename(folder)
        _sync_folder(folder.parent)
    except OSError:
        # Someone else may have placed the same folder meanwhile.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def poll_seconds(place: Place) -> float:
    """Return how often a watcher may look: requests to object storage cost money."""
    return 0.2 if isinstance(place, Path) else 1.0


def check_store(place: Place) -> None:
    """Prove, once for each bucket and process, that conditional writes hold there.

    Raises:
        SettingsError: the storage ignores conditions.
        StoreError: it does not answer, or there is no such bucket.
    """
    if isinstance(place, Path) or place.bucket in _PROVEN:
        return
    probe = place / f".probe-{uuid.uuid4().hex}"
    try:
        created = _put(probe, b"1", "create")
        condition = _get(probe)[1]
        swapped = not _put(probe, b"2", "create") and _put(probe, b"3", condition)
        holds = created and swapped and not _put(probe, b"4", condition)
    except StoreDenied:
        return  # who may not write, like a server that only reads, cannot win against anybody
    finally:
        with suppress(StoreError):
            remove(probe)
    if not holds:
        raise SettingsError(
            f"the storage of {place.bucket} ignores conditional writes (If-None-Match, If-Match): "
            "two releases at once would both win. Use storage that has them, see docs/operate.md"
        )
    _PROVEN.add(place.bucket)


@functools.cache
def _client(bucket: str) -> "S3Store":
    from obstore.store import from_url

    patience = timedelta(seconds=20)
    # All kinds of store have the same methods.
    return cast(
        "S3Store", from_url(bucket, retry_config={"max_retries": 4, "retry_timeout": patience})
    )


def _ask(
    place: ObjectPlace,
    act: "Callable[[S3Store], Result]",
    nothing: tuple[type[Exception], ...] = (FileNotFoundError,),
) -> Result | None:
    """Return the storage's answer, None for `nothing`; its full errors may name keys."""
    from obstore.exceptions import BaseError, PermissionDeniedError

    try:
        return act(_client(place.bucket))
    except nothing:
        return None
    except (BaseError, OSError, NotImplementedError) as error:
        kind = StoreDenied if isinstance(error, PermissionDeniedError) else StoreError
        reason = str(error).partition("\n")[0].partition("<")[0]
        raise kind(f"{place} cannot be used: {reason}") from None


def _get(place: ObjectPlace) -> "tuple[bytes | None, PutMode]":
    """Return what is there, and the condition for replacing exactly that."""

    def get(storage: "S3Store") -> "tuple[bytes | None, PutMode]":
        found = storage.get(place.key)
        versions = {name: found.meta[name] for name in ("e_tag", "version") if found.meta[name]}
        return bytes(found.bytes()) or None, cast("PutMode", versions)

    return _ask(place, get) or (None, "create")


def _put(place: ObjectPlace, content: bytes, mode: "PutMode") -> bool:
    """Write it, unless the condition does not hold."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    failed = (AlreadyExistsError, PreconditionError)
    return _ask(place, lambda s: s.put(place.key, content, mode=mode), failed) is not None


def _sync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
