"""Fixtures of the whole suite: a clean environment, a home of its own, a real server."""

import fcntl
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlcicd_assets.io import store
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml import extensions
from mlcicd_assets_tests.postgres import new_database, running_postgres
from mlcicd_assets_tests.processes import free_port, running_server
from mlcicd_assets_tests.s3 import running_s3

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders with slow files first, so that no worker gets one of them last."""
    slow = ("orchestration/", "gates/", "io/", "cli/")
    items.sort(key=lambda item: [name not in item.nodeid for name in slow])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures that the tests of .ci/run print, of whichever process."""
    for report in terminalreporter.getreports("passed"):
        if (
            report.when == "call"
            and report.capstdout
            and {"ci", "real_data", "docker"} & {*report.keywords}
        ):
            terminalreporter.write_line(f"{report.nodeid}\n{report.capstdout}")


def _ours() -> set[str]:
    """Names of what our settings and their libraries read."""
    ours = ("MLCICD_", "MLFLOW_", "DAGSTER_", "AWS_")
    return {name for name in os.environ if name.startswith(ours) and "REAL_DATA" not in name}


@contextmanager
def _environment_of_its_own() -> Generator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in _ours():
            patch.delenv(name)
        yield patch
        for name in _ours():  # MLflow leaves its address there
            os.environ.pop(name)


@pytest.fixture(scope="module", autouse=True)
def _clean_module() -> Iterator[None]:
    with _environment_of_its_own():
        yield


@pytest.fixture(autouse=True)
def _clean_environment() -> Iterator[None]:
    with _environment_of_its_own() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it waits seconds between them
        # Seven processes of a server that nobody here asks for anything.
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        yield


@pytest.fixture(autouse=True)
def _no_drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is a fifth of a small run, and only the tests marked `pictures` look at it."""
    if not request.node.get_closest_marker("pictures"):
        monkeypatch.setattr("mlcicd_assets.io.pictures._png", lambda figure, colors: b"")


@pytest.fixture
def handbook_file() -> Path:
    """The handbook's transactions; without them a skip, or a failure where CI requires them."""
    folder = Path(os.environ.get("MLCICD_REAL_DATA", ROOT.parent / "shared" / "data"))
    path = folder / "handbook_card_fraud_benchmark_window.parquet"
    if not path.is_file():
        if os.environ.get("MLCICD_REQUIRE_REAL_DATA"):
            pytest.fail(f"{path} is missing, and MLCICD_REQUIRE_REAL_DATA asks for it")
        pytest.skip(f"{path} is missing: set MLCICD_REAL_DATA to the folder of real data sets")
    return path


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: its migrations cost seconds, a copy costs nothing."""
    folder = tmp_path_factory.getbasetemp()
    # The workers of one run share theirs.
    path = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "mlflow.db"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = path.with_suffix(".new")
            command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{made}"]
            subprocess.run(command, check=True, capture_output=True)
            made.rename(path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> Path:
    """MLCICD_HOME in a folder of its own, with an endpoint address where nobody listens yet."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    monkeypatch.setenv("MLCICD_HOME", str(folder))
    monkeypatch.setenv("MLCICD_ENDPOINTS", f"http://127.0.0.1:{free_port()}")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[dict[str, str]]:
    with running_s3(free_port()) as environment:
        yield environment


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """An address on object storage where nothing is yet; the environment leads there."""
    for name, value in s3_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(store, "_PROVEN", set())
    store._client.cache_clear()
    return f"s3://good/{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    with running_postgres(free_port()) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.ci)])
def ledger_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """An empty database of either kind, named in the environment."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if request.param == "postgresql":
        url = new_database(request.getfixturevalue("postgres_server"))
    monkeypatch.setenv("MLCICD_LEDGER_URL", url)
    return url


@pytest.fixture(params=["folder", "object storage"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> store.Place:
    """Where a release store may be."""
    is_local = request.param == "folder"
    return tmp_path if is_local else store.place_at(request.getfixturevalue("s3"))


@pytest.fixture
def server(home: Path) -> Iterator[str]:
    """A real server process that follows this home's releases; gives its address."""
    url = Settings.from_env().endpoints[0]
    with running_server(url, home):
        yield url


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Stand in for an installed package that lists modules."""

    def allow(*modules: str) -> None:
        entries = [type("Entry", (), {"module": name}) for name in modules]
        monkeypatch.setattr(extensions, "entry_points", lambda group: entries)
        extensions._listed.cache_clear()

    yield allow
    extensions._listed.cache_clear()
