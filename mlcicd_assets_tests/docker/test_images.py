"""What the two images promise: few rights, nothing to compile, nothing secret, a clean end."""

import json
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import docker
import httpx
import pytest
from docker.models.containers import Container

from mlcicd_assets_tests.docker.conftest import PIPELINE, SERVING, Start
from mlcicd_assets_tests.io import tiny

pytestmark = pytest.mark.docker

MAX_SERVING_MB = 350
TOKEN = "of this test"  # noqa: S105
ROW = {"amount": 250.5, "channel": "online", "rate": None}
RIGHTS = """
import os, pathlib
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
pathlib.Path("/tmp/file").touch()
try:
    pathlib.Path("/opt/venv/file").touch()
except OSError as error:
    print(os.getuid(), int(status["CapEff"], 16), status["NoNewPrivs"].strip(), error.strerror)
"""
UNCOMPILED = """
import os, sys, {module}
specs = [module.__spec__ for module in sys.modules.values() if getattr(module, "__spec__", None)]
print(len(specs) > 100, [s.name for s in specs if s.cached and not os.path.exists(s.cached)])
"""
FOUND = """
import os
from importlib.util import find_spec
print([name for name in {names!r} if find_spec(name)])
"""
# What a build could leave behind: settings of registries, keys, the certificates handed in.
LEFTOVERS = """
import os
bad = {"pip.conf", "uv.toml", ".netrc", ".pypirc", ".npmrc", ".env", "id_rsa", "id_ed25519"}
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in {"/proc", "/sys", "/dev"}]
    for file in files:
        if file in bad or folder == "/run/secrets" or folder.endswith("/.git"):
            print(os.path.join(folder, file))
"""
SECRET = re.compile(
    r"(token|passw|secret|api_?key|credential)\w*\s*[=:]\s*\S|PRIVATE KEY|://", re.I
)
both = pytest.mark.parametrize("image", [PIPELINE, SERVING])


@both
def test_it_needs_no_rights(image: str, output: Callable[..., str]) -> None:
    assert output(image, "python", "-c", RIGHTS).split(maxsplit=3) == [
        "10001",
        "0",
        "1",
        "Read-only file system\n",
    ]


@pytest.mark.parametrize(
    ("image", "module"),
    [(PIPELINE, "mlcicd_assets.definitions"), (SERVING, "mlcicd_assets.serving.server")],
)
def test_nothing_is_compiled_at_a_start(
    image: str, module: str, output: Callable[..., str]
) -> None:
    assert output(image, "python", "-c", UNCOMPILED.format(module=module)) == "True []\n"


def test_the_code_location_loads_without_network_and_settings(output: Callable[..., str]) -> None:
    output(PIPELINE, "dagster", "definitions", "validate", "-m", "mlcicd_assets.definitions")


def test_serving_holds_no_training_code(
    engine: docker.DockerClient, output: Callable[..., str]
) -> None:
    heavy = ["sklearn", "scipy", "pandas", "polars", "pyarrow", "dagster", "mlflow", "sqlalchemy"]
    assert output(SERVING, "python", "-c", FOUND.format(names=heavy)) == "[]\n"
    assert output(PIPELINE, "python", "-c", FOUND.format(names=heavy)) == f"{heavy}\n"
    assert engine.images.get(SERVING).attrs["Size"] < MAX_SERVING_MB * 1_000_000


@pytest.mark.parametrize(("image", "name"), [(PIPELINE, "pipeline"), (SERVING, "serving")])
def test_its_labels_say_what_it_is(image: str, name: str, engine: docker.DockerClient) -> None:
    labels = engine.images.get(image).labels
    assert labels["io.mlcicd.image"] == name
    assert labels["org.opencontainers.image.title"] == f"mlcicd {name}"
    assert labels["org.opencontainers.image.version"] == version("mlcicd-assets")
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])


@both
def test_nothing_secret_and_no_address_is_left_in_it(
    image: str, engine: docker.DockerClient, output: Callable[..., str]
) -> None:
    found = engine.images.get(image)
    told = [layer["CreatedBy"] for layer in found.history()] + [json.dumps(found.attrs["Config"])]
    assert [text for text in told if SECRET.search(text)] == []
    assert output(image, "python", "-c", LEFTOVERS) == ""


def test_a_mounted_release_is_served_until_sigterm(tmp_path: Path, start: Start) -> None:
    root = tmp_path / "releases"
    tiny.release(root, tiny.bundle(root).digest)
    container = start(
        SERVING,
        environment={"MLCICD_TOKEN": TOKEN},
        volumes={str(root): {"bind": "/releases", "mode": "ro"}},
        ports={"8080/tcp": ("127.0.0.1", None)},
    )
    _wait_until_healthy(container)
    (bound,) = container.ports["8080/tcp"]
    url = f"http://127.0.0.1:{bound['HostPort']}"
    assert httpx.post(f"{url}/predict", json={"row": ROW}).status_code == 401
    told = httpx.post(
        f"{url}/predict", json={"row": ROW}, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert told.status_code == 200, told.text
    assert 0 <= told.json()["score"] <= 1
    began = time.monotonic()
    container.stop(timeout=20)
    container.reload()
    assert container.attrs["State"]["ExitCode"] == 0
    assert time.monotonic() - began < 10  # SIGTERM reached it: nobody had to kill it


def _wait_until_healthy(container: Container) -> None:
    deadline = time.monotonic() + 60
    while container.health != "healthy":
        assert time.monotonic() < deadline, container.logs().decode()
        time.sleep(0.2)
        container.reload()
        assert container.status == "running", container.logs().decode()
