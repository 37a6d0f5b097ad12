"""Releases as images: baked, pushed, swapped blue/green under load, taken back, never the wrong."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import httpx
import msgspec
import pytest
from docker.errors import ImageNotFound

from mlcicd_assets.io import smoke
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.endpoint import is_alive, model_status
from mlcicd_assets.io.images import make_image
from mlcicd_assets.io.releases import failure_note, image_note, noted_image, read_pointer
from mlcicd_assets.io.store import read, write
from mlcicd_assets.io.verify import verify
from mlcicd_assets.ml.errors import RegistryError, ReleaseError
from mlcicd_assets_tests.docker.conftest import REGISTRY, SERVING
from mlcicd_assets_tests.io.scene import (
    POLICY,
    Scene,
    offline,
    pass_every_gate,
    report,
    roll_back,
)
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.processes import free_port, running_server

pytestmark = pytest.mark.docker

TOKEN = "of this test"  # noqa: S105
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ROW = {"model": MODEL, "row": {"amount": 250.5, "channel": "online", "rate": None}}


@pytest.fixture(scope="module")
def base(engine: docker.DockerClient) -> Iterator[str]:
    """A registry, and the serving image pushed to it, by digest."""
    port = free_port()
    ports = {"5000/tcp": ("127.0.0.1", port)}
    registry = engine.containers.run(REGISTRY, detach=True, ports=ports)
    repository = f"127.0.0.1:{port}/mlcicd-serving"
    try:
        await_registry(f"127.0.0.1:{port}")
        yield pushed(engine, repository, "base")
    finally:
        registry.remove(force=True, v=True)
        for image in engine.images.list(repository):
            for name in [*image.tags, *image.attrs["RepoDigests"]]:
                with suppress(ImageNotFound):  # it went with its last other name
                    if name.startswith(repository):
                        engine.images.remove(name, force=True)


def await_registry(at: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"http://{at}/v2/").raise_for_status()
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the registry did not come up"
            time.sleep(0.1)


def pushed(engine: docker.DockerClient, repository: str, tag: str, **changes: Any) -> str:
    """Push the serving image, as it is or with its configuration changed; return it by digest."""
    container = engine.containers.create(SERVING)
    if changes:
        container.commit(repository, tag, conf=changes)
    else:
        engine.images.get(SERVING).tag(repository, tag)
    container.remove()
    told = [*engine.images.push(repository, tag, stream=True, decode=True)]
    (digest,) = [line["aux"]["Digest"] for line in told if "aux" in line]
    return f"{repository}@{digest}"


@pytest.fixture
def scene(home: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """A server of containers behind one address, and nothing live."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLCICD_ENDPOINTS", f"{MODEL}={url}")
    monkeypatch.setenv("MLCICD_TOKEN", TOKEN)
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", base)
    with running_server(url, home, "--containers"):
        yield Scene(url)


def bake(scene: Scene, seed: int, champion: Bundle | None = None) -> Bundle:
    bundle = scene.bundle(seed)
    made = report(bundle, seed, champion)
    make_image(scene.settings, scene.ledger, made.candidate, policy=POLICY, run_id="r")
    pass_every_gate(scene.ledger, made)
    return bundle


def release(scene: Scene, seed: int, champion: Bundle | None = None) -> Bundle:
    bundle = bake(scene, seed, champion)
    assert scene.deliver(report(bundle, seed, champion)) == "released"
    return bundle


def served(scene: Scene) -> int | None:
    status = model_status(scene.url, MODEL, token=TOKEN)
    return status.version if status else None


class Load:
    """Callers that keep their connection and callers that open one each time."""

    def __init__(self, url: str) -> None:
        self.url, self.stop = url, threading.Event()
        self.versions: list[list[int]] = []
        self.failures: list[str] = []

    def __enter__(self) -> "Load":
        self.pool = ThreadPoolExecutor(6)
        self.done = [self.pool.submit(self._ask, keep=number % 2 == 0) for number in range(6)]
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.versions = [one.result() for one in self.done]
        self.pool.shutdown()

    def _ask(self, *, keep: bool) -> list[int]:
        seen: list[int] = []
        client = httpx.Client(headers=BEARER, timeout=20)
        while not self.stop.is_set():
            try:
                if not keep:
                    client.close()
                    client = httpx.Client(headers=BEARER, timeout=20)
                told = client.post(f"{self.url}/predict", json=ROW)
                told.raise_for_status()
                seen.append(int(told.json()["version"]))
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
            time.sleep(0.01)
        client.close()
        return seen


