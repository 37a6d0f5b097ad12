"""Delta tables: pin a version with its content fingerprint, read it, append once."""

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mlcicd_assets.io import content
from mlcicd_assets.io.content import Content
from mlcicd_assets.io.delta_faults import misread_path, readable, writable
from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.io.store import check_store, is_empty, place_at
from mlcicd_assets.ml.contract import check_schema
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.sections import TimeColumn
from mlcicd_assets.ml.values import TableVersion

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

Result = TypeVar("Result")

ATTEMPTS = 5
# A version can only be opened while its commits are there, and Delta drops them after 30 days.
KEEP_LOG = {"delta.enableExpiredLogCleanup": "false"}
# Others would be misread, or Polars refuses them: mapped columns are read as nulls.
READABLE = frozenset({"timestampNtz"})


@dataclass(frozen=True)
class Batch:
    """The rows of one landing file; `digest` (SHA-256 of its bytes) makes it land only once."""

    digest: str
    name: str
    table: "pa.Table"


def pin(
    uri: str,
    *,
    version: int | None = None,
    clock: TimeColumn | None = None,
    memory: LedgerDatabase | None = None,
) -> TableVersion:
    """Name one version of a table (the latest by default) and what is in it.

    Files that `memory` holds the sums of are not read again; `clock` is the time they are kept by.

    Raises:
        DataError: the table or a file of it cannot be read, or needs a feature we do not have.
    """
    table = open_table(uri, version=version)
    held = _content(table, uri, clock, memory)
    table_id, number = str(table.metadata().id), table.version()
    return TableVersion(uri, table_id, number, held.fingerprint, held.rows)


def content_of(
    version: TableVersion, clock: TimeColumn | None, memory: LedgerDatabase | None
) -> Content:
    """Return what a pinned version holds by day.

    Raises:
        DataError: as `pin` and `scan`.
    """
    return _content(open_pinned(version), version.uri, clock, memory)


def scan(version: TableVersion) -> "pl.LazyFrame":
    """Return the rows of a pinned version, lazily.

    Raises:
        DataError: the version is gone, or the table was dropped and made anew since.
    """
    import polars as pl

    return pl.scan_delta(open_pinned(version))


def open_pinned(version: TableVersion) -> "DeltaTable":
    """Open a pinned version.

    Raises:
        DataError: it is gone, or the table was dropped and made anew since.
    """
    table = open_table(version.uri, version=version.version)
    if str(table.metadata().id) != version.table_id:
        raise DataError(
            f"{version} is another table by now (id {table.metadata().id}, pinned was "
            f"{version.table_id}): it was dropped and made anew; start from its new data"
        )
    return table


def _content(
    table: "DeltaTable", uri: str, clock: TimeColumn | None, memory: LedgerDatabase | None
) -> Content:
    with readable(f"version {table.version()} of {uri}"):
        return content.content_of(table, clock, memory)


def append_files(
    uri: str, batches: Sequence[Batch], *, metadata: Mapping[str, str]
) -> tuple[str, ...]:
    """Append the batches (one at least) that are not in the table yet, in one commit.

    Makes the table if missing. Effectively once: each digest is an application transaction of the
    commit, so that a repeated or concurrent call adds nothing twice. Returns the digests that
    this call added.

    Raises:
        SchemaMismatch: a batch differs from the table.
        DataError: other writers were faster five times.
    """
    return _retried(uri, lambda: _append_new(uri, batches, metadata=metadata))


def open_table(uri: str, *, version: int | None = None) -> "DeltaTable":
    """Open a table that can be read without loss.

    Raises:
        DataError: it cannot be opened, lost its head commit, or needs what would be misread.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(uri, version=version)
    except (DeltaError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"the Delta table at {uri} (version {'latest' if version is None else version}) cannot "
            f"be opened: {reason}. If there is none yet, land data first; else pin a version that "
            "exists, or restore its log"
        ) from error
    protocol, metadata = table.protocol(), table.metadata()
    needed = set(protocol.reader_features or ()) - READABLE
    is_mapped = metadata.configuration.get("delta.columnMapping.mode", "none") != "none"
    if is_mapped or protocol.min_reader_version == 2:
        needed.add("columnMapping")
    if needed:
        raise DataError(
            f"the table at {uri} needs the reader features {sorted(needed)}, which are refused: "
            "rows would be misread. Rewrite the table without them"
        )
    if misread := misread_path(table, metadata.partition_columns):
        raise DataError(
            f"the table at {uri} has a file whose path would be misread: {misread}. Rewrite the "
            "table, or copy it"
        )
    head = place_at(uri) / "_delta_log" / f"{table.version():020d}.json"
    if is_empty(head):
        # It would be read as a valid commit without rows.
        raise DataError(f"{head} is empty, as after a power loss: run `mlcicd repair`")
    return table


def lost_files(uri: str, digests: Iterable[str]) -> set[str]:
    """Return which of these landing files (SHA-256) the table does not hold, or holds no more."""
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(uri):
        return set(digests)
    table = open_table(uri)
    return {one for one in digests if table.transaction_version(f"mlcicd:{one}") is None}


def _open_or_create(uri: str, schema: "pa.Schema") -> "DeltaTable":
    """Open the table or make it; of two creators one gets CommitFailedError and comes again."""
    from deltalake import CommitProperties, DeltaTable, Schema

    check_store(place_at(uri).parent)
    if not DeltaTable.is_deltatable(uri):
        # With retries the slower creator would commit as version 1, and change the table's id.
        alone = CommitProperties(max_commit_retries=0)
        kind = Schema.from_arrow(schema)
        DeltaTable.create(uri, kind, mode="ignore", commit_properties=alone, configuration=KEEP_LOG)
    return open_table(uri)


def _append_new(
    uri: str, batches: Sequence[Batch], *, metadata: Mapping[str, str]
) -> tuple[str, ...]:
    import pyarrow as pa
    from deltalake import CommitProperties, Transaction, write_deltalake

    table = _open_or_create(uri, batches[0].table.schema)
    schema = pa.schema(table.schema().to_arrow())
    for batch in batches:
        # delta-rs casts silently on write: 1.9 would become 1.
        check_schema(batch.table.schema, schema, what=f"{batch.name} for {uri}")
    marks = {f"mlcicd:{batch.digest}": batch for batch in batches}
    new = {mark: b for mark, b in marks.items() if table.transaction_version(mark) is None}
    if not new:
        return ()
    files = json.dumps({batch.name: batch.digest for batch in new.values()})
    # Written with the very handle that was asked: a digest committed meanwhile is a conflict.
    write_deltalake(
        table,
        pa.concat_tables([batch.table.select(schema.names) for batch in new.values()]),
        mode="append",
        commit_properties=CommitProperties(
            custom_metadata={**metadata, "mlcicd.files": files},
            app_transactions=[Transaction(mark, 1) for mark in new],
        ),
    )
    return tuple(batch.digest for batch in new.values())


def _retried(uri: str, write: Callable[[], Result]) -> Result:
    from deltalake.exceptions import CommitFailedError

    for attempt in range(ATTEMPTS):
        try:
            with writable(uri):
                return write()
        except CommitFailedError:
            time.sleep(random.uniform(0.01, 0.05) * 2**attempt)  # noqa: S311
    raise DataError(f"{ATTEMPTS} writes to {uri} met other writers each time: run it again")
