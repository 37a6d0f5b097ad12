"""Recall: what was made from bad rows is found, leaves the endpoint, and does not come back."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass

import msgspec

from mlcicd_assets.io.bad_rows import BadRows, rows_of, rows_where
from mlcicd_assets.io.carrier import Carrier
from mlcicd_assets.io.decisions import recalls
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.operators import require_operator
from mlcicd_assets.io.readings import reigns
from mlcicd_assets.io.record import Origin, origins
from mlcicd_assets.io.releases import recall_note
from mlcicd_assets.io.rollback import book_offline, earlier, move_back
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import stamp, write
from mlcicd_assets.ml.errors import DataError, LedgerMoved, ReleaseError
from mlcicd_assets.ml.values import ModelVersionRef, TableVersion


@dataclass(frozen=True)
class Suspect:
    """Bad rows of `raw` or `labels`, by one of: the commit that added them, a file, a condition."""

    table: str = "raw"
    version: int | None = None
    file: str | None = None
    where: str | None = None


@dataclass(frozen=True)
class Found:
    """What holds bad rows, or was made from them; `models` are versions by their digests.

    What could not be read any more is counted in, and named as `unread`; so is a release of
    which nobody knows what it was made from.
    """

    rows: str
    tables: tuple[str, ...]
    unread: tuple[str, ...]
    features: tuple[str, ...]
    models: dict[str, int | None]
    reports: tuple[str, ...]
    released: tuple[int, ...]


def find(settings: Settings, ledger: Ledger, model: str, suspect: Suspect) -> tuple[BadRows, Found]:
    """Find all that was made from bad rows; not a model that equal good data gave as well.

    Raises:
        ReleaseError: not one of the three ways is given, or nothing was made from such a table.
        DataError: there are no such rows, or they cannot be read any more.
    """
    if [way is None for way in astuple(suspect)[1:]].count(False) != 1:
        raise ReleaseError("say which rows are bad: a table version, a landing file or a condition")
    everything = origins(settings, ledger, model)
    made = [one for one in everything if suspect.table in one.tables]
    if not made:
        raise ReleaseError(f"nothing of '{model}' was made from a table '{suspect.table}' yet")
    uri = made[-1].tables[suspect.table].uri
    if suspect.where is not None:
        rows = rows_where(uri, suspect.where)
    else:
        rows = rows_of(uri, commit=suspect.version, file=suspect.file)
    bad: list[Origin] = []
    seen: dict[tuple[str, str], bool | None] = {}
    for one in made:
        table = one.tables[suspect.table]
        pin = (str(table), table.table_id)
        if pin not in seen:
            seen[pin] = _holds(rows, table)
            if seen[pin] is None and rows.commits and table.table_id != rows.table_id:
                seen[pin] = False  # of a table dropped since: no commit of this one was its
        if seen[pin] is not False:
            bad.append(one)
    good = {one.digest for one in made if one not in bad}
    models = {one.digest: one.version for one in bad if one.digest not in good}
    live = [entry.body for _, entry in reigns(ledger.entries(model=model))]
    known = {one.digest for one in everything}
    models |= {one["digest"]: one["version"] for one in live if one["digest"] not in known}
    return rows, Found(
        rows=str(rows),
        tables=tuple(sorted({name for (name, _), state in seen.items() if state is not False})),
        unread=tuple(sorted({name for (name, _), state in seen.items() if state is None})),
        features=tuple(sorted({str(one.tables["features"]) for one in bad})),
        models=models,
        reports=tuple(sorted({one.run_id for one in bad if one.run_id})),
        released=tuple(sorted({one["version"] for one in live if one["digest"] in models})),
    )


def recall(
    settings: Settings,
    ledger: Ledger,
    model: str,
    suspect: Suspect,
    *,
    reason: str,
    mark_champion: Callable[[str, int], None],
) -> Found:
    """Book the recall, and make the newest good release live in place of a bad one.

    Where there is none the bad one stays live, until a safe candidate takes its place.

    Raises:
        NotAllowed: the caller is no operator.
        ReleaseError, DataError: as in `find`; or a server does not come to answer.
    """
    by, run_id = require_operator(settings), f"recall-{uuid.uuid4().hex[:8]}"
    carrier = Carrier(settings, ledger, run_id, mark_champion)
    book_offline(settings, ledger, model, run_id=run_id)
    while True:
        seq = carrier.settled_head(model).seq
        rows, found = find(settings, ledger, model, suspect)
        body = {**asdict(found), "rows": asdict(rows), "by": by, "reason": reason}
        # Again if something was decided meanwhile: it may be made from these rows.
        with suppress(LedgerMoved):
            ledger.append(kind="recall", model=model, body=body, run_id=run_id, expected_seq=seq)
            break
    carry_out_recalls(carrier, model)
    return found


def carry_out_recalls(carrier: Carrier, model: str) -> None:
    """Do what the ledger's recalls say; safe to repeat, so the next run finishes after a crash.

    Each bundle gets a note beside it, and the newest good release takes the place of a bad one.
    """
    ledger, releases = carrier.ledger, carrier.settings.releases
    gone = recalls(ledger, model)
    for digest, entry in gone.items():
        if not stamp(note := recall_note(releases, model, digest)):
            write(note, msgspec.json.encode(entry))
    while gone:
        head, live = carrier.settled_head(model), ledger.live(model)
        if live is None or live.digest not in gone:
            return
        try:
            target = earlier(ledger, model, live.digest)
        except ReleaseError:
            return  # `alarms` shows it
        said = gone[live.digest].body
        told = {"model": model, "reason": said["reason"], "by": said["by"]}
        with suppress(LedgerMoved):
            move_back(carrier, head, live, target, action="recall", **told)


def bad_data(ledger: Ledger, candidate: ModelVersionRef) -> list[str]:
    """Return why a candidate may not be released: its data hold rows that were recalled."""
    raw, told = candidate.data.raw, list[str]()
    for entry in ledger.entries(model=candidate.model, kinds=("recall",)):
        rows = msgspec.convert(entry.body["rows"], BadRows)
        pinned = [one for one in (raw.events, raw.labels) if one and one.uri == rows.uri]
        if any(_holds(rows, one) is not False for one in pinned):
            told.append(
                f"{rows.uri} holds, or may hold, rows that {entry.body['by']} recalled at entry "
                f"{entry.seq} ({entry.body['reason']}): delete {rows}; then run again"
            )
    return told


def _holds(rows: BadRows, table: TableVersion) -> bool | None:
    """None where it cannot be read any more."""
    try:
        return rows.are_in(table)
    except DataError:
        return None
