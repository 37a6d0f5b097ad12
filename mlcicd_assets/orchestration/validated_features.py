"""Asset `validated_features`: contract, then features, both on pinned versions."""

import dagster as dg

from mlcicd_assets.io.booking import book_verdicts
from mlcicd_assets.io.feature_run import make_features
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gates import data_gates
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
        made = make_features(settings, spec, upstream, run_id=context.run.run_id)
        overridden = book_verdicts(
            settings,
            open_ledger(settings),
            made.verdicts,
            raw=upstream,
            model=spec.name,
            gates=spec.gates,
            run_id=context.run.run_id,
        )
        features = made.data.features
        return dg.MaterializeResult(
            value=made.data,
            data_version=dg.DataVersion(features.fingerprint),
            check_results=check_results(context, made.verdicts, overridden),
            metadata={
                "dagster/row_count": features.rows,
                "table": str(features),
                "table_version": features.version,
                "fingerprint": features.fingerprint,
                "as_of": made.data.as_of,
                "raw_table": str(upstream.events),
                "quarantined_rows": made.quarantined_rows,
                "quarantined_by_rule": made.quarantined_by_rule,
                "quarantine_table": made.quarantine_uri,
                "dagster/column_schema": dg.TableSchema(
                    [dg.TableColumn(name, kind) for name, kind in made.columns]
                ),
            },
        )

    return _validated_features
