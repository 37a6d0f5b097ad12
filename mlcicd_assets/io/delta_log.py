"""Watching a Delta table by its log alone: whether a commit since the last look changed rows."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LogPosition:
    """The head of a log when it was read, and the newest version that may have changed rows.

    `stamp` is inode, size and mtime of the head file: a table dropped and made again at the same
    path differs there. `content` is -1 when no commit that is still in the log changed rows.
    """

    version: int
    stamp: str
    table_id: str
    content: int


def advance(uri: str, last: LogPosition | None) -> LogPosition | None:
    """Read only what is new in the log; None when there is no readable table.

    A commit counts when one of its add or remove actions says `dataChange`: it over-reports (a
    RESTORE that only undoes an OPTIMIZE), never under-reports. Costs two `stat` when nothing is
    new.

    Args:
        uri: a local path (object stores are listed by another issue).
        last: the position after the previous look, if any.
    """
    log = Path(uri.removeprefix("file://")) / "_delta_log"
    if last is None or _stamp(_file(log, last.version)) != last.stamp:
        last = LogPosition(-1, "", "", -1)
    elif not _file(log, last.version + 1).exists():
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
    return LogPosition(new[-1], _stamp(_file(log, new[-1])), table_id, content)


def _file(log: Path, version: int) -> Path:
    return log / f"{version:020d}.json"


def _versions(log: Path) -> list[int]:
    if not log.is_dir():
        return []
    return sorted(
        int(file.stem) for file in log.iterdir() if file.suffix == ".json" and file.stem.isdigit()
    )


def _stamp(file: Path) -> str:
    if not file.exists():
        return ""
    stat = file.stat()
    return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"


def _actions(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
