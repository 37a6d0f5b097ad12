"""Ingest: landing files into Delta effectively once; a foreign table is pinned as it is.

A landing file is judged before it is appended: one that breaks its contract stays where it is,
is refused again by every run, and is taken as soon as it was corrected or removed.
"""

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from mlcicd_assets.io.delta import Batch, append_files, lost_files, pin
from mlcicd_assets.io.feature_inputs import clock_of
from mlcicd_assets.io.landing import MOST_ROWS, LandingFile, file_digest, list_files, read_file
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.ledger_tables import SeenFile
from mlcicd_assets.io.provenance import code_state
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.table_guard import check_not_rewound, remember_seen
from mlcicd_assets.ml.contract import check_batch, event_schema, label_schema
from mlcicd_assets.ml.data_gates import contract_gate
from mlcicd_assets.ml.errors import SchemaMismatch, UnreadableFile
from mlcicd_assets.ml.sections import Source, TimeColumn
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import RawData, TableVersion, Verdict

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Ingested:
    """What one ingest did: pinned tables, files taken, and files refused with their verdicts."""

    raw: RawData
    taken: tuple[str, ...]
    refused: tuple[tuple[str, Verdict], ...]


@dataclass(frozen=True)
class _Part:
    version: TableVersion
    taken: tuple[str, ...] = ()
    refused: tuple[tuple[str, Verdict], ...] = ()


def table_uri(settings: Settings, spec: PipelineSpec, name: str) -> str:
    """Return the address of one of the model's own tables (raw, labels, features, quarantine)."""
    return f"{settings.lake}/{spec.name}/{name}"


def source_uri(settings: Settings, spec: PipelineSpec, source: Source, own: str) -> str:
    """Return the table a source is read from: the model's own, or the foreign one."""
    if source.table is None:
        return table_uri(settings, spec, own)
    is_absolute = source.table.startswith("/") or "://" in source.table
    return source.table if is_absolute else f"{settings.lake}/{source.table}"


def landed_files(
    settings: Settings, ledger: Ledger, source: Source
) -> tuple[tuple[LandingFile, ...], tuple[LandingFile, ...]]:
    """Return a landing folder's files, and which of them no run has dealt with as they are."""
    if source.landing is None:
        return (), ()
    folder = settings.landing / source.landing
    files, seen = list_files(folder), ledger.seen_files(str(folder))
    return files, tuple(file for file in files if not _is_seen(file, seen.get(file.name)))


def ingest(settings: Settings, ledger: Ledger, spec: PipelineSpec, *, run_id: str) -> Ingested:
    """Bring the model's tables up to date and pin them.

    Raises:
        DataError: a table cannot be read, or there is no data at all.
    """
    parts = {
        own: _bring_up_to_date(settings, ledger, spec, source=source, own=own, run_id=run_id)
        for source, own in spec.sources()
    }
    labels = parts.get("labels")
    return Ingested(
        RawData(parts["raw"].version, labels.version if labels else None),
        tuple(name for part in parts.values() for name in part.taken),
        tuple(refusal for part in parts.values() for refusal in part.refused),
    )


def _bring_up_to_date(
    settings: Settings,
    ledger: Ledger,
    spec: PipelineSpec,
    *,
    source: Source,
    own: str,
    run_id: str,
) -> _Part:
    uri = source_uri(settings, spec, source, own)
    is_as_seen = check_not_rewound(ledger, uri)
    if source.landing is None:
        return _Part(_pinned(ledger, uri, clock_of(spec, own)))
    folder = settings.landing / source.landing
    seen = ledger.seen_files(str(folder))
    landed = [file.digest for file in seen.values() if file.status == "ingested"]
    lost = set[str]() if is_as_seen else lost_files(uri, landed)
    dealt_with: list[SeenFile] = []
    batches: list[Batch] = []
    refused: list[tuple[str, Verdict]] = []
    for file in list_files(folder):
        known = seen.get(file.name)
        if known is not None and known.status == "ingested" and _is_seen(file, known):
            if known.digest not in lost:
                continue
        digest = file_digest(file.path)
        table, verdict = judge_file(file, digest, spec, is_events=own == "raw")
        if verdict.passed:
            batches.append(Batch(digest, file.name, table))
        else:
            refused.append((file.name, verdict))
        status = "ingested" if verdict.passed else "refused"
        dealt_with.append(
            SeenFile(file.name, file.size, file.mtime_ns, digest, status, str(verdict))
        )
    metadata = {"mlcicd.model": spec.name, "mlcicd.run_id": run_id}
    metadata["mlcicd.git_commit"] = code_state().commit
    added = set(append_files(uri, batches, metadata=metadata) if batches else ())
    # Only now: after a crash before this line the table itself says which digests it holds.
    ledger.remember_files(str(folder), dealt_with)
    taken = tuple(batch.name for batch in batches if batch.digest in added)
    return _Part(_pinned(ledger, uri, clock_of(spec, own)), taken, tuple(refused))


def _pinned(ledger: Ledger, uri: str, clock: TimeColumn) -> TableVersion:
    version = pin(uri, clock=clock, memory=ledger)
    remember_seen(ledger, version)
    return version


def judge_file(
    file: LandingFile, digest: str, spec: PipelineSpec, *, is_events: bool
) -> "tuple[pa.Table | None, Verdict]":
    """Read a file and hold it against the contract; labels have only a schema, without nulls."""
    import polars as pl

    schema = event_schema(spec) if is_events else label_schema(spec)
    table, rows, quarantined = None, 0, 0
    broken: dict[str, int] = {}
    failures: list[tuple[str, str, str]] = []
    try:
        time, most = (spec.time, spec.contract.rows.max) if is_events else (None, MOST_ROWS)
        table = read_file(file.path, schema=schema, time=time, most=most)
        rows = table.num_rows
        if is_events:
            report = check_batch(pl.DataFrame(table), spec)
            quarantined, broken = report.quarantined.height, report.broken
            failures = [astuple(failure) for failure in report.failures]
        elif nulls := sum(column.null_count for column in table.columns):
            failures = [("nullable", f"{nulls} empty fields", "0")]
    except (SchemaMismatch, UnreadableFile) as error:
        failures = [("schema", str(error), "as declared")]
    return table, contract_gate(
        rows=rows,
        quarantined=quarantined,
        failures=failures,
        broken=broken,
        subject=digest,
        gates=spec.gates,
    )


def _is_seen(file: LandingFile, known: SeenFile | None) -> bool:
    return known is not None and (file.size, file.mtime_ns) == (known.size, known.mtime_ns)
