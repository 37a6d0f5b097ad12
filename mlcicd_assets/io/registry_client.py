"""An image with one more layer, put into a registry without a Docker engine.

A layer, a configuration and a manifest are files named by their digests; a registry takes them
one by one (OCI Distribution Specification 1.1). Equal input gives an equal digest: no clock goes
in. Reading checks every byte against the digest that it was asked for.
"""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from functools import partial
from inspect import unwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mlcicd_assets.ml.errors import RegistryError

if TYPE_CHECKING:
    from oras.container import Container
    from oras.provider import Registry

MANIFESTS: Final = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
)
LAYERS: Final = (
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.oci.image.layer.v1.tar",
)
TIMEOUT_SECONDS: Final = 30


def split(image: str) -> tuple[str, str]:
    """Return repository and digest of `registry/repository@sha256:...`."""
    repository, _, digest = image.partition("@")
    return repository, digest


def add_layer(base: str, files: Mapping[str, bytes], labels: Mapping[str, str]) -> str:
    """Push `base` (by digest) with these files on top and labels; return the new image by digest.

    Raises:
        RegistryError: the registry does not answer or refuses, or has no such base image.
    """
    with _Repository(split(base)[0]) as repository:
        manifest = repository.manifest(split(base)[1])
        if manifest.get("mediaType") not in MANIFESTS:
            raise RegistryError(f"{base} is no image of one platform: name the digest of one")
        config = msgspec.json.decode(repository.blob(manifest["config"]["digest"]))
        layer = _tar(files)
        config["config"]["Labels"] = {**(config["config"].get("Labels") or {}), **labels}
        config["rootfs"]["diff_ids"].append(_digest(layer))
        config.setdefault("history", []).append(
            {"created": config.get("created"), "created_by": "mlcicd: one model bundle"}
        )
        kind = LAYERS[MANIFESTS.index(manifest["mediaType"])]
        manifest["layers"].append(repository.put(layer, kind))
        kept = manifest["config"]["mediaType"]
        manifest["config"] = repository.put(msgspec.json.encode(config), kept)
        return repository.put_manifest(msgspec.json.encode(manifest), manifest["mediaType"])


def labels_of(image: str) -> dict[str, str]:
    """Return the labels of an image that a registry holds, by digest.

    Raises:
        RegistryError: the registry does not answer or refuses, or has no such image.
    """
    with _Repository(split(image)[0]) as repository:
        config = repository.blob(repository.manifest(split(image)[1])["config"]["digest"])
    return msgspec.json.decode(config)["config"].get("Labels") or {}


class _Repository:
    """One repository of a registry; oras finds the credentials of `docker login`."""

    def __init__(self, name: str) -> None:
        self._name = name
        host = name.partition("/")[0].partition(":")[0]
        # As Docker does for loopback; a name without a dot is one of a private network.
        self._insecure = host.startswith("127.") or "." not in host
        self._registry: Registry

    def __enter__(self) -> "_Repository":
        from oras.provider import Registry
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        registry = self._registry = Registry(insecure=self._insecure)
        registry.auth.load_configs(self._at())
        # Its own retries wait for two minutes before they say that nobody answers, or for ever.
        registry.do_request = partial(unwrap(Registry.do_request), registry)
        session: Any = registry.session
        session.request = partial(session.request, timeout=TIMEOUT_SECONDS)
        again = Retry(
            3,
            backoff_factor=0.2,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=None,  # what is named by its digest may be sent twice
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=again))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import requests

        self._registry.session.close()
        if isinstance(error, requests.RequestException | ValueError):
            raise RegistryError(
                f"the registry of {self._name} does not answer as one ({error}): start it, or "
                "correct MLCICD_SERVING_IMAGE"
            ) from error

    def manifest(self, digest: str) -> dict[str, Any]:
        headers = {"Accept": ", ".join(MANIFESTS)}
        address = self._at(digest).manifest_url()
        return msgspec.json.decode(self._get(address, digest, headers))

    def blob(self, digest: str) -> bytes:
        return self._get(self._at().get_blob_url(digest), digest, {})

    def put(self, content: bytes, kind: str) -> dict[str, Any]:
        described = {"mediaType": kind, "size": len(content), "digest": _digest(content)}
        with TemporaryDirectory() as folder:
            path = Path(folder) / "blob"
            path.write_bytes(content)
            self._checked(self._registry.upload_blob(str(path), self._at(), described), "a layer")
        return described

    def put_manifest(self, content: bytes, kind: str) -> str:
        digest = _digest(content)
        url = f"{self._registry.prefix}://{self._at(digest).manifest_url()}"
        headers = {"Content-Type": kind}
        told = self._registry.do_request(url, "PUT", data=content, headers=headers)
        self._checked(told, "the manifest")
        return f"{self._name}@{digest}"

    def _get(self, address: str, digest: str, headers: dict[str, str]) -> bytes:
        url = f"{self._registry.prefix}://{address}"
        answer = self._checked(self._registry.do_request(url, headers=headers), digest)
        if _digest(answer.content) != digest:
            raise RegistryError(f"{self._name} gives other content than {digest}: push it again")
        return answer.content

    def _checked(self, answer: Any, what: str) -> Any:
        if not 200 <= answer.status_code < 300:
            raise RegistryError(
                f"{self._name} answers {answer.status_code} for {what}: push the serving image "
                "(`make images`), log in, or correct MLCICD_SERVING_IMAGE"
            )
        return answer

    def _at(self, digest: str = "") -> "Container":
        from oras.container import Container

        return Container(f"{self._name}@{digest}" if digest else self._name)


def _tar(files: Mapping[str, bytes]) -> bytes:
    """Pack files that everybody may read and nobody write, with their folders, without times."""
    buffer = io.BytesIO()
    names = {str(one) for name in files for one in Path(name).parents} - {"."}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted({*names, *files}):
            told = tarfile.TarInfo(name)
            if name in files:
                told.size, told.mode = len(files[name]), 0o444
                tar.addfile(told, io.BytesIO(files[name]))
            else:
                told.type, told.mode = tarfile.DIRTYPE, 0o555
                tar.addfile(told)
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
