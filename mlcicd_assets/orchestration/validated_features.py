"""Asset `validated_features`: contract, then features, both on pinned versions."""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from mlcicd_assets.io.booking import book_verdicts
from mlcicd_assets.io.delta_faults import readable
from mlcicd_assets.io.feature_run import make_features
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.features import KNOWN_AT, LABEL
from mlcicd_assets.ml.gates import data_gates
from mlcicd_assets.ml.schema import feature_columns, window_name
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import RawData
from mlcicd_assets.orchestration.wiring import asset_for, check_results, open_ledger


def validated_features(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset."""

    @asset_for(
        spec,
        "validated_features",
        description="Rows that meet the contract, as point-in-time features; the rest quarantined.",
        kinds={"polars", "deltalake"},
        upstream="raw_data",
        gates=data_gates(spec.gates),
        code=[spec.contract, spec.features, spec.label, spec.key, spec.gates],
    )
    def _validated_features(context: dg.AssetExecutionContext, upstream: RawData):
        settings = Settings.from_env()
        ledger = open_ledger(settings, spec)
        with readable(*filter(None, (upstream.events, upstream.labels))):
            made = make_features(
                settings,
                spec,
                upstream,
                run_id=context.run.run_id,
                memory=ledger,
                tell=context.log.info,
            )
        overridden = book_verdicts(
            settings,
            ledger,
            made.verdicts,
            raw=upstream,
            model=spec.name,
            gates=spec.gates,
            run_id=context.run.run_id,
        )
        features = made.data.features
        return dg.MaterializeResult(
            value=made.data,
            data_version=dg.DataVersion(made.data.fingerprint),
            check_results=check_results(context, made.verdicts, overridden),
            metadata={
                "dagster/row_count": features.rows,
                "table": str(features),
                "table_version": features.version,
                "fingerprint": made.data.fingerprint,
                "days_made": made.days_made,
                "as_of": made.data.as_of,
                "raw_table": str(upstream.events),
                "quarantined_rows": made.quarantined_rows,
                "quarantined_by_rule": _table(
                    {"rule": rule, "rows": rows} for rule, rows in made.quarantined_by_rule.items()
                ),
                "quarantined_sample": _table(made.quarantine_sample),
                "quarantine_table": made.quarantine_uri,
                **{f"quarantined/{rule}": n for rule, n in made.quarantined_by_rule.items()},
                **_columns(made.columns, spec),
            },
        )

    return _validated_features


def _table(rows: Iterable[Mapping[str, str | int]]) -> dg.MetadataValue:
    records = [dg.TableRecord(dict(row)) for row in rows]
    return dg.MetadataValue.table(records) if records else dg.MetadataValue.text("none")


def _made_of(spec: PipelineSpec) -> dict[str, tuple[str, ...]]:
    """Name the raw columns behind each feature; any other column is what it was."""
    made = dict[str, tuple[str | None, ...]].fromkeys(spec.features.calendar, (spec.time.column,))
    for windows in spec.features.windows:
        values = {"mean": windows.of, "label_rate": spec.label.column}
        for stat in windows.stats:
            of = (windows.entity, spec.time.column, values.get(stat))
            made |= {window_name(windows, stat, days): of for days in windows.days}
    made |= {LABEL: (spec.label.column,), KNOWN_AT: (spec.label.column, spec.time.column)}
    return {name: tuple(filter(None, of)) for name, of in made.items()}


def _columns(columns: Iterable[tuple[str, str]], spec: PipelineSpec) -> dict[str, Any]:
    """Schema and lineage of the feature table (Dagster shows the lineage in Dagster+ only)."""
    raw, made = dg.AssetKey([spec.name, "raw_data"]), _made_of(spec)
    inputs = {column.name for column in feature_columns(spec)}
    described: list[dg.TableColumn] = []
    lineage: dict[str, list[dg.TableColumnDep]] = {}
    for name, kind in columns:
        told = "model input" if name in inputs else "not seen by the model"
        told += f", made of {', '.join(made[name])}" if name in made else ", as in the raw data"
        described.append(dg.TableColumn(name, kind, description=told))
        lineage[name] = [dg.TableColumnDep(raw, of) for of in made.get(name, (name,))]
    return {
        "dagster/column_schema": dg.TableSchema(described),
        "dagster/column_lineage": dg.TableColumnLineage(lineage),
    }
