"""Watching a Delta table by its log alone: whether a commit since the last look changed rows."""

import json
from dataclasses import dataclass
from typing import Any

from mlcicd_assets.io.store import Place, listing, place_at, read, stamp


@dataclass(frozen=True)
class LogPosition:
    """The head of a log when it was read, and the newest version that may have changed rows.

    `stamp` is inode, size and mtime of the head file (on object storage e-tag, size and time): a
    table dropped and made again at the same path differs there. `content` is -1 when no commit
    that is still in the log changed rows.
    """

    version: int
    stamp: str
    table_id: str
    content: int


def advance(uri: str, last: LogPosition | None) -> LogPosition | None:
    """Read only what is new in the log; None when there is no readable table.

    A commit counts when one of its add or remove actions says `dataChange`: it over-reports (a
    RESTORE that only undoes an OPTIMIZE), never under-reports. Costs two `stat` (on object
    storage two HEAD requests) when nothing is new.
    """
    log = place_at(uri) / "_delta_log"
    if last is None or stamp(_file(log, last.version)) != last.stamp:
        last = LogPosition(-1, "", "", -1)
    elif not stamp(_file(log, last.version + 1)):
        return last
    table_id, content = last.table_id, last.content
    new = [version for version in _versions(log) if version > last.version]
    if not new:
        return None
    for version in new:
        actions = _actions(_file(log, version))
        table_id = next((a["metaData"]["id"] for a in actions if "metaData" in a), table_id)
        if any(a.get(kind, {}).get("dataChange") for a in actions for kind in ("add", "remove")):
            content = version
    return LogPosition(new[-1], stamp(_file(log, new[-1])), table_id, content)


def _file(log: Place, version: int) -> Place:
    return log / f"{version:020d}.json"


def _versions(log: Place) -> list[int]:
    names = [name.removesuffix(".json") for name in listing(log) if name.endswith(".json")]
    return sorted(int(name) for name in names if name.isdigit())


def _actions(file: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (read(file) or b"").splitlines() if line.strip()]
