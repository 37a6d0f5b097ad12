"""Asset `raw_data`: new landing files into Delta effectively once, or a foreign table pinned."""

from dataclasses import replace

import dagster as dg

from mlcicd_assets.io.booking import book_verdicts
from mlcicd_assets.io.ingest import Ingested, ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.data_gates import CONTRACT, contract_gate
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import Verdict
from mlcicd_assets.orchestration.wiring import asset_for, check_results, open_ledger


def raw_data(spec: PipelineSpec) -> dg.AssetsDefinition:
    """Build the asset."""

    @asset_for(
        spec,
        "raw_data",
        description="Events and labels as pinned versions of Delta tables.",
        kinds={"deltalake"},
        gates=[CONTRACT],
        code=[spec.source, spec.label, spec.contract, spec.time],
        fresh_hours=spec.freshness_hours,
    )
    def _raw_data(context: dg.AssetExecutionContext):
        settings = Settings.from_env()
        ledger = open_ledger(settings, spec)
        taken = ingest(settings, ledger, spec, run_id=context.run.run_id)
        verdict = _summary(taken, spec)
        overridden = book_verdicts(
            settings,
            ledger,
            [verdict],
            raw=None,
            model=spec.name,
            gates=spec.gates,
            run_id=context.run.run_id,
        )
        events, labels = taken.raw.events, taken.raw.labels
        return dg.MaterializeResult(
            value=taken.raw,
            data_version=dg.DataVersion(
                f"{events.fingerprint}/{labels.fingerprint if labels else '-'}"
            ),
            check_results=check_results(context, [verdict], overridden),
            metadata={
                "dagster/row_count": events.rows,
                "dagster/column_schema": _schema(spec),
                "table": str(events),
                "table_version": events.version,
                "fingerprint": events.fingerprint,
                "labels": labels.rows if labels else 0,
                "labels_table": str(labels) if labels else "a column of the events",
                "new_files": len(taken.taken),
                "refused_files": len(taken.refused),
            },
        )

    return _raw_data


def _schema(spec: PipelineSpec) -> dg.TableSchema:
    """The contract as a table schema; a label from a source of its own comes last."""
    columns: list[dg.TableColumn] = []
    for name, rule in spec.contract.columns.items():
        rules = rule.model_dump(exclude_defaults=True, exclude={"type"})
        told = "; ".join(f"{field} {value}" for field, value in rules.items())
        nullable = dg.TableColumnConstraints(nullable=rule.nullable)
        columns.append(dg.TableColumn(name, rule.type, description=told, constraints=nullable))
    if spec.label.source:
        told = f"in a table of its own, known from {spec.label.known_at} on"
        columns.append(dg.TableColumn(spec.label.column, "label", description=told))
    return dg.TableSchema(columns)


def _summary(taken: Ingested, spec: PipelineSpec) -> Verdict:
    """One verdict on all that was delivered: the first refused file, or that none was."""
    if not taken.refused:
        return contract_gate(
            rows=taken.raw.events.rows,
            quarantined=0,
            failures=(),
            broken={},
            subject=taken.raw.events.fingerprint,
            gates=spec.gates,
        )
    name, first = taken.refused[0]
    more = f"; {len(taken.refused) - 1} more files refused" if len(taken.refused) > 1 else ""
    remedy = "correct the file or remove it; all other files were taken"
    return replace(first, detail=f"landing file {name}: {first.detail}{more}; {remedy}")