def test_a_swap_under_load_drops_nothing_and_the_way_back_is_at_once(
    scene: Scene, engine: docker.DockerClient
) -> None:
    assert served(scene) is None
    first = release(scene, 1)
    assert served(scene) == 1
    second = bake(scene, 2, first)
    with Load(scene.url) as load:
        began = time.monotonic()
        assert scene.deliver(report(second, 2, first)) == "released"
        swapped = time.monotonic() - began
        time.sleep(1)
        began = time.monotonic()
        assert roll_back(scene) == (1, first.digest)
        returned = time.monotonic() - began
        time.sleep(1)
    asked = sum(map(len, load.versions))
    assert load.failures == []
    for seen in load.versions:  # also of those who keep their connection
        assert seen == sorted(seen[: len(seen) - seen[::-1].index(2)]) + [1] * seen[::-1].index(2)
        assert {1, 2} == set(seen)
        assert seen[-1] == 1
    # The server that drained may be kept in touch with again.
    assert "close" not in httpx.get(f"{scene.url}/v2/health/live").headers.get("connection", "")
    assert returned < 5
    running = engine.containers.list(filters={"label": f"io.mlcicd.model={MODEL}"})
    assert len(running) == 2
    image = noted_image(scene.settings.releases, MODEL, first.digest)
    labels = engine.images.get(image).labels
    assert labels["io.mlcicd.bundle"] == first.digest
    assert labels["io.mlcicd.policy"] == POLICY
    assert labels["org.opencontainers.image.version"] == "1"
    assert "io.mlcicd.table.features" in labels
    entries = scene.ledger.entries(kinds=("image",))
    assert next(one.body["image"] for one in entries) == image
    print(f"\nswap {swapped:.1f} s, way back {returned:.1f} s, {asked} requests, 0 failed")


def test_the_same_release_gives_the_same_image_once(scene: Scene) -> None:
    bundle = scene.bundle(1)
    made = report(bundle, 1).candidate
    began = time.monotonic()
    one = make_image(scene.settings, scene.ledger, made, policy=POLICY, run_id="r")
    assert time.monotonic() - began < 5
    again = make_image(scene.settings, scene.ledger, made, policy=POLICY, run_id="r2")
    assert one == again
    assert len(scene.ledger.entries(kinds=("image",))) == 1
    other = make_image(scene.settings, scene.ledger, made, policy="other", run_id="r3")
    assert other == one  # what is in the ledger counts


def test_what_is_not_the_ledgers_image_is_refused(scene: Scene) -> None:
    first = release(scene, 1)
    second = bake(scene, 2, first)
    note = image_note(scene.settings.releases, MODEL, second.digest)
    good = noted_image(scene.settings.releases, MODEL, second.digest)
    bad = noted_image(scene.settings.releases, MODEL, first.digest)
    write(note, msgspec.json.encode({"image": bad}))
    with pytest.raises(ReleaseError, match="names image"):
        scene.deliver(report(second, 2, first))
    assert served(scene) == 1
    assert scene.outcomes() == ["released", "blocked"]
    told = f"the release store names image {good}"
    write(
        image_note(scene.settings.releases, MODEL, first.digest),
        msgspec.json.encode({"image": good}),
    )
    problems, _ = verify(scene.settings, scene.ledger)
    assert [one for one in problems if told in one]


