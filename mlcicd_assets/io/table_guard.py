"""Notice a Delta table that lost commits: after a power loss, a bad backup, a rewritten log.

Delta writes are not synced to the disk. An empty head commit is read as one without rows, a lost
one as an older version; neither is an error to any reader. So the ledger database, which is
synced, keeps what was last seen of each table.
"""

import hashlib

from mlcicd_assets.io.delta import open_table
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.ledger_tables import SeenTable
from mlcicd_assets.io.store import is_empty, listing, place_at, read, remove
from mlcicd_assets.ml.errors import TableRewound
from mlcicd_assets.ml.values import TableVersion


def check_not_rewound(ledger: Ledger, uri: str) -> bool:
    """Tell whether the table is the one last seen, at that version or after it.

    Not so is one that is new, was accepted by `repair`, or was dropped and made anew: no loss,
    but what was landed before may not be in it.

    Raises:
        TableRewound: commits are missing, or were replaced by others.
        DataError: the table cannot be opened.
    """
    from deltalake import DeltaTable

    seen = ledger.seen_table(uri)
    if seen is None or not DeltaTable.is_deltatable(uri):
        return False
    table = open_table(uri)
    if str(table.metadata().id) != seen.table_id:
        return False
    commit = _commit(uri, seen.version)
    if table.version() < seen.version:
        fault = f"is at version {table.version()}, version {seen.version} was seen before"
    elif commit is not None and commit != seen.commit:
        fault = f"has another commit {seen.version} than was seen before"
    else:
        return True
    raise TableRewound(
        f"the table {uri} {fault}: commits were lost, as after a power loss or from an old backup. "
        "Restore them, or accept what is there with `mlcicd repair`; landing files that the table "
        "has lost are then taken in again"
    )


def remember_seen(ledger: Ledger, version: TableVersion) -> None:
    """Keep what was seen of a table; call it after `check_not_rewound`."""
    commit = _commit(version.uri, version.version) or ""
    ledger.remember_table(
        SeenTable(version.uri, version.table_id, version.version, version.fingerprint, commit)
    )


def repair(ledger: Ledger, uri: str) -> str | None:
    """Accept a table as it is now, without empty commits at its head; say what was done.

    None when nothing was wrong.
    """
    log, told = place_at(uri) / "_delta_log", list[str]()
    commits = sorted(name for name in listing(log) if name.endswith(".json"))
    while commits and is_empty(log / commits[-1]):
        told.append(f"removed the empty commit {commits[-1]}")
        remove(log / commits.pop())
    try:
        check_not_rewound(ledger, uri)
    except TableRewound:
        ledger.forget_table(uri)
        told.append("accepted the version that is there")
    return "; ".join(told) or None


def _commit(uri: str, version: int) -> str | None:
    """Return the sha256 of a commit; None when it is gone, as after a clean-up of the log."""
    content = read(place_at(uri) / "_delta_log" / f"{version:020d}.json")
    return None if content is None else hashlib.sha256(content).hexdigest()
