"""Blue/green: each model's pointer is followed by starting the image of what it names.

A new container is started beside the old one, must answer with the pointer's bundle and score its
golden rows; only then new connections go to it. The old one goes on running, so that a way back
costs nothing. What does not come up leaves everything as it is.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.endpoint import is_alive, model_status
from mlcicd_assets.io.registry_client import split
from mlcicd_assets.io.releases import failure_note, noted_failure, noted_image, read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.smoke import check_scores
from mlcicd_assets.io.store import poll_seconds, remove, write
from mlcicd_assets.ml.errors import MlcicdError, ReleaseError, SettingsError
from mlcicd_assets.serving.app import App
from mlcicd_assets.serving.containers import Engine, Running
from mlcicd_assets.serving.models import ModelStore
from mlcicd_assets.serving.router import Address, Router
from mlcicd_assets.serving.server import server_of

LOG: Final = logging.getLogger("mlcicd.serving")
START_SECONDS: Final = 60.0


class BlueGreen:
    """One model: the container that is live, the one before it, and the address of both."""

    def __init__(self, settings: Settings, model: str, engine: Engine, router: Router) -> None:
        self._settings, self._model = settings, model
        self._engine, self._router = engine, router
        self._nobody = router.target
        self._live: Running | None = None
        self._kept: list[Running] = engine.running(model)  # of a server before this one

    def follow(self) -> None:
        """Do what the pointer says; safe to repeat.

        Raises:
            ReleaseError: no container of what it names comes up; what is live stays so.
        """
        root, model = self._settings.releases, self._model
        pointer = read_pointer(root, model)
        wanted = pointer.digest if pointer else None
        is_live = self._live is not None and self._live.digest == wanted
        if wanted is None:
            self._withdraw()
        elif not is_live and (self._live is None or not noted_failure(root, model, wanted)):
            # Beside a live one what failed waits for the next release; else it is tried again.
            try:
                self._switch(wanted)
            except MlcicdError as error:
                told = msgspec.json.encode({"load_error": str(error)})
                write(failure_note(root, model, wanted), told)
                raise
            remove(failure_note(root, model, wanted))
        self._keep_up()

    def stop(self) -> None:
        """Stop and remove every container of the model."""
        for one in self._engine.running(self._model):
            self._engine.stop(one)

    def _switch(self, digest: str) -> None:
        known = [one for one in self._kept if one.digest == digest]
        known = [one for one in known if not self._engine.is_gone(one)]
        green = known[0] if known else self._start(digest)
        blue, self._live = self._live, green
        if known:
            self._engine.drain(green, resume=True)
        self._keep_up()
        LOG.info("%s: bundle %s is live", self._model, digest[:12])
        if blue is not None:
            self._engine.drain(blue)
        others = [one for one in (blue, *self._kept) if one is not None and one is not green]
        self._kept = others[:1]
        for old in others[1:]:
            self._engine.stop(old)

    def _withdraw(self) -> None:
        """Nothing is live: as before a first release."""
        if self._live is not None:
            self._router.target = self._nobody
            self._engine.drain(self._live)
            self._live, self._kept = None, [self._live, *self._kept]

    def _start(self, digest: str) -> Running:
        noted = noted_image(self._settings.releases, self._model, digest)
        if noted is None:
            raise ReleaseError(f"no image of bundle {digest[:12]}: materialize serving_image")
        # The registry may have another name here than where the image was made.
        repository = split(self._settings.serving_image or noted)[0]
        image = f"{repository}@{split(noted)[1]}"
        green = self._engine.start(image, self._model, digest)
        try:
            self._prove(green)
        except MlcicdError as error:
            words = self._engine.last_words(green)
            self._engine.stop(green)
            raise ReleaseError(f"{image}: {error}. Its last words: {words}") from error
        return green

    def _prove(self, green: Running) -> None:
        """Wait until it answers with the pointer's bundle, and compare golden scores."""
        token, deadline = self._settings.token, time.monotonic() + START_SECONDS
        while not (url := self._answers(green)):
            if time.monotonic() > deadline:
                raise ReleaseError(f"it did not answer within {START_SECONDS:g} s")
            time.sleep(0.1)
        status = model_status(url, self._model, token=token)
        if status is None or status.digest != green.digest:
            served = status and status.digest
            raise ReleaseError(f"it serves bundle {served}, not {green.digest}")
        bundle = load_bundle(self._settings.releases, self._model, green.digest)
        check_scores(url, bundle, token=token)

    def _answers(self, green: Running) -> str:
        """Return where a container that has just begun answers; "" where it does not yet."""
        if self._engine.is_gone(green) or green.container.attrs["RestartCount"]:
            raise ReleaseError("it ended as soon as it had begun")
        address = self._engine.address(green)
        url = "http://{}:{}".format(*address) if address else ""
        return url if url and is_alive(url) else ""

    def _keep_up(self) -> None:
        """Follow the live container to its address, which a restart changes; replace a lost one."""
        if self._live is None:
            return
        if self._engine.is_gone(self._live):
            LOG.warning("%s: its container is gone, starting another", self._model)
            self._engine.stop(self._live)
            self._live = self._start(self._live.digest)
        self._router.target = self._engine.address(self._live) or self._router.target


def serve_containers(settings: Settings, *, host: str | None, network: str | None) -> None:
    """Serve each model of MLCICD_ENDPOINTS by a container until SIGTERM; then stop them.

    Raises:
        SettingsError: no model has an address of its own, or there is no token.
    """
    addresses = {model: urlsplit(urls[0]) for model, urls in settings.own_endpoints.items()}
    if not addresses:
        raise SettingsError(
            "give each model an address: MLCICD_ENDPOINTS=card_fraud=http://127.0.0.1:8901,..."
        )
    if not settings.token:
        raise SettingsError("containers are reached over a network: set MLCICD_TOKEN")
    ports = {
        model: (host or url.hostname or "127.0.0.1", url.port or 80)
        for model, url in addresses.items()
    }
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    role = f"{settings.releases} {network or ''}".strip()
    engine = Engine(role=role, network=network, token=settings.token)
    # uvicorn raises the signal again for the handler that it found: what comes after is ours.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)
    uvloop.run(_serve(settings, engine, ports))


async def _serve(settings: Settings, engine: Engine, ports: Mapping[str, Address]) -> None:
    """Route, beside a thread that follows pointers; before a release an empty server answers."""
    with TemporaryDirectory() as nothing:
        empty = server_of(
            App(ModelStore(Path(nothing)), token=settings.token), host="127.0.0.1", port=0
        )
        serving = asyncio.create_task(empty.serve())  # it ends with SIGTERM, and all with it
        while not empty.started:
            await asyncio.sleep(0.05)
        nobody = empty.servers[0].sockets[0].getsockname()
        routers = {model: Router(nobody) for model in ports}
        listening = [await routers[model].listen(*ports[model]) for model in ports]
        deployments = [BlueGreen(settings, model, engine, routers[model]) for model in ports]
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(settings, deployments, stop))
        watcher.start()
        await serving
        stop.set()
        for one in listening:
            one.close()
        await asyncio.to_thread(watcher.join)
        for deployment in deployments:
            await asyncio.to_thread(deployment.stop)


def _watch(settings: Settings, deployments: list[BlueGreen], stop: threading.Event) -> None:
    while True:
        for one in deployments:
            try:
                one.follow()
            except Exception:  # whatever it is, the others are followed, and this one again
                LOG.exception("a pointer cannot be followed")
        if stop.wait(poll_seconds(settings.releases)):
            return
