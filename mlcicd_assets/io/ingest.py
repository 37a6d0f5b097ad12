"""Ingest: landing files into Delta effectively once; a foreign table is pinned as it is.

A landing file is judged before it is appended: one that breaks its contract stays where it is,
is refused again by every run, and is taken as soon as it was corrected or removed.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlcicd_assets.io.delta import Batch, append_files, pin
from mlcicd_assets.io.landing import LandingFile, file_digest, list_files, read_file
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.ledger_tables import SeenFile
from mlcicd_assets.io.provenance import code_state
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.contract import RuleBreak, check_batch, event_schema, label_schema
from mlcicd_assets.ml.errors import SchemaMismatch, UnreadableFile
from mlcicd_assets.ml.gates import contract_gate
from mlcicd_assets.ml.spec import PipelineSpec, Source
from mlcicd_assets.ml.values import RawData, TableVersion, Verdict

if TYPE_CHECKING:
    import pyarrow as pa

Judge = Callable[[LandingFile, str], "tuple[pa.Table | None, Verdict]"]


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


def unseen_files(settings: Settings, ledger: Ledger, source: Source) -> list[str]:
    """Name each landing file that no run has dealt with in this form (name, size, time)."""
    folder = _folder(settings, source)
    seen = ledger.seen_files(str(folder))
    return [
        f"{file.path}:{file.size}:{file.mtime_ns}"
        for file in list_files(folder)
        if not _is_seen(file, seen.get(file.name))
    ]


def ingest(settings: Settings, ledger: Ledger, spec: PipelineSpec, *, run_id: str) -> Ingested:
    """Bring the model's tables up to date and pin them.

    Raises:
        DataError: a table cannot be read, or there is no data at all.
    """

    def judge_events(file: LandingFile, digest: str) -> "tuple[pa.Table | None, Verdict]":
        return _judge_events(file, digest, spec)

    def judge_labels(file: LandingFile, digest: str) -> "tuple[pa.Table | None, Verdict]":
        return _judge_labels(file, digest, spec)

    events = _bring_up_to_date(
        settings, ledger, spec, source=spec.source, own="raw", judge=judge_events, run_id=run_id
    )
    if spec.label.source is None:
        return Ingested(RawData(events.version, None), events.taken, events.refused)
    labels = _bring_up_to_date(
        settings,
        ledger,
        spec,
        source=spec.label.source,
        own="labels",
        judge=judge_labels,
        run_id=run_id,
    )
    return Ingested(
        RawData(events.version, labels.version),
        (*events.taken, *labels.taken),
        (*events.refused, *labels.refused),
    )


def _bring_up_to_date(
    settings: Settings,
    ledger: Ledger,
    spec: PipelineSpec,
    *,
    source: Source,
    own: str,
    judge: Judge,
    run_id: str,
) -> _Part:
    uri = source_uri(settings, spec, source, own)
    if source.table is not None:
        return _Part(pin(uri))
    folder = _folder(settings, source)
    seen = ledger.seen_files(str(folder))
    dealt_with: list[SeenFile] = []
    batches: list[Batch] = []
    refused: list[tuple[str, Verdict]] = []
    for file in list_files(folder):
        known = seen.get(file.name)
        if known is not None and known.status == "ingested" and _is_seen(file, known):
            continue
        digest = file_digest(file.path)
        table, verdict = judge(file, digest)
        status = "refused" if table is None else "ingested"
        if table is None:
            refused.append((file.name, verdict))
        else:
            batches.append(Batch(digest, file.name, table))
        dealt_with.append(
            SeenFile(file.name, file.size, file.mtime_ns, digest, status, str(verdict))
        )
    metadata = {"mlcicd.model": spec.name, "mlcicd.run_id": run_id}
    metadata["mlcicd.git_commit"] = code_state().commit
    added = set(append_files(uri, batches, metadata=metadata) if batches else ())
    # Only now: after a crash before this line the table itself says which digests it holds.
    ledger.remember_files(str(folder), dealt_with)
    taken = tuple(batch.name for batch in batches if batch.digest in added)
    return _Part(pin(uri), taken, tuple(refused))


def _judge_events(
    file: LandingFile, digest: str, spec: PipelineSpec
) -> "tuple[pa.Table | None, Verdict]":
    import polars as pl

    try:
        table = read_file(file.path, schema=event_schema(spec), time=spec.time)
    except (SchemaMismatch, UnreadableFile) as error:
        return None, _broken(digest, spec, "schema", str(error))
    report = check_batch(pl.DataFrame(table), spec)
    verdict = contract_gate(
        rows=report.rows,
        quarantined=report.quarantined.height,
        failures=[astuple(failure) for failure in report.failures],
        broken=report.broken,
        subject=digest,
        gates=spec.gates,
    )
    return (table if verdict.passed else None), verdict


def _judge_labels(
    file: LandingFile, digest: str, spec: PipelineSpec
) -> "tuple[pa.Table | None, Verdict]":
    try:
        table = read_file(file.path, schema=label_schema(spec), time=None)
    except (SchemaMismatch, UnreadableFile) as error:
        return None, _broken(digest, spec, "schema", str(error))
    nulls = sum(column.null_count for column in table.columns)
    if nulls:
        return None, _broken(digest, spec, "nullable", f"{nulls} empty fields", rows=table.num_rows)
    return table, _contract(digest, spec, rows=table.num_rows)


def _broken(digest: str, spec: PipelineSpec, rule: str, observed: str, *, rows: int = 0) -> Verdict:
    return _contract(digest, spec, rows=rows, failures=[RuleBreak(rule, observed, "as declared")])


def _contract(
    digest: str, spec: PipelineSpec, *, rows: int, failures: Sequence[RuleBreak] = ()
) -> Verdict:
    return contract_gate(
        rows=rows,
        quarantined=0,
        failures=[astuple(failure) for failure in failures],
        broken={},
        subject=digest,
        gates=spec.gates,
    )


def _folder(settings: Settings, source: Source) -> Path:
    return settings.landing / (source.landing or "")


def _is_seen(file: LandingFile, known: SeenFile | None) -> bool:
    return known is not None and (file.size, file.mtime_ns) == (known.size, known.mtime_ns)
