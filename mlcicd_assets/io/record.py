"""The record beside each bundle, `<digest>.record.json`: all that making the model again needs."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec

from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.provenance import code_state
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import Place, change, listing, read
from mlcicd_assets.ml.errors import ReleaseError
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.training import key_parts
from mlcicd_assets.ml.values import FeatureSet, TableVersion

LIBRARIES: Final = ("numpy", "scipy", "scikit-learn", "threadpoolctl", "polars", "deltalake")
SUFFIX: Final = ".record.json"
IN_LINEAGE: Final = {"raw": "events", "labels": "labels", "features": "features"}


@dataclass(frozen=True)
class Record:
    """What one training was given; `chosen` is what a search found, empty without one."""

    training_key: str
    key_parts: dict[str, Any]
    spec: dict[str, Any]
    data: FeatureSet
    chosen: dict[str, Any]
    environment: dict[str, str]


@dataclass(frozen=True)
class Origin:
    """The tables that a bundle was trained from or judged with; `run_id` is MLflow's."""

    digest: str
    version: int | None
    run_id: str | None
    tables: dict[str, TableVersion]


def environment() -> dict[str, str]:
    """Return what a training's last bits may depend on, and which code it was."""
    libraries = {name: version(name) for name in LIBRARIES}
    machine = {"python": platform.python_version(), "machine": platform.platform()}
    return {**machine, **libraries, **code_state().as_tags()}


def write_record(
    settings: Settings,
    digest: str,
    spec: PipelineSpec,
    data: FeatureSet,
    split: Split,
    key: str,
    chosen: Mapping[str, Any],
) -> None:
    """Keep the record of a bundle; one that is there stays."""
    parts, plain = key_parts(split.train, spec), spec.model_dump(mode="json")
    record = Record(key, parts, plain, data, dict(chosen), environment())
    content = msgspec.json.format(msgspec.json.encode(record))
    change(_path(settings.releases, spec.name, digest), lambda known: known or content)


def read_record(root: Place, model: str, digest: str) -> Record | None:
    """Return a bundle's record, None where it was made before there were any; or ReleaseError."""
    path = _path(root, model, digest)
    try:
        content = read(path)
        return None if content is None else msgspec.json.decode(content, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path} is damaged: restore it from a backup") from error


def origins(settings: Settings, ledger: Ledger, model: str) -> list[Origin]:
    """Return every use of pinned tables by a bundle: by the records, then by the ledger."""
    found: list[Origin] = []
    for name in listing(_path(settings.releases, model, "0" * 64).parent):
        digest = name.removesuffix(SUFFIX)
        record = read_record(settings.releases, model, digest) if name != digest else None
        if record is not None:
            made, raw = ledger.find_trained(record.training_key), record.data.raw
            named = {"raw": raw.events, "labels": raw.labels, "features": record.data.features}
            tables = {name: table for name, table in named.items() if table}
            who = (made.version, made.mlflow_run_id) if made else (None, None)
            found.append(Origin(digest, *who, tables))
    for entry in ledger.entries(model=model, kinds=("outcome",)):
        line, body = entry.body.get("lineage"), entry.body
        if line:  # a rollback has none: its data is not what the model was made from
            tables = {
                name: _table(line[told], *body["data"].get(name, [""])[:1])
                for name, told in IN_LINEAGE.items()
                if line.get(told)
            }
            found.append(Origin(body["digest"], body["version"], line["mlflow_run_id"], tables))
    return found


def _table(text: str, table_id: str) -> TableVersion:
    """Read `uri@vN`, which is all that a lineage keeps of a table."""
    uri, _, number = text.rpartition("@v")
    return TableVersion(uri, table_id, int(number), "", 0)


def _path(root: Place, model: str, digest: str) -> Place:
    return bundle_folder(root, model, digest).with_name(f"{digest}{SUFFIX}")
