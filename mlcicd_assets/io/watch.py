"""Watching a model's sources: is a run due, and why? Decided on state: ledger, logs, folders."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from mlcicd_assets.io.delta_log import LogPosition, advance, is_at, rows_added
from mlcicd_assets.io.ingest import landed_files, source_uri
from mlcicd_assets.io.landing import LandingFile
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import stamp
from mlcicd_assets.io.table_guard import check_not_rewound
from mlcicd_assets.ml.spec import PipelineSpec

RELIST_SECONDS: Final = 600  # a file changed in place does not change its folder
QUIET_PERIODS: Final = 10  # so long at most, where news never stop


@dataclass(frozen=True)
class Memory:
    """What makes the next look cheap; a lost one loses and doubles nothing.

    `idle` is what was seen when nothing was due; `waiting` a state that is due, since when, the
    entry decided before it, and since when anything is due after that.
    """

    positions: dict[str, LogPosition] = field(default_factory=dict[str, LogPosition])
    idle: str = ""
    waiting: tuple[str, float, int, float] = ("", 0, -1, 0)


@dataclass(frozen=True)
class Look:
    """Why a run is due by source (empty: it is not), and a name for the state it is due for.

    `problems` say what could not be seen, `aside` what does not count yet. `decided` is the entry
    that decided last (-1: none), `refused` the runs whose outcome is about a landing file alone.
    """

    memory: Memory
    due: dict[str, str] = field(default_factory=dict[str, str])
    problems: tuple[str, ...] = ()
    aside: str = ""
    state: str = ""
    decided: int = -1
    refused: frozenset[str] = frozenset()
    is_quiet: bool = True

    @property
    def cursor(self) -> str:
        """Return what the next look remembers of this one, as text."""
        return msgspec.json.encode(self.memory).decode()


def look_around(
    settings: Settings, ledger: Ledger, spec: PipelineSpec, cursor: str | None, *, now: float
) -> Look:
    """Look at what is new in the tables' logs and the landing folders; nothing else is read.

    Raises:
        LedgerError: the ledger does not answer.
    """
    memory, problems = _recalled(cursor), list[str]()
    uris = {own: source_uri(settings, spec, source, own) for source, own in spec.sources()}
    positions: dict[str, LogPosition] = {}
    for uri in uris.values():
        known = position = memory.positions.get(uri)
        try:
            position = advance(uri, known, model=spec.name)
            if known and position and position != known and not is_at(uri, known):
                check_not_rewound(ledger, uri)
        except Exception as error:  # whatever is wrong with one source, the others are looked at
            problems.append(f"{uri}: {error}")
            position = known
        positions |= {uri: position} if position else {}
    folders = [settings.landing / one.landing for one, _ in spec.sources() if one.landing]
    last = [entry.seq for entry in ledger.last_outcomes(spec.name, limit=1)]
    seen = [spec.definition, now // RELIST_SECONDS, *last, *map(stamp, folders)]
    idle = " ".join(map(str, seen))
    if idle == memory.idle and positions == memory.positions and not problems:
        return Look(memory)
    look = _compare(settings, ledger, spec, uris, positions, problems)
    waiting = _waiting(memory.waiting, look, now)
    quiet = 60 * spec.trigger.quiet_minutes
    return replace(
        look,
        memory=Memory(positions, "" if look.due or look.problems else idle, waiting),
        is_quiet=not 0 <= now - waiting[1] < quiet or now - waiting[3] >= QUIET_PERIODS * quiet,
    )


def _compare(
    settings: Settings,
    ledger: Ledger,
    spec: PipelineSpec,
    uris: dict[str, str],
    positions: dict[str, LogPosition],
    problems: Sequence[str],
) -> Look:
    """Compare every source, and the definition, with the newest decision about the tables."""
    outcomes = ledger.last_outcomes(spec.name, limit=20)
    about = [entry for entry in outcomes if entry.body["data"]]
    decided: dict[str, Any] = about[0].body["data"] if about else {}
    due, aside, missing = dict[str, str](), "", list[str]()
    state = [spec.definition, str(about[0].seq if about else -1)]
    for source, own in spec.sources():
        uri, position = uris[own], positions.get(uris[own])
        files, unseen = landed_files(settings, ledger, source)
        state += [f"{file.path} {file.size} {file.mtime_ns}" for file in files]
        if unseen:
            due[own] = f"{len(unseen)} new files in {source.landing}"
        if position is None:
            if files:
                due.setdefault(own, f"there is no table {own}")
            elif not any(problem.startswith(uri) for problem in problems):
                remedy = f"land files in {source.landing}" if source.landing else "correct 'source'"
                missing.append(f"no table at {uri}: {remedy}")
            continue
        if position.foreign >= 0:  # what a run of ours did, the first try too, is no other state
            state.append(f"{uri} {position.table_id} {position.foreign}")
        table_id, version = decided.get(own, ("", -1))
        if table_id != position.table_id or not position.content <= version <= position.version:
            due.setdefault(own, f"{own} has rows of version {position.content} without an outcome")
        if [*due] == ["labels"] and table_id == position.table_id and version <= position.version:
            new = range(version + 1, position.version + 1)
            aside = _too_few(uri, new, unseen, spec.trigger.new_labels)
    told = [entry.body for entry in about if entry.body["outcome"] != "rolled_back"]
    definition = next((body["definition"] for body in told if body.get("definition")), None)
    due = {} if aside else due
    if definition not in {None, spec.definition}:
        due["definition"] = "the definition changed since the last outcome"
    return Look(
        Memory(),
        due,
        (*problems, *missing),
        aside,
        hashlib.sha256("\n".join(state).encode()).hexdigest()[:24],
        about[0].seq if about else -1,
        frozenset(entry.run_id for entry in outcomes if not entry.body["data"]),
    )


def _too_few(uri: str, new: range, files: Sequence[LandingFile], wanted: int) -> str:
    """Say so when so few labels do not count yet; what was not just added counts in any case."""
    import polars as pl

    added = rows_added(uri, new) if wanted > 1 else None
    if added is None:
        return ""
    try:
        for file in files:
            scan = pl.scan_csv if file.path.suffix.lower() == ".csv" else pl.scan_parquet
            added += scan(file.path).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError):
        return ""  # a damaged file is for the run to refuse
    return f"{added} of {wanted} new labels" if added < wanted else ""


def _waiting(
    last: tuple[str, float, int, float], look: Look, now: float
) -> tuple[str, float, int, float]:
    """Keep since when this state, and anything at all, is due."""
    if not look.due:
        return Memory().waiting
    changed = last[1] if last[0] == look.state else now
    since = last[3] if last[0] and last[2] == look.decided else now
    return look.state, changed, look.decided, since


def _recalled(cursor: str | None) -> Memory:
    """Read the memory; garbage, or that of another release of this package, is as good as none."""
    try:
        return msgspec.json.decode(cursor or "{}", type=Memory)
    except (msgspec.MsgspecError, UnicodeError):
        return Memory()
