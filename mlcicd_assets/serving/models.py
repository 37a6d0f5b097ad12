"""The models in memory, kept equal to the release store's pointers by a watcher thread."""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from mlcicd_assets.io.bundle import Bundle, check_golden, load_bundle
from mlcicd_assets.io.releases import Pointer, list_models, pointer_path, read_pointer
from mlcicd_assets.ml.errors import MlcicdError

POLL_SECONDS: Final = 0.2
LOG: Final = logging.getLogger("mlcicd.serving")
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A verified, warmed bundle under the version its pointer gave it."""

    version: int
    bundle: Bundle


@dataclass(frozen=True)
class LoadFailure:
    """Why a model's newest pointer is not what serves; digest None: unreadable pointer."""

    digest: str | None
    reason: str


class ModelStore:
    """Serves what the pointers name; what cannot be loaded leaves the old model in place.

    Readers take one reference to a dictionary that is never changed, only replaced, so a
    request sees one model from start to end.
    """

    def __init__(self, releases: Path) -> None:
        self._releases = releases
        self._live: dict[str, LiveModel] = {}
        self._failures: dict[str, LoadFailure] = {}
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._watcher: threading.Thread | None = None

    def live(self) -> dict[str, LiveModel]:
        """Return the models that answer now, by name."""
        return self._live

    def failure(self, model: str) -> LoadFailure | None:
        """Return why the model's newest pointer could not be followed, if so."""
        return self._failures.get(model)

    def is_ready(self) -> bool:
        """Tell whether every pointer has a model that answers, and pointers are being watched."""
        watching = self._watcher is None or self._watcher.is_alive()
        return watching and self._live.keys() >= self._seen.keys()

    def refresh(self) -> None:
        """Follow every pointer that changed since the last call; remove what has none."""
        stats = {name: _stat(self._releases, name) for name in list_models(self._releases)}
        current = {name: seen for name, seen in stats.items() if seen is not None}
        for gone in self._seen.keys() - current.keys():
            self._drop(gone)
        for name, seen in current.items():
            if self._seen.get(name) != seen:
                self._follow(name)
        self._seen = current

    @contextmanager
    def watching(self) -> Generator[None]:
        """Load everything, then poll the pointers in a thread while inside."""
        stop = threading.Event()
        self.refresh()
        self._watcher = threading.Thread(target=self._watch, args=(stop,), name="pointers")
        self._watcher.start()
        try:
            yield
        finally:
            stop.set()
            self._watcher.join()

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(POLL_SECONDS):
            try:
                self.refresh()
            except OSError:
                LOG.exception("the release store %s cannot be read", self._releases)

    def _follow(self, name: str) -> None:
        pointer = None
        try:
            pointer = read_pointer(self._releases, name)
            if pointer is None:
                return
            self._serve(pointer, version=pointer.version, digest=pointer.digest)
        except (MlcicdError, OSError) as error:
            failure = LoadFailure(pointer.digest if pointer else None, str(error))
            self._failures = {**self._failures, name: failure}
            LOG.error("%s: kept what it was, its pointer cannot be followed: %s", name, error)
            if pointer and name not in self._live:
                self._fall_back(pointer)
        else:
            self._failures = _without(self._failures, name)

    def _fall_back(self, pointer: Pointer) -> None:
        """Start with the release before the broken one rather than with nothing."""
        if pointer.previous_digest is None or pointer.previous_version is None:
            return
        try:
            self._serve(pointer, version=pointer.previous_version, digest=pointer.previous_digest)
        except (MlcicdError, OSError) as error:
            LOG.error("%s: the previous release cannot be loaded either: %s", pointer.model, error)

    def _serve(self, pointer: Pointer, *, version: int, digest: str) -> None:
        name = pointer.model
        old = self._live.get(name)
        if old and old.bundle.digest == digest:
            bundle = old.bundle
        else:
            bundle = load_bundle(self._releases, name, digest)
            check_golden(bundle)
        self._live = {**self._live, name: LiveModel(version, bundle)}
        LOG.info("%s: version %d is live, bundle %s", name, version, digest[:12])

    def _drop(self, name: str) -> None:
        self._live = _without(self._live, name)
        self._failures = _without(self._failures, name)
        LOG.info("%s: out of service, it has no pointer any more", name)


def _without(values: dict[str, V], name: str) -> dict[str, V]:
    return {key: value for key, value in values.items() if key != name}


def _stat(releases: Path, model: str) -> tuple[int, int, int] | None:
    try:
        status = pointer_path(releases, model).stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
