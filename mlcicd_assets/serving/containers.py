"""Containers of release images: started hardened, found again by their labels, stopped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlcicd_assets.ml.errors import ReleaseError, SettingsError
from mlcicd_assets.serving.router import Address
from mlcicd_assets.serving.server import DRAIN, DRAIN_SECONDS, RESUME

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

PORT: Final = 8080
ROLE, MODEL, BUNDLE = "io.mlcicd.role", "io.mlcicd.model", "io.mlcicd.bundle"
HARDENED: Final[dict[str, Any]] = {
    "read_only": True,
    "tmpfs": {"/tmp": "size=16m"},  # noqa: S108 - inside the container
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "mem_limit": "1g",
    "pids_limit": 128,
    # After a crash the engine starts it again; one that was stopped stays so.
    "restart_policy": {"Name": "on-failure", "MaximumRetryCount": 10},
}


@dataclass(frozen=True)
class Running:
    """A container that serves one bundle."""

    digest: str
    container: "Container"


class Engine:
    """The Docker engine of DOCKER_HOST; `role` tells our containers from those of others.

    With `network` containers join it and are asked by their address there; else each publishes a
    port on loopback.

    Raises:
        SettingsError: no engine answers.
    """

    def __init__(self, *, role: str, network: str | None, token: str | None) -> None:
        import docker
        from docker.errors import DockerException

        try:
            self._client: DockerClient = docker.from_env()
            self._client.ping()
        except DockerException as error:
            raise SettingsError(
                f"no Docker engine answers ({error}): start one, or correct DOCKER_HOST"
            ) from error
        self._role, self._network, self._token = role, network, token

    def start(self, image: str, model: str, digest: str) -> Running:
        """Start a container of an image by digest; it is pulled where it is missing.

        Raises:
            ReleaseError: the engine refuses, or there is no such image.
        """
        from docker.errors import DockerException, ImageNotFound

        reached: dict[str, Any] = {"network": self._network}
        if self._network is None:
            reached = {"ports": {f"{PORT}/tcp": ("127.0.0.1", None)}}
        try:
            try:
                self._client.images.get(image)
            except ImageNotFound:
                self._client.images.pull(image)
            container = self._client.containers.run(
                image,
                detach=True,
                labels={ROLE: self._role, MODEL: model, BUNDLE: digest},
                environment={"MLCICD_TOKEN": self._token} if self._token else {},
                **HARDENED,
                **reached,
            )
        except DockerException as error:
            raise ReleaseError(f"no container of {image} can be started: {error}") from error
        return Running(digest, container)

    def running(self, model: str) -> list[Running]:
        """Return the model's containers that run, newest first."""
        labels = [f"{ROLE}={self._role}", f"{MODEL}={model}"]
        found = self._client.containers.list(filters={"label": labels})
        return [Running(one.labels[BUNDLE], one) for one in found]

    def is_gone(self, one: Running) -> bool:
        """Look at it again; tell whether it has ended, and the engine will not start it again."""
        from docker.errors import NotFound

        try:
            one.container.reload()
        except NotFound:
            return True
        return one.container.status in {"exited", "dead", "removing"}

    def address(self, one: Running) -> Address | None:
        """Return where it was reached when last looked at; None where it did not run."""
        if one.container.status != "running":
            return None
        told = one.container.attrs["NetworkSettings"]
        if self._network is not None:
            return told["Networks"][self._network]["IPAddress"], PORT
        published = told["Ports"].get(f"{PORT}/tcp")
        return ("127.0.0.1", int(published[0]["HostPort"])) if published else None

    def last_words(self, one: Running) -> str:
        """Return the end of its log, in one line."""
        log = one.container.logs(tail=3).decode(errors="replace")
        return " / ".join(log.split("\n")).strip(" /") or "it said nothing"

    def drain(self, one: Running, *, resume: bool = False) -> None:
        """Let connections that are kept alive end with their next answer, or no longer so."""
        from docker.errors import APIError

        try:
            one.container.kill(signal=int(RESUME if resume else DRAIN))
        except APIError:
            return  # it is gone, with its connections

    def stop(self, one: Running) -> None:
        """Stop and remove it; requests in flight are answered."""
        from docker.errors import NotFound

        try:
            one.container.stop(timeout=DRAIN_SECONDS)
            one.container.remove(v=True, force=True)
        except NotFound:
            return
