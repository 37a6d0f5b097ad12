"""Whatever differs by environment, read once from MLCICD_* variables and checked."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from mlcicd_assets.io.store import Place, place_at
from mlcicd_assets.ml.errors import SettingsError

DEFAULT_ENDPOINT = "http://127.0.0.1:8900"


@dataclass(frozen=True)
class Settings:
    """Locations and secrets of this environment; `token` never shows in a repr."""

    home: Path
    lake: str
    ledger_url: str
    tracking_uri: str
    artifact_root: str
    releases: Place
    endpoints: tuple[str, ...]
    defs: Path | None
    executor: Literal["in_process", "docker"]
    token: str | None = field(repr=False)
    operators: Mapping[str, str] = field(default_factory=dict, repr=False)
    operator_token: str | None = field(default=None, repr=False)
    alert_webhook: str | None = field(default=None, repr=False)
    approvals: Path | None = None
    own_endpoints: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    serving_image: str | None = None

    @property
    def landing(self) -> Path:
        """Root of the landing folders."""
        return self.home / "landing"

    @property
    def values(self) -> Path:
        """Where the values between assets are kept as JSON."""
        return self.home / "values"

    def endpoints_of(self, model: str) -> tuple[str, ...]:
        """Return the addresses that must answer with what is live of this model.

        Raises:
            SettingsError: MLCICD_ENDPOINTS names others only.
        """
        found = self.own_endpoints.get(model) or self.endpoints
        if not found:
            raise SettingsError(
                f"MLCICD_ENDPOINTS names no server for '{model}': add {model}=http://host:port"
            )
        return found

    @staticmethod
    def from_env(env: Mapping[str, str] | None = None) -> "Settings":
        """Read and check every variable.

        Raises:
            SettingsError: a value cannot be used; the message names the variable.
        """
        env = os.environ if env is None else env
        home = Path(_text(env, "MLCICD_HOME", "data")).expanduser().resolve()
        defs = _text(env, "MLCICD_DEFS", "")
        approvals = _text(env, "MLCICD_APPROVALS", "")
        endpoints = _endpoints(env)
        return Settings(
            home=home,
            lake=str(_place(env, "MLCICD_LAKE", home / "lake")),
            ledger_url=_database(env, "MLCICD_LEDGER_URL", f"sqlite:///{home / 'ledger.db'}"),
            tracking_uri=_text(env, "MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}"),
            artifact_root=(home / "mlflow-artifacts").as_uri(),
            releases=_place(env, "MLCICD_RELEASES", home / "releases"),
            endpoints=endpoints.pop("", ()),
            own_endpoints=endpoints,
            defs=_folder("MLCICD_DEFS", defs) if defs else None,
            executor=_executor(_text(env, "MLCICD_EXECUTOR", "in_process")),
            token=_text(env, "MLCICD_TOKEN", "") or None,
            operators=_operators(_text(env, "MLCICD_OPERATORS", "")),
            operator_token=_text(env, "MLCICD_OPERATOR_TOKEN", "") or None,
            alert_webhook=_webhook(_text(env, "MLCICD_ALERT_WEBHOOK", "")),
            approvals=_folder("MLCICD_APPROVALS", approvals) if approvals else None,
            serving_image=_image(_text(env, "MLCICD_SERVING_IMAGE", "")),
        )


def _text(env: Mapping[str, str], name: str, default: str) -> str:
    value = env.get(name, default)
    if name in env and not value.strip():
        raise SettingsError(f"{name} is set but empty: unset it, or give it a value")
    return value


def _place(env: Mapping[str, str], name: str, default: Path) -> Place:
    try:
        return place_at(_text(env, name, str(default)))
    except SettingsError as error:
        raise SettingsError(f"{name}: {error}") from None


def _database(env: Mapping[str, str], name: str, default: str) -> str:
    url = _text(env, name, default)
    if not url.startswith(("sqlite:///", "postgresql+psycopg2://", "postgresql://")):
        raise SettingsError(
            f"{name} must be sqlite:///PATH or postgresql+psycopg2://..., not a "
            f"'{url.split(':', 1)[0]}' address"
        )
    return url


def _endpoints(env: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Parse `http://host:port,...`, with `model=` before those of one model; "" stands for all."""
    found: dict[str, tuple[str, ...]] = {}
    text = _text(env, "MLCICD_ENDPOINTS", DEFAULT_ENDPOINT)
    for part in filter(None, (part.strip() for part in text.split(","))):
        model, _, url = part.rpartition("=")
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SettingsError(f"MLCICD_ENDPOINTS: '{url}' is not an http(s)://host:port address")
        found[model] = (*found.get(model, ()), url.rstrip("/"))
    if not found:
        raise SettingsError("MLCICD_ENDPOINTS names no server: give http://host:port")
    return found


def _image(text: str) -> str | None:
    if text and not re.fullmatch(r"[\w.:/-]+/[\w./-]+@sha256:[0-9a-f]{64}", text):
        raise SettingsError(
            "MLCICD_SERVING_IMAGE must be REGISTRY/REPOSITORY@sha256:DIGEST: a tag could be moved"
        )
    return text or None


def _executor(name: str) -> Literal["in_process", "docker"]:
    if name not in {"in_process", "docker"}:
        raise SettingsError(f"MLCICD_EXECUTOR must be in_process or docker, not '{name}'")
    return "docker" if name == "docker" else "in_process"


def _operators(text: str) -> dict[str, str]:
    """Parse `name:sha256-of-the-token,...`: who may change what is live."""
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, digest = part.partition(":")
        if not re.fullmatch(r"[\w.@-]+", name) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise SettingsError(
                "MLCICD_OPERATORS must be name:SHA256,name:SHA256 with the sha256 of each "
                "operator's token in lower-case hex"
            )
        found[name] = digest
    return found


def _webhook(url: str) -> str | None:
    if url and urlsplit(url).scheme not in {"http", "https"}:
        raise SettingsError("MLCICD_ALERT_WEBHOOK must be an http(s) address")
    return url or None


def _folder(name: str, value: str) -> Path:
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        raise SettingsError(f"{name}: there is no folder {path}")
    return path
