"""Make the feature table of pinned raw data: contract, quarantine, features, data gates."""

import hashlib
import json
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Final

from mlcicd_assets.io.delta import replace, scan
from mlcicd_assets.io.ingest import table_uri
from mlcicd_assets.io.landing import normalise
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.contract import check_batch, event_schema, label_schema
from mlcicd_assets.ml.data_gates import (
    FeatureStats,
    contract_gate,
    feature_sanity_gate,
    history_gates,
    point_in_time_gate,
)
from mlcicd_assets.ml.features import as_of, compute_features
from mlcicd_assets.ml.history import make_history
from mlcicd_assets.ml.point_in_time import future_seen
from mlcicd_assets.ml.schema import feature_columns, feature_definitions
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import FeatureSet, RawData, TableVersion, Verdict

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

SAMPLE_ROWS: Final = 5
SAMPLE_TEXT: Final = 60  # characters of a value


@dataclass(frozen=True)
class MadeFeatures:
    """The pinned feature set, its verdicts, and what was quarantined why."""

    data: FeatureSet
    verdicts: tuple[Verdict, ...]
    quarantined_rows: int
    quarantined_by_rule: dict[str, int]
    quarantine_sample: tuple[dict[str, str], ...]
    quarantine_uri: str
    columns: tuple[tuple[str, str], ...]


def make_features(
    settings: Settings, spec: PipelineSpec, raw: RawData, *, run_id: str
) -> MadeFeatures:
    """Validate the pinned events, compute features, write both tables once per content.

    Raises:
        DataError: a table is gone, is not the one that was pinned, or has another schema.
    """
    import polars as pl

    events, labels = load_raw(spec, raw)
    report = check_batch(events, spec)
    frame = compute_features(report.good.lazy(), None if labels is None else labels.lazy(), spec)
    moment = as_of(report.good.lazy(), None if labels is None else labels.lazy(), spec)
    key = _key(raw, spec)
    metadata = {"mlcicd.model": spec.name, "mlcicd.run_id": run_id}
    features = replace(table_uri(settings, spec, "features"), frame, metadata=metadata, key=key)
    quarantine_uri = table_uri(settings, spec, "quarantine")
    quarantined = report.quarantined.with_columns(pl.lit(raw.events.version).alias("raw_version"))
    replace(quarantine_uri, quarantined, metadata=metadata, key=key)
    data = FeatureSet(features, raw, moment.isoformat())
    contract = contract_gate(
        rows=report.rows,
        quarantined=report.quarantined.height,
        failures=[
            astuple(failure)
            for failure in report.failures
            # The bounds are for one batch: landing files were counted one by one.
            if not (failure.rule == "rows" and spec.source.landing)
        ],
        broken=report.broken,
        subject=features.fingerprint,
        gates=spec.gates,
    )
    sanity = feature_sanity_gate(
        _stats(frame, spec), rows=frame.height, subject=features.fingerprint, gates=spec.gates
    )
    changed, judged = future_seen(report.good, labels, frame, spec)
    history = make_history(report.good, labels, moment, spec)
    verdicts = (
        contract,
        sanity,
        point_in_time_gate(changed, rows=judged, subject=features.fingerprint, gates=spec.gates),
        *history_gates(history, subject=features.fingerprint, gates=spec.gates),
    )
    columns = tuple((name, str(kind)) for name, kind in frame.schema.items())
    return MadeFeatures(
        data=data,
        verdicts=verdicts,
        quarantined_rows=quarantined.height,
        quarantined_by_rule=report.broken,
        quarantine_sample=tuple(
            {name: str(value)[:SAMPLE_TEXT] for name, value in row.items()}
            for row in quarantined.select("broken_rules", pl.exclude("broken_rules"))
            .head(SAMPLE_ROWS)
            .iter_rows(named=True)
        ),
        quarantine_uri=quarantine_uri,
        columns=columns,
    )


def load_raw(spec: PipelineSpec, raw: RawData) -> "tuple[pl.DataFrame, pl.DataFrame | None]":
    """Read the pinned events and labels as exactly the contract's types."""
    events = _exact(raw.events, event_schema(spec), spec, is_events=True)
    if raw.labels is None:
        return events, None
    return events, _exact(raw.labels, label_schema(spec), spec, is_events=False)


def _exact(
    version: TableVersion, schema: "pa.Schema", spec: PipelineSpec, *, is_events: bool
) -> "pl.DataFrame":
    """A foreign table may store narrower types; the same written list decides as for files."""
    import polars as pl

    table = scan(version).collect().to_arrow()
    time = spec.time if is_events else None
    return pl.DataFrame(normalise(table, schema=schema, time=time, what=str(version)))


def _key(raw: RawData, spec: PipelineSpec) -> str:
    """Name the content of the feature table by all that it is made from."""
    parts = {
        "events": raw.events.fingerprint,
        "labels": raw.labels.fingerprint if raw.labels else None,
        "definitions": feature_definitions(spec),
        "contract": spec.contract.model_dump(mode="json"),
        "read_by_gates": spec.gates.columns(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _stats(frame: "pl.DataFrame", spec: PipelineSpec) -> list[FeatureStats]:
    names = [column.name for column in feature_columns(spec)]
    return [
        FeatureStats(
            name,
            null_share=frame[name].null_count() / max(frame.height, 1),
            distinct=min(frame[name].drop_nulls().n_unique(), 2),
        )
        for name in names
    ]
