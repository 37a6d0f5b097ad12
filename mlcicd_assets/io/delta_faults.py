"""What is wrong with a Delta table, in words: files that cannot be read, written or trusted."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mlcicd_assets.ml.errors import DataError, MlcicdError

if TYPE_CHECKING:
    from deltalake import DeltaTable


@contextmanager
def readable(*tables: object) -> Generator[None]:
    """Name the tables whose rows are read here, should a file of theirs be gone or damaged."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        if isinstance(error, MlcicdError):
            raise
        raise DataError(
            f"{' or '.join(map(str, tables))} cannot be read: {error}. If it was vacuumed, pin the "
            "latest version; if a file is damaged, restore it or replay the landing files"
        ) from error


@contextmanager
def writable(*tables: str) -> Generator[None]:
    """Name the tables that are written here, should the disk be full or read-only."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        if isinstance(error, (CommitFailedError, MlcicdError)):
            raise
        raise DataError(
            f"{' or '.join(tables)} cannot be written: {error}. Nothing is there in half: make "
            "room, or allow writing, and run it again"
        ) from error


def misread_path(table: "DeltaTable", partitions: Sequence[str]) -> str:
    """Return a file outside of the table (shallow clone), or one whose folders Polars misreads.

    It takes partition values from the folders, where the protocol has them beside the path: for
    other folders it would give nulls, or other values.
    """
    actions = table.get_add_actions()
    values = actions["partition"].to_pylist() if partitions else repeat({})
    for path, partition in zip(actions["path"].to_pylist(), values, strict=False):
        if path.startswith(("/", "../")) or ":/" in path:
            return f"{path} is not in the table's folder (a shallow clone?)"
        folders = (unquote(part).partition("=") for part in path.split("/")[:-1])
        told = {name: unquote(value) for name, _, value in folders}
        for name, value in partition.items():
            texts = {str: value, type(None): "__HIVE_DEFAULT_PARTITION__"}
            if name not in told or told[name] != texts.get(type(value), told[name]):
                return f"{path} holds partition {partition}"
    return ""
