"""Bad rows: named by the commits that added them or by a condition, and looked for in versions."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.io.delta import open_table, scan
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.fingerprint import row_hash
from mlcicd_assets.ml.values import TableVersion

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class BadRows:
    """Rows of a table: where an SQL condition holds, or those that commits added.

    The latter are known by their hashes over `columns` (base64 of little-endian UInt64), so they
    are found in compacted files, too, and after their own were vacuumed.
    """

    uri: str
    table_id: str
    where: str | None = None
    commits: tuple[int, ...] = ()
    files: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    hashes: str = ""

    def __str__(self) -> str:
        """Say which rows, for people; files of one commit cannot be told apart."""
        if self.where is not None:
            return f"the rows where {self.where}"
        commits = ", ".join(map(str, self.commits))
        files = f" (with the landing files {', '.join(self.files)})" if self.files else ""
        return f"the rows that version {commits} of {self.uri} added{files}"

    def are_in(self, version: TableVersion) -> bool:
        """Tell whether a version holds one of them.

        Raises:
            DataError: it cannot be read any more, or the condition cannot be asked of it.
        """
        import polars as pl

        if self.commits and version.table_id == self.table_id:
            if version.version < min(self.commits):
                return False
        try:
            if self.where is not None:
                naive = pl.selectors.datetime().dt.replace_time_zone(None)  # as SQL writes times
                frame, asked = scan(version).with_columns(naive), pl.sql_expr(self.where)
                missing = {*asked.meta.root_names()} - {*frame.collect_schema()}
                found = frame.with_columns(pl.lit(None).alias(n) for n in missing).filter(asked)
            else:
                known = np.frombuffer(base64.b64decode(self.hashes), "<u8")
                rows = _hashed(scan(version), self.columns)
                found = rows.filter(pl.col("hash").is_in(pl.lit(pl.Series(known)).implode()))
            return found.head(1).collect(engine="streaming").height > 0
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"{version} cannot be searched for bad rows: {reason}") from error


def rows_where(uri: str, where: str) -> BadRows:
    """Name the rows of a condition such as `amount > 9000 and tx_time::date = '2026-03-01'`.

    Raises:
        DataError: it cannot be asked of the table.
    """
    import polars as pl

    newest = _at(uri)
    bad = BadRows(uri, newest.table_id, where)
    bad.are_in(newest)
    known = scan(newest).collect_schema()
    if unknown := {*pl.sql_expr(where).meta.root_names()} - {*known}:
        raise DataError(f"{uri} has no column {sorted(unknown)}, only: {', '.join(known)}")
    return bad


def rows_of(uri: str, *, commit: int | None = None, file: str | None = None) -> BadRows:
    """Name the rows that a commit added, or those that took a landing file in did.

    Raises:
        DataError: no commit took that file in, or it cannot be read any more.
    """
    import polars as pl

    history = {one["version"]: one.get("mlcicd.files", "{}") for one in open_table(uri).history()}
    files = {number: [*json.loads(text)] for number, text in history.items()}
    commits = [one for one in files if file in files[one]] if commit is None else [commit]
    if not commits:
        raise DataError(f"no commit of {uri} took in a landing file '{file}': look at its name")
    columns = sorted(scan(_at(uri, min(commits))).collect_schema())
    try:
        parts = [_added(uri, one, columns) for one in commits]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"commits {commits} of {uri} are gone: say which rows by --where"
        ) from error
    rows = pl.concat(parts)
    if rows.is_empty():
        raise DataError(f"commits {commits} of {uri} added no rows: look for the commit that did")
    hashes = rows["hash"].unique().sort().to_numpy().astype("<u8")
    return BadRows(
        uri,
        _at(uri).table_id,
        commits=tuple(commits),
        files=tuple(name for one in commits for name in files.get(one, ())),
        columns=tuple(columns),
        hashes=base64.b64encode(hashes.tobytes()).decode(),
    )


def _at(uri: str, version: int | None = None) -> TableVersion:
    table = open_table(uri, version=version)
    return TableVersion(uri, str(table.metadata().id), table.version(), "", 0)


def _added(uri: str, commit: int, columns: Sequence[str]) -> "pl.DataFrame":
    """Return the hashes of the rows that a commit added: an update rewrites others, too."""
    rows = _hashed(scan(_at(uri, commit)), columns).select("hash")
    if commit > 0:
        before = _hashed(scan(_at(uri, commit - 1)), columns).select("hash")
        rows = rows.join(before, on="hash", how="anti")
    return rows.collect(engine="streaming")


def _hashed(frame: "pl.LazyFrame", columns: Sequence[str]) -> "pl.LazyFrame":
    """Add each row's hash over these columns; one that the table had not or has no more is null."""
    import polars as pl

    kinds = frame.collect_schema()
    missing = [pl.lit(None, pl.String).alias(name) for name in columns if name not in kinds]
    schema = {name: kinds.get(name, pl.String()) for name in columns}
    return frame.with_columns(missing).with_columns(hash=row_hash(schema))
