"""Retention: which table versions must stay readable, and a vacuum that leaves them so."""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mlcicd_assets.io.delta import open_table
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.record import origins
from mlcicd_assets.io.rollback import earlier
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import Place, listing, place_at
from mlcicd_assets.ml.errors import DataError, ReleaseError
from mlcicd_assets.ml.values import TableVersion

YOUNG_HOURS: Final = 24  # a file that no commit names may be one that a run is about to commit
SHARED: Final = ("quarantine", "features")
NOBODYS: Final = "nothing that is held was made from it: its folder may be removed"


@dataclass(frozen=True)
class Swept:
    """What a vacuum removes of a table, or would remove; why versions or the table are kept."""

    uri: str
    files: int
    megabytes: float
    held: tuple[str, ...]
    note: str = ""


def held(settings: Settings, ledger: Ledger, model: str) -> list[tuple[TableVersion, str]]:
    """Return the tables of what is live, the rollback target and the newest candidate; and why."""
    decided = [e.body for e in ledger.entries(model=model, kinds=("outcome",)) if e.body["digest"]]
    needs = {body["digest"]: "newest candidate" for body in decided[-1:]}
    if live := ledger.live(model):
        with suppress(ReleaseError):
            needs[earlier(ledger, model, live.digest)[1]] = "rollback target"
        needs[live.digest] = "live"
    found: dict[str, list[tuple[TableVersion, str]]] = {}
    for one in origins(settings, ledger, model):  # its record comes before later judgements
        if why := needs.get(one.digest):
            told = [
                (table, f"{name} of v{one.version}, {why}") for name, table in one.tables.items()
            ]
            found.setdefault(one.digest, told)
    return [one for tables in found.values() for one in tables]


def missing_files(table: TableVersion) -> Iterator[str]:
    """Tell which files of a version are gone or have another size.

    Raises:
        DataError: the version cannot be opened at all, or its table was made anew.
    """
    opened, size_of = open_table(table.uri, version=table.version), _sizes(place_at(table.uri))
    if table.table_id not in {"", str(opened.metadata().id)}:
        raise DataError(f"{table} was dropped and made anew: restore it from a backup")
    for action in opened.get_add_actions().to_struct_array().to_pylist():
        if (size := size_of(action["path"])) != action["size_bytes"]:
            what = "is gone" if size is None else f"has {size} bytes"
            yield f"{table}: {action['path']} {what}; restore it from a backup"


def vacuum(
    settings: Settings,
    ledger: Ledger,
    model: str | None,
    *,
    hours: int | None,
    foreign: bool,
    carry_out: bool,
) -> list[Swept]:
    """Remove what no version of the last `hours` (None: as the table says) and none held needs.

    Without `carry_out` nothing is removed. Versions that other models hold stay, too.
    """
    models = ledger.models()
    kept = [one for name in models for one in held(settings, ledger, name)]
    own = tuple(f"{settings.lake}/{name}/" for name in (*models, *SHARED))
    swept: list[Swept] = []
    for uri in sorted(_tables(settings, ledger, [model] if model else [*models, *SHARED])):
        try:
            if not foreign and not uri.startswith(own):
                raise DataError("not ours: add --foreign")
            table_id = str(open_table(uri).metadata().id)
            why = {
                table.version: why
                for table, why in kept
                if table.uri == uri and table.table_id in {"", table_id}
            }
            files, size = _sweep(uri, why, hours=hours, carry_out=carry_out)
            told = tuple(f"v{version}: {why[version]}" for version in sorted(why))
            note = "" if why or not uri.startswith(own[-1]) else NOBODYS
            swept.append(Swept(uri, files, size / 1e6, told, note))
        except DataError as error:
            swept.append(Swept(uri, 0, 0, (), f"left alone: {error}"))
    return swept


def _sweep(
    uri: str, versions: Collection[int], *, hours: int | None, carry_out: bool
) -> tuple[int, int]:
    """Return how many files, and bytes, go."""
    from deltalake.exceptions import DeltaError

    run = functools.partial(
        open_table(uri).vacuum,
        hours,
        enforce_retention_duration=False,
        full=hours is None or hours >= YOUNG_HOURS,
        keep_versions=list(versions),
    )
    try:
        doomed, size_of = run(dry_run=True), _sizes(place_at(uri))
        size = sum(size_of(path) or 0 for path in doomed)
        if carry_out:
            run(dry_run=False)
    except (DeltaError, OSError) as error:
        raise DataError(str(error).partition("\n")[0]) from error
    return len(doomed), size


def _sizes(root: Place) -> Callable[[str], int | None]:
    """Return the way from a path of the log to the file's size; each folder is listed once."""
    listed = functools.cache(listing)

    def size_of(path: str) -> int | None:
        file = place_at(path) if path.startswith("/") or "://" in path else root / path
        return listed(file.parent).get(file.name)

    return size_of


def _tables(settings: Settings, ledger: Ledger, names: list[str]) -> set[str]:
    """Return the tables in these folders of the lake, and those that such models were made from."""
    from deltalake import DeltaTable

    folders = [f"{settings.lake}/{name}" for name in names]
    found = {
        f"{folder}/{name}"
        for folder in folders
        for name, size in listing(place_at(folder)).items()
        if size is None  # a folder: the state of a feature table is a file beside it
    }
    for name in names:
        found |= {t.uri for one in origins(settings, ledger, name) for t in one.tables.values()}
    return {uri for uri in found if DeltaTable.is_deltatable(uri)}