def test_a_first_release_that_is_taken_back_leaves_nothing_live(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bake(scene, 1)
    monkeypatch.setattr(smoke, "score_rows", lambda *_, **__: bundle.golden_scores + 0.1)
    with pytest.raises(ReleaseError, match="differ from offline"):
        scene.deliver(report(bundle, 1))
    deadline = time.monotonic() + 10
    while served(scene) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("way_back", [roll_back, offline])
def test_the_way_back_is_the_container_that_was_kept_and_needs_no_registry(
    scene: Scene, base: str, engine: docker.DockerClient, way_back: Callable[..., Any]
) -> None:
    first = release(scene, 1)
    release(scene, 2, first)
    labels = {"label": f"io.mlcicd.model={MODEL}"}
    before = {one.id for one in engine.containers.list(filters=labels)}
    (registry,) = engine.containers.list(filters={"ancestor": REGISTRY})
    registry.stop(timeout=1)
    try:
        assert way_back(scene) == (1, first.digest)
    finally:
        registry.start()
        await_registry(base.partition("/")[0])
    assert served(scene) == 1
    assert {one.id for one in engine.containers.list(filters=labels)} == before


def test_without_an_image_nothing_is_released(scene: Scene) -> None:
    made = report(scene.bundle(1), 1)
    pass_every_gate(scene.ledger, made)
    with pytest.raises(ReleaseError, match="materialize card_fraud/serving_image"):
        scene.deliver(made)
    assert read_pointer(scene.settings.releases, MODEL) is None


def test_an_image_that_does_not_come_up_leaves_the_old_one_live(
    scene: Scene, base: str, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = release(scene, 1)
    broken = pushed(engine, base.partition("@")[0], "broken", Entrypoint=["python", "-c", "1/0"])
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", broken)
    late = Scene(scene.url)
    second = bake(late, 2, first)
    with pytest.raises(ReleaseError, match=r"ended as soon as it had begun.*ZeroDivisionError"):
        late.deliver(report(second, 2, first))
    assert served(scene) == 1
    assert scene.outcomes() == ["released", "blocked"]
    (left,) = engine.containers.list(all=True, filters={"label": f"io.mlcicd.model={MODEL}"})
    assert left.labels["io.mlcicd.bundle"] == first.digest
    # With a good serving image the same bundle is baked again, and goes live.
    release(scene, 2, first)
    assert served(scene) == 2


def test_a_base_that_is_no_serving_image_is_refused(
    scene: Scene, base: str, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"io.mlcicd.image": "pipeline"}
    other = pushed(engine, base.partition("@")[0], "other", Labels=labels)
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", other)
    with pytest.raises(RegistryError, match="no serving image of ours"):
        bake(Scene(scene.url), 1)
    missing = f"{other.partition('@')[0]}@sha256:{'0' * 64}"
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", missing)
    with pytest.raises(RegistryError, match="answers 404"):
        bake(Scene(scene.url), 1)
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", f"127.0.0.1:1/x@sha256:{'0' * 64}")
    began = time.monotonic()
    with pytest.raises(RegistryError, match="does not answer"):
        bake(Scene(scene.url), 1)
    assert time.monotonic() - began < 20


def test_a_killed_container_comes_back_and_callers_wait(
    scene: Scene, engine: docker.DockerClient
) -> None:
    release(scene, 1)
    (container,) = engine.containers.list(filters={"label": f"io.mlcicd.model={MODEL}"})
    container.kill()  # the engine leaves it so, unlike after a crash
    began = time.monotonic()
    answer = httpx.post(f"{scene.url}/predict", json=ROW, headers=BEARER, timeout=30)
    assert answer.status_code == 200
    print(f"\nanswered {time.monotonic() - began:.1f} s after the kill")


def test_nothing_stays_when_the_server_ends(
    home: Path, base: str, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLCICD_ENDPOINTS", f"{MODEL}={url}")
    monkeypatch.setenv("MLCICD_TOKEN", TOKEN)
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", base)
    labels = {"label": f"io.mlcicd.model={MODEL}"}
    with running_server(url, home, "--containers") as server:
        release(Scene(url), 1)
        (before,) = engine.containers.list(filters=labels)
        server.process.kill()
        server.process.join()
        assert not is_alive(url)
        with running_server(url, home, "--containers"):
            deadline = time.monotonic() + 20
            while served(Scene(url)) != 1:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            (after,) = engine.containers.list(filters=labels)
            assert after.id == before.id  # found again, not started anew
    assert engine.containers.list(all=True, filters=labels) == []


def test_what_was_live_is_tried_again_until_it_comes_up(
    home: Path, base: str, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start of the machine the first try may fail, by a registry that is not up yet."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLCICD_ENDPOINTS", f"{MODEL}={url}")
    monkeypatch.setenv("MLCICD_TOKEN", TOKEN)
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", base)
    scene = Scene(url)
    with running_server(url, home, "--containers"):
        bundle = release(scene, 1)
    note = failure_note(scene.settings.releases, MODEL, bundle.digest)
    write(note, msgspec.json.encode({"load_error": "the registry was not up"}))
    with running_server(url, home, "--containers"):
        deadline = time.monotonic() + 30
        while served(scene) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert read(note) is None
