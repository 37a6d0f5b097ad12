"""A card-fraud model small enough for tests: its spec, its data, and a way to run its job."""

import copy
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import msgspec
import polars as pl
import yaml

from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets.simulation.cards import Simulated, simulate
from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets.simulation.landing import write_landing
from mlcicd_assets_tests.conftest import ROOT

MODEL = "card_fraud"
WORLD = CardSimulation(seed=3, customers=500, terminals=1_000, compromise_rate=0.0005)
DAYS = 45


def attributes(**changes: Any) -> dict[str, Any]:
    """The shipped card_fraud spec, cut down; `section__field=value` changes a field."""
    path = ROOT / "mlcicd_assets/defs/card_fraud/defs.yaml"
    plain = copy.deepcopy(yaml.safe_load(path.read_text())["attributes"])
    plain["features"]["windows"] = [
        {"entity": "customer_id", "days": [1, 7], "stats": ["count", "mean"], "of": "amount"},
        {
            "entity": "terminal_id",
            "days": [7],
            "stats": ["count", "label_rate"],
            "delay_days": 7,
        },
    ]
    plain["contract"]["rows"] = {"min": 100, "max": 5_000}  # of one file, not of the table
    plain["split"]["holdout_days"] = 10
    plain["training"]["parameters"] = {"max_iter": 30, "learning_rate": 0.1}
    plain["gates"]["floors"] = {"roc_auc": 0.6, "average_precision": 0.1}
    plain["gates"]["costs"] = None  # a weak model saves nothing
    plain["gates"]["champion"]["min_positives"] = 5
    for dotted, value in changes.items():
        *sections, field = dotted.split("__")
        place = plain
        for section in sections:
            place = place[section]
        place[field] = value
    return plain


def small_spec(**changes: Any) -> PipelineSpec:
    return PipelineSpec.model_validate(attributes(**changes))


def deliver_days(days: int = DAYS) -> Simulated:
    """Put the landing files of the first days into this environment's landing folders."""
    landing = Settings.from_env().landing
    simulated = simulate(WORLD, days)
    write_landing(
        simulated,
        transactions_folder=landing / "card_transactions",
        labels_folder=landing / "card_labels",
    )
    return simulated


def run_job(
    spec: PipelineSpec, *, only: str | None = None, config: dict[str, Any] | None = None
) -> dg.ExecuteInProcessResult:
    """Run `<model>_cicd`, or one asset of it, in this process; a failure is a result."""
    job = build_pipeline(spec).resolve_job_def(f"{spec.name}_cicd")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([spec.name, only])] if only else None,
            run_config={"ops": {f"{spec.name}__{only}": {"config": config}}} if config else None,
            raise_on_error=False,
        )


def metadata(result: dg.ExecuteInProcessResult, asset: str, model: str = MODEL) -> dict[str, Any]:
    """The metadata of one asset's materialization in a run, as plain values."""
    events = result.asset_materializations_for_node(f"{model}__{asset}")
    assert len(events) == 1, f"{asset} materialized {len(events)} times"
    return {name: value.value for name, value in events[0].metadata.items()}


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Name and description of the checks that failed in a run."""
    found = result.get_asset_check_evaluations()
    return {check.check_name: check.description or "" for check in found if not check.passed}


def ledger() -> Ledger:
    return Ledger(Settings.from_env().ledger_url)


def outcomes(model: str = MODEL) -> list[str]:
    return [entry.body["outcome"] for entry in ledger().entries(model=model, kinds=("outcome",))]


def write_batch(name: str, **columns: Any) -> Path:
    """One more landing file of transactions: a copy of the newest with some columns changed."""
    folder = Settings.from_env().landing / "card_transactions"
    newest = pl.read_parquet(max(folder.glob("transactions-*.parquet")))
    frame = newest.with_columns(
        pl.col("transaction_id") + 10_000_000,
        pl.col("tx_time") + pl.duration(seconds=1),
    ).with_columns(**columns)
    path = folder / name
    frame.write_parquet(path)
    return path


Value = TypeVar("Value")


def stored_value(model: str, asset: str, kind: type[Value]) -> Value:
    """The value that an asset handed on last."""
    path = Settings.from_env().values / model / f"{asset}.json"
    return msgspec.json.decode(path.read_bytes(), type=kind)
