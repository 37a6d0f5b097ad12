"""A second real model by YAML alone: UCI Bank Marketing, delivered month by month."""

import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.evaluation_run import evaluate
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets_tests.e2e.commands import job_execute
from mlcicd_assets_tests.small_model import (
    failed_checks,
    ledger,
    metadata,
    outcomes,
    run_job,
    stored_value,
)

MODELS = Path(__file__).parent / "models"
FIRST_MONTHS = 20

pytestmark = pytest.mark.real_data


def months(contacts: pl.DataFrame) -> list[pl.DataFrame]:
    """The contacts of each month in the order of delivery, with a key and plain names."""
    numbered = contacts.rename(lambda name: name.replace(".", "_")).with_row_index("contact_id")
    dated = numbered.with_columns(pl.col("contact_month") + "-01")
    return dated.partition_by("contact_month", maintain_order=True)


def deliver(parts: list[pl.DataFrame]) -> None:
    landing = Settings.from_env().landing / "bank_contacts"
    landing.mkdir(parents=True, exist_ok=True)
    for part in parts:
        part.write_parquet(landing / f"{part['contact_month'][0]}.parquet")


def bank(*more_features: str) -> PipelineSpec:
    plain = yaml.safe_load((MODELS / "bank" / "defs.yaml").read_text())["attributes"]
    plain["features"]["columns"] += more_features
    return PipelineSpec.model_validate(plain)


def test_bank_marketing_month_by_month(
    handbook_file: Path, server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = months(pl.read_parquet(handbook_file.with_name("bank_marketing_2008_2010.parquet")))
    assert len(parts) == 26
    deliver(parts[:FIRST_MONTHS])
    first = run_job(bank())
    assert failed_checks(first) == {}
    assert metadata(first, "deployed_endpoint", "bank")["outcome"] == "released"
    deliver(parts[FIRST_MONTHS:])
    _check_leak()
    monkeypatch.setenv("MLCICD_DEFS", str(MODELS))
    done = job_execute("bank_cicd", home)
    assert done.code == 0, done.output[-6000:]
    report = stored_value("bank", "evaluation_report", ReportRef)
    _check_figures(report)
    assert outcomes("bank") == ["released", "blocked", "kept"]
    # 2009-05 lies on both sides of the cut: the champion may have seen any row of it.
    (paired,) = (
        entry.body
        for entry in ledger().entries(model="bank", kinds=("verdict",))
        if entry.body["gate"] == "not_worse_than_champion"
        and entry.body["subject"] == report.candidate.digest
    )
    assert paired["sample_size"] == sum(part.height for part in parts[10:]) == 4_964
    status = model_status(server, "bank", token=None)
    assert status is not None
    assert status.version == 1


def _check_leak() -> None:
    """A duration is known when the call is over: with it the model is blocked, by name."""
    leaky = run_job(bank("duration"))
    assert not leaky.success
    failed = failed_checks(leaky)
    assert list(failed) == ["leakage"]
    highest = re.findall(r"(\w+) (0\.\d{3})", failed["leakage"].split("highest alone: ")[1])
    names, aucs = zip(*((name, float(auc)) for name, auc in highest), strict=True)
    print(f"\nfigure bank_duration_auc {aucs[0]} >= 0.88")
    print(f"figure bank_next_feature_auc {aucs[1]} <= 0.65")
    assert "duration alone has ROC AUC" in failed["leakage"]
    assert (names[0], names[1]) == ("duration", "month")
    assert aucs[0] >= 0.88
    assert aucs[1] <= 0.65


def _check_figures(report: ReportRef) -> None:
    split = load_split(report.candidate.data, bank())
    assert split.train["contact_id"].to_list() == list(range(32_950))
    assert split.holdout["contact_id"].to_list() == list(range(32_950, 41_188))
    in_time, at_random = report.metrics["roc_auc"], report.metrics["random_split_roc_auc"]
    print(f"figure bank_roc_auc {in_time:.4f} >= 0.62")
    print(f"figure bank_roc_auc_max {in_time:.4f} <= 0.66")
    print(f"figure bank_random_split {at_random:.4f} >= 0.78")
    assert 0.62 <= in_time <= 0.66
    assert at_random >= 0.78
    # A floor for it is a mistake, and blocks.
    gates = bank().gates.model_copy(update={"floors": {"random_split_roc_auc": 0.5}})
    judged = bank().model_copy(update={"gates": gates})
    made = evaluate(Settings.from_env(), judged, report.candidate, live=ledger().live(judged.name))
    floors = {verdict.gate: verdict for verdict in made.verdicts}["metric_floors"]
    assert floors.passed is False
    assert "there is no metric random_split_roc_auc" in floors.detail
