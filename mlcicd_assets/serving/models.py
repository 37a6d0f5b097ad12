"""The models in memory, kept equal to the release store's pointers by a watcher thread."""

import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from mlcicd_assets.io.bundle import Bundle, check_golden, load_bundle
from mlcicd_assets.io.releases import Pointer, pointer_stamps, read_pointer
from mlcicd_assets.io.store import Place, poll_seconds
from mlcicd_assets.ml.errors import MlcicdError, StoreError

LOG: Final = logging.getLogger("mlcicd.serving")
NO_FAILURE: Final[dict[str, str | None]] = {"load_error": None, "failed_digest": None}


@dataclass(frozen=True, eq=False)
class LiveModel:
    """A verified, warmed bundle under the version its pointer gave it."""

    version: int
    bundle: Bundle


class ModelStore:
    """Serves what the pointers name; what cannot be loaded leaves the old model in place.

    Readers take one reference to a dictionary that is never changed, only replaced, so a
    request sees one model from start to end.
    """

    def __init__(self, releases: Place) -> None:
        self._releases = releases
        self._live: dict[str, LiveModel] = {}
        self._failures: dict[str, dict[str, str | None]] = {}
        self._seen: dict[str, str] = {}
        self._watcher: threading.Thread | None = None

    def live(self) -> dict[str, LiveModel]:
        """Return the models that answer now, by name."""
        return self._live

    def failure(self, model: str) -> dict[str, str | None]:
        """Return why (`load_error`) a model's newest bundle (`failed_digest`) is not live."""
        return self._failures.get(model, NO_FAILURE)

    def is_ready(self) -> bool:
        """Tell whether every pointer has a model that answers, and pointers are being watched."""
        watching = self._watcher is None or self._watcher.is_alive()
        return watching and self._live.keys() >= self._seen.keys()

    def refresh(self) -> None:
        """Follow every pointer that changed since the last call; remove what has none."""
        stamps = pointer_stamps(self._releases)
        for gone in self._seen.keys() - stamps.keys():
            self._live = {name: live for name, live in self._live.items() if name != gone}
            self._failures.pop(gone, None)
            LOG.info("%s: out of service, it has no pointer any more", gone)
        moved = {name for name, stamp in stamps.items() if self._seen.get(name) != stamp}
        again = {name for name in moved if not self._follow(name)}
        self._seen = {name: "" if name in again else stamp for name, stamp in stamps.items()}

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
        while not stop.wait(poll_seconds(self._releases)):
            try:
                self.refresh()
            except OSError:
                LOG.exception("the release store %s cannot be read", self._releases)

    def _follow(self, name: str) -> bool:
        """Serve what the pointer names; False where the storage failed, to be asked again."""
        pointer = None
        try:
            pointer = read_pointer(self._releases, name)
            if pointer is None:  # removed this moment
                return True
            self._serve(name, pointer.version, pointer.digest)
            self._failures.pop(name, None)
        except (MlcicdError, OSError) as error:
            digest = pointer.digest if pointer else None
            self._failures[name] = {"load_error": str(error), "failed_digest": digest}
            LOG.error("%s: kept what it was, its pointer cannot be followed: %s", name, error)
            if pointer and name not in self._live:
                self._fall_back(pointer)
            return not isinstance(error, StoreError)
        return True

    def _fall_back(self, pointer: Pointer) -> None:
        """Start with the release before the broken one rather than with nothing."""
        if pointer.previous_version and pointer.previous_digest:
            try:
                self._serve(pointer.model, pointer.previous_version, pointer.previous_digest)
            except (MlcicdError, OSError) as error:
                LOG.error("%s: nor does its previous release load: %s", pointer.model, error)

    def _serve(self, name: str, version: int, digest: str) -> None:
        old = self._live.get(name)
        if old and old.bundle.digest == digest:
            bundle = old.bundle
        else:
            bundle = load_bundle(self._releases, name, digest)
            check_golden(bundle)
        self._live = {**self._live, name: LiveModel(version, bundle)}
        LOG.info("%s: version %d is live, bundle %s", name, version, digest[:12])
