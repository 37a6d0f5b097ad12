"""An engine, the images that `make docker-test` built, and containers that end with their test."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from shutil import which
from typing import Any, Final

import docker
import pytest
from docker.models.containers import Container

# Read here: every test starts with an environment of its own.
PIPELINE: Final = os.environ.get("TEST_PIPELINE_IMAGE", "mlcicd-pipeline:latest")
SERVING: Final = os.environ.get("TEST_SERVING_IMAGE", "mlcicd-serving:latest")
REGISTRY: Final = os.environ.get("TEST_REGISTRY_IMAGE", "registry:2")
REQUIRED: Final = bool(os.environ.get("MLCICD_REQUIRE_DOCKER"))
LABEL: Final = "io.mlcicd.test"
HARDENED: Final[dict[str, Any]] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": {"/tmp": "size=64m"},  # noqa: S108 - of the container
    "pids_limit": 256,
    "mem_limit": "1g",
}

Start = Callable[..., Container]


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The engine that DOCKER_HOST names; without one a skip, or a failure where CI requires it."""
    # Not asked by docker-py: what it opened in vain would warn at the end.
    asked = which("docker") and subprocess.run(["docker", "version"], capture_output=True)
    if not asked or asked.returncode:
        told = "no Docker engine answers: `make docker-test` starts one"
        if REQUIRED:
            pytest.fail(f"{told}, and MLCICD_REQUIRE_DOCKER asks for it")
        pytest.skip(told)
    with closing(docker.from_env()) as client:
        yield client


@pytest.fixture
def start(engine: docker.DockerClient) -> Iterator[Start]:
    """Start a hardened container; it is removed after the test, with its volumes."""
    started: list[Container] = []

    def run(image: str, *command: str, **settings: Any) -> Container:
        settings = {**HARDENED, "labels": [LABEL], **settings}
        container = engine.containers.create(image, list(command) or None, **settings)
        started.append(container)
        container.start()
        return container

    yield run
    for container in started:
        container.remove(force=True, v=True)


@pytest.fixture
def output(start: Start) -> Callable[..., str]:
    """Run a command to its end without a network; return what it printed, fail if it did."""

    def run(image: str, *command: str) -> str:
        container = start(image, *command[1:], entrypoint=[command[0]], network_mode="none")
        code = container.wait(timeout=60)["StatusCode"]
        assert code == 0, container.logs().decode()
        return container.logs(stderr=False).decode()

    return run
