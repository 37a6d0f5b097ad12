"""The Fraud Detection Handbook's published benchmark, through the whole pipeline."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.endpoint import score_rows
from mlcicd_assets.io.registry import client, load_pipeline
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split
from mlcicd_assets.ml.estimator import column_arrays, model_frame
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import FeatureSet, ReportRef
from mlcicd_assets_tests.e2e.commands import job_execute
from mlcicd_assets_tests.small_model import outcomes, stored_value

MODELS = Path(__file__).parent / "models"
PUBLISHED = {"roc_auc": 0.867, "average_precision": 0.658, "entity_precision_at_100": 0.287}

pytestmark = pytest.mark.real_data


def deliver(transactions: pl.DataFrame, home: Path) -> None:
    """Daily files, one of them twice; labels in a Delta table of their own, a week later."""
    landing = home / "landing" / "handbook_transactions"
    landing.mkdir(parents=True)
    day = pl.col("TX_DATETIME").dt.date().alias("day")
    columns = ["TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT"]
    for (date,), part in transactions.group_by(day, maintain_order=True):
        part.select(columns).write_parquet(landing / f"{date}.parquet")
    first = min(landing.iterdir())
    (landing / "delivered-again.parquet").write_bytes(first.read_bytes())
    labels = transactions.select(
        "TRANSACTION_ID",
        pl.col("TX_FRAUD").cast(pl.Int64),
        (pl.col("TX_DATETIME") + timedelta(days=7))
        .dt.cast_time_unit("us")
        .dt.replace_time_zone("UTC")
        .alias("known_at"),
    )
    labels.write_delta(str(home / "lake" / "handbook_labels"))


def test_the_published_benchmark_is_reached_through_every_step(
    handbook_file: Path, server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions = pl.read_parquet(handbook_file)
    deliver(transactions, home)
    monkeypatch.setenv("MLCICD_DEFS", str(MODELS))
    done = job_execute("handbook_cicd", home)
    assert done.code == 0, done.output[-6000:]
    print(f"\nfigure cpu_seconds {done.cpu_seconds:.1f} <= 120")
    print(f"figure peak_mb {done.peak_mb:.0f} <= 4096")
    settings = Settings.from_env()
    report = stored_value("handbook", "evaluation_report", ReportRef)
    assert report.candidate.data.raw.events.rows == transactions.height
    run = client(settings).get_run(report.candidate.mlflow_run_id)
    assert run.data.metrics["train_rows"] == 67_240
    assert report.metrics["rows"] == 58_264
    assert report.metrics["positives"] == 385
    for name, published in PUBLISHED.items():
        distance = abs(report.metrics[name] - published)
        print(f"{name} {report.metrics[name]:.4f}, published {published}")
        print(f"figure {name}_from_published {distance:.4f} <= 0.01")
        assert distance <= 0.01
    assert outcomes("handbook") == ["released"]
    _check_every_score(settings, server, report.candidate.data)


def _check_every_score(settings: Settings, server: str, data: FeatureSet) -> None:
    pointer = read_pointer(settings.releases, "handbook")
    assert pointer is not None
    bundle = load_bundle(settings.releases, "handbook", pointer.digest)
    text = (MODELS / "handbook" / "defs.yaml").read_text()
    spec = PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])
    split = load_split(data, spec)
    assert split.train["label"].sum() == 598
    holdout = split.holdout
    served = score_rows(server, "handbook", column_arrays(holdout, bundle.columns), token=None)
    pipeline = load_pipeline(settings, "handbook", pointer.version)
    offline = pipeline.predict_proba(model_frame(holdout, bundle.columns))[:, 1]
    difference = float(np.max(np.abs(served - offline)))
    flipped = int(np.sum((served >= bundle.threshold) != (offline >= bundle.threshold)))
    print(f"figure rows_over_http {len(served)} == 58264")
    print(f"figure largest_score_difference {difference:.3g} <= 1e-12")
    print(f"figure decisions_flipped {flipped} == 0")
    assert len(served) == 58_264
    assert difference <= 1e-12
    assert flipped == 0
