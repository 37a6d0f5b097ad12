"""PostgreSQL, scoring server, code location and daemon as containers, with what deploy/ ships.

Tests look at them from outside: shared folder, ledger, Dagster's storage, the engine.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import dagster as dg
import docker
import sqlalchemy as sa
from dagster import DagsterInstance
from docker.models.containers import Container

from mlcicd_assets.io.endpoint import is_alive
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.docker.conftest import HARDENED, LABEL, PIPELINE, SERVING
from mlcicd_assets_tests.postgres import new_database
from mlcicd_assets_tests.small_model import MODEL

POSTGRES: Final = os.environ.get("TEST_POSTGRES_IMAGE", "postgres:15")
OWNER: Final = 10001  # whom the images run as
TOKEN: Final = "token-of-this-stack"  # noqa: S105
SOCKET: Final = "/var/run/docker.sock"
RUN_LABEL: Final = "io.mlcicd.container=run"
JOB: Final = f"{MODEL}_cicd"


class Stack:
    """The containers by name, and the folder `home` that is /data in each of them."""

    def __init__(self, engine: docker.DockerClient, home: Path) -> None:
        self.engine, self.home = engine, home
        self.network = engine.networks.create(f"mlcicd-{uuid.uuid4().hex[:8]}", labels={LABEL: ""})
        self.named: dict[str, Container] = {}
        self.socket = os.environ["DOCKER_HOST"].removeprefix("unix://")
        self.groups = [str(Path(self.socket).stat().st_gid)]

    def up(self) -> None:
        """Start all but the daemon, which would deliver what is there."""
        plant(self.home / "models", MODEL)
        (self.home / "releases").mkdir()
        self.give_away()
        secret = {"POSTGRES_USER": "mlcicd", "POSTGRES_PASSWORD": TOKEN, "POSTGRES_DB": "dagster"}
        self.start("postgres", POSTGRES, environment=secret)
        releases = [f"{self.home / 'releases'}:/releases:ro"]
        token = {"MLCICD_TOKEN": TOKEN}
        self.start("serving", SERVING, volumes=releases, environment=token, **HARDENED)
        self.dagster_url = (
            f"postgresql+psycopg2://mlcicd:{TOKEN}@{self.address('postgres')}/dagster"
        )
        wait(lambda: answers(self.dagster_url), "PostgreSQL to answer")
        self.ledger_url = new_database(self.dagster_url)
        self.environment = {
            "DAGSTER_POSTGRES_URL": self.dagster_url,
            "MLCICD_LEDGER_URL": self.ledger_url,
            "MLCICD_DOCKER_NETWORK": str(self.network.name),
            "MLCICD_ENDPOINTS": "http://serving:8080",
            "MLFLOW_TRACKING_URI": "sqlite:////data/mlflow.db",
            **token,
        }
        self.start_code(PIPELINE)
        wait(lambda: is_alive(f"http://{self.address('serving')}:8080"), "the server to answer")

    def down(self) -> None:
        """Remove whatever is on our network, and it."""
        for container in self.containers():
            container.remove(force=True, v=True)
        self.network.remove()

    def start_code(self, image_of_runs: str) -> None:
        """Start the code location, whose runs are containers of this image."""
        engine = [f"{self.socket}:{SOCKET}"]
        context = {
            "env_vars": ["MLCICD_DEFS=/data/models"],
            "docker": {
                "container_kwargs": {
                    "volumes": [f"{self.home}:/data", *engine],
                    "group_add": self.groups,
                }
            },
        }
        command = ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", "4000"]  # noqa: S104
        self.pipeline(
            "code",
            *command,
            "-m",
            "mlcicd_assets.definitions",
            DAGSTER_CURRENT_IMAGE=image_of_runs,
            DAGSTER_CONTAINER_CONTEXT=json.dumps(context),
        )
        wait(lambda: listens(self.address("code"), 4000), "the code location to listen")

    def start_daemon(self, **environment: str) -> None:
        """Start the daemon, which alone may use the engine, beside what needs it in its runs."""
        deploy = [f"{ROOT / 'deploy' / name}:/deploy/{name}:ro" for name in SHIPPED]
        self.pipeline(
            "daemon",
            *["dagster-daemon", "run", "-w", "/deploy/workspace.yaml"],
            volumes=[f"{self.home}:/data", f"{self.socket}:{SOCKET}", *deploy],
            group_add=self.groups,
            **{"DAGSTER_HOME": "/deploy", **environment},
        )

    def pipeline(
        self,
        name: str,
        *command: str,
        volumes: list[str] | None = None,
        group_add: list[str] | None = None,
        **environment: str,
    ) -> Container:
        """Start a hardened container of the pipeline's image."""
        return self.start(
            name,
            PIPELINE,
            *command,
            volumes=volumes or [f"{self.home}:/data"],
            group_add=group_add,
            environment={**self.environment, "MLCICD_DEFS": "/data/models", **environment},
            **HARDENED,
        )

    def start(self, name: str, image: str, *command: str, **settings: Any) -> Container:
        """Start a container that the others know by this name."""
        if name in self.named:
            self.named[name].remove(force=True, v=True)
        known_as = self.engine.api.create_endpoint_config(aliases=[name])
        made = self.named[name] = self.engine.containers.create(
            image,
            list(command) or None,
            network=self.network.name,
            networking_config={self.network.name: known_as},
            labels=[LABEL],
            **settings,
        )
        made.start()
        return made

    def containers(self, **filters: str) -> list[Container]:
        """Return ours, also those that ended."""
        ours = {"network": self.network.name, **filters}
        return self.engine.containers.list(all=True, filters=ours)

    def address(self, name: str) -> str:
        container = self.named[name]
        container.reload()
        assert container.status == "running", self.said(name)
        return container.attrs["NetworkSettings"]["Networks"][self.network.name]["IPAddress"]

    def said(self, name: str) -> str:
        return self.named[name].logs(tail=60).decode()

    def give_away(self) -> None:
        """Let the containers write what this process has written."""
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, OWNER, OWNER)

    def ledger(self) -> Ledger:
        return Ledger(self.ledger_url)

    def outcomes(self) -> list[str]:
        return [entry.body["outcome"] for entry in self.ledger().entries(kinds=("outcome",))]

    def launch(self, **config: Any) -> str:
        """Put a run into the queue, as a person would; gives its id."""
        run_id = str(uuid.uuid4())
        words = ["dagster", "job", "launch", "-w", "/deploy/workspace.yaml", "-j", JOB]
        words += ["--run-id", run_id, "--config-json", json.dumps(config)]
        code, output = self.named["daemon"].exec_run(words)
        assert code == 0, output.decode()
        return run_id

    def ended(self, instance: DagsterInstance, run_id: str) -> dg.DagsterRun:
        """Wait for the end of a run."""
        is_ended = lambda: (run := instance.get_run_by_id(run_id)) and run.is_finished and run  # noqa: E731
        return wait(is_ended, f"the end of run {run_id}", lambda: self.said("daemon"))


SHIPPED: Final = ("dagster.yaml", "workspace.yaml")


def wait(
    ask: Callable[[], Any], what: str, explain: Callable[[], str] = str, *, seconds: float = 300
) -> Any:
    """Ask until the answer is true; return it."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"waited in vain for {what}\n{explain()}"
        time.sleep(0.2)
    return answer


def listens(host: str, port: int) -> bool:
    with socket.socket() as asking:
        asking.settimeout(2)
        return asking.connect_ex((host, port)) == 0


def answers(url: str) -> bool:
    try:
        sa.create_engine(url, poolclass=sa.NullPool).connect().close()
    except sa.exc.OperationalError:
        return False
    return True


def events(instance: DagsterInstance, run_id: str) -> str:
    """All that the events of a run say."""
    return "\n".join(
        f"{entry.message} {entry.dagster_event and entry.dagster_event.event_specific_data}"
        for entry in instance.all_logs(run_id)
    )
