"""Watching a Delta table by its log alone: whether a commit since the last look changed rows."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN_MODEL = "mlcicd.model"  # commit metadata: the model whose run wrote the commit


@dataclass(frozen=True)
class LogPosition:
    """The head of a log when it was read, and the newest commit that may have changed rows.

    `stamp` is inode, size and mtime of the head file: a table dropped and made again at the same
    path differs there. `content` is 'version:hash' of the commit, or '' when there is none.
    """

    version: int
    stamp: str
    content: str


def advance(uri: str, last: LogPosition | None, *, own_model: str) -> LogPosition | None:
    """Read only what is new in the log; None when there is no readable table.

    A commit counts when one of its add or remove actions says `dataChange` and it was not
    written by a run of `own_model`. Costs one `stat` when nothing is new.

    Args:
        uri: a local path (object stores are listed by another issue).
        last: the position after the previous look, if any.
        own_model: name of the model that asks.
    """
    log = Path(uri.removeprefix("file://")) / "_delta_log"
    start = -1
    if last is not None and _stamp(_file(log, last.version)) == last.stamp:
        if not _file(log, last.version + 1).exists():
            return last
        start = last.version
    versions = _versions(log)
    if not versions:
        return None
    content = last.content if last is not None and start >= 0 else ""
    for version in reversed(versions):
        if version <= start:
            break
        text = _file(log, version).read_bytes()
        if _changes_rows(text, own_model):
            content = f"{version}:{hashlib.sha256(text).hexdigest()[:16]}"
            break
    head = versions[-1]
    return LogPosition(head, _stamp(_file(log, head)), content)


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


def _changes_rows(text: bytes, own_model: str) -> bool:
    actions: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines() if line.strip()]
    if any(action.get("commitInfo", {}).get(OWN_MODEL) == own_model for action in actions):
        return False
    return any(
        action.get(kind, {}).get("dataChange", False)
        for action in actions
        for kind in ("add", "remove")
    )
