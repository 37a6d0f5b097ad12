"""Delta tables: pin a version with its content fingerprint, read it, append and replace once."""

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mlcicd_assets.io.store import check_store, listing, place_at
from mlcicd_assets.ml.contract import check_schema
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.fingerprint import fingerprint
from mlcicd_assets.ml.values import TableVersion

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

Result = TypeVar("Result")

ATTEMPTS = 5
# Others would be misread: deleted rows come back, mapped columns are read as nulls.
READABLE = frozenset({"timestampNtz", "vacuumProtocolCheck"})


@dataclass(frozen=True)
class Batch:
    """The rows of one landing file; `digest` (SHA-256 of its bytes) makes it land only once."""

    digest: str
    name: str
    table: "pa.Table"


def pin(uri: str, *, version: int | None = None) -> TableVersion:
    """Name one version of a table (the latest by default) and what is in it, all rows read.

    Raises:
        DataError: the table or a file of it cannot be read, or needs a feature we do not have.
    """
    import polars as pl

    table = open_table(uri, version=version)
    try:
        content = fingerprint(pl.scan_delta(table))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"version {table.version()} of {uri} cannot be read: {error}. If it was vacuumed, pin "
            "the latest version; if a file is damaged, restore it or replay the landing files"
        ) from error
    rows = int(content.split(":")[1])
    return TableVersion(uri, str(table.metadata().id), table.version(), content, rows)


def scan(version: TableVersion) -> "pl.LazyFrame":
    """Return the rows of a pinned version, lazily.

    Raises:
        DataError: the version is gone, or the table was dropped and made anew since.
    """
    import polars as pl

    table = open_table(version.uri, version=version.version)
    if str(table.metadata().id) != version.table_id:
        raise DataError(
            f"{version} is another table by now (id {table.metadata().id}, pinned was "
            f"{version.table_id}): it was dropped and made anew; start from its new data"
        )
    return pl.scan_delta(table)


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


def replace(
    uri: str, frame: "pl.DataFrame", *, metadata: Mapping[str, str], key: str
) -> TableVersion:
    """Make `frame` the content of the table, once for each `key`, and pin what was written.

    When the latest commit carries the same key, nothing is written.

    Raises:
        DataError: other writers were faster five times.
    """
    return _retried(uri, lambda: _replace_once(uri, frame, metadata=metadata, key=key))


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
    needed = set(table.protocol().reader_features or ()) - READABLE
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        needed.add("columnMapping")
    if needed:
        raise DataError(
            f"the table at {uri} needs the reader features {sorted(needed)}, which are refused: "
            "rows would be misread. Rewrite the table without them"
        )
    log, head = place_at(uri) / "_delta_log", f"{table.version():020d}.json"
    if listing(log).get(head) == 0:
        # It would be read as a valid commit without rows.
        raise DataError(f"{log / head} is empty, as after a power loss: run `mlcicd repair`")
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
        DeltaTable.create(uri, kind, mode="ignore", commit_properties=alone)
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


def _replace_once(
    uri: str, frame: "pl.DataFrame", *, metadata: Mapping[str, str], key: str
) -> TableVersion:
    from deltalake import CommitProperties, Transaction, write_deltalake

    table = _open_or_create(uri, frame.head(0).to_arrow().schema)
    mark = f"mlcicd.key:{key}"
    if table.transaction_version(mark) != table.version():
        once = CommitProperties(
            custom_metadata=dict(metadata),
            # No silent rebase: an overwrite on top of rows that it never saw would keep them.
            max_commit_retries=0,
            app_transactions=[Transaction(mark, table.version() + 1)],
        )
        write_deltalake(
            table, frame, mode="overwrite", schema_mode="overwrite", commit_properties=once
        )
    return pin(uri, version=table.version())


def _retried(uri: str, write: Callable[[], Result]) -> Result:
    from deltalake.exceptions import CommitFailedError

    for attempt in range(ATTEMPTS):
        try:
            return write()
        except CommitFailedError:
            time.sleep(random.uniform(0.01, 0.05) * 2**attempt)  # noqa: S311
    raise DataError(f"{ATTEMPTS} writes to {uri} met other writers each time: run it again")
