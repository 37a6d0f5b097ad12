"""Watching a Delta table by its log alone: whether a commit since the last look changed rows."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mlcicd_assets.io.delta import open_table
from mlcicd_assets.io.store import Place, listing, place_at, read, stamp
from mlcicd_assets.ml.errors import DataError


@dataclass(frozen=True)
class LogPosition:
    """The head of a log when it was read, and the newest version that may have changed rows.

    `stamp` is inode, size and mtime of the head file (on object storage e-tag, size and time): a
    table dropped and made again at the same path differs there. `content` is -1 when no commit
    that is still in the log changed rows; `foreign` leaves out commits by runs of the model.
    """

    version: int
    stamp: str
    table_id: str
    content: int
    foreign: int


def advance(uri: str, last: LogPosition | None, *, model: str = "") -> LogPosition | None:
    """Read only what is new in the log; None when there is no table.

    A commit counts when one of its add or remove actions says `dataChange`: it over-reports (a
    RESTORE that only undoes an OPTIMIZE), never under-reports. Costs two `stat` (on object
    storage two HEAD requests) when nothing is new. Where the last look or its commit is lost, it
    starts at the newest checkpoint, which counts as a change.

    Raises:
        DataError: the log is damaged, or the table needs what we cannot read.
    """
    log = place_at(uri) / "_delta_log"
    if last is not None and is_at(uri, last):
        if not stamp(_file(log, last.version + 1)):
            return last
    else:
        last = None
    names = listing(log)
    commits = {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}
    if not commits:
        return None
    if last is None or last.version + 1 not in commits:
        points = [int(name[:20]) for name in names if ".checkpoint." in name]
        last = LogPosition(-1, "", "", -1, -1)
        if points:
            table_id = str(open_table(uri, version=max(points)).metadata().id)
            last = LogPosition(max(points), "", table_id, max(points), max(points))
    new = range(last.version + 1, max(commits) + 1)
    if lost := sorted(set(new) - commits):
        raise DataError(f"{_file(log, lost[0])} is missing: restore the log from a backup")
    return _follow(uri, last, new, model)


def is_at(uri: str, position: LogPosition) -> bool:
    """Tell whether the log still has the very commit that was its head then."""
    return stamp(_file(place_at(uri) / "_delta_log", position.version)) == position.stamp


def rows_added(uri: str, versions: Iterable[int]) -> int | None:
    """Return how many rows these commits added; None when one also removed some, or is silent."""
    rows = 0
    for version in versions:
        for action in _actions(_file(place_at(uri) / "_delta_log", version)):
            if action.get("remove", {}).get("dataChange"):
                return None
            if action.get("add", {}).get("dataChange"):
                counted = json.loads(action["add"].get("stats") or "{}").get("numRecords")
                if counted is None:
                    return None
                rows += counted
    return rows


def _follow(uri: str, last: LogPosition, new: Iterable[int], model: str) -> LogPosition:
    log, version, table_id = place_at(uri) / "_delta_log", last.version, last.table_id
    content, foreign, is_other = last.content, last.foreign, False
    for version in new:
        actions = _actions(_file(log, version))
        is_other |= any("protocol" in action or "metaData" in action for action in actions)
        table_id = next((a["metaData"]["id"] for a in actions if "metaData" in a), table_id)
        if any(a.get(kind, {}).get("dataChange") for a in actions for kind in ("add", "remove")):
            content = version
            writers = [action.get("commitInfo", {}).get("mlcicd.model") for action in actions]
            foreign = foreign if model in writers else version
    if is_other:
        open_table(uri)  # refuses what we would misread
    return LogPosition(version, stamp(_file(log, version)), table_id, content, foreign)


def _file(log: Place, version: int) -> Place:
    return log / f"{version:020d}.json"


def _actions(file: Place) -> list[dict[str, Any]]:
    try:
        actions = [json.loads(line) for line in (read(file) or b"").splitlines() if line.strip()]
        if actions and all(isinstance(action, dict) for action in actions):
            return actions
        fault = "is empty, as after a power loss" if not actions else "is no Delta commit"
    except ValueError as error:
        fault = f"is no JSON ({error})"
    raise DataError(f"{file} {fault}: restore it, or run `mlcicd repair`")
