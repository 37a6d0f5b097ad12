"""A second model by YAML alone: foreign table, label as a column, text features, CSV landing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from mlcicd_assets import definitions
from mlcicd_assets.io.endpoint import predict_row
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings

CHURN = """
type: mlcicd_assets.components.ModelPipeline
attributes:
  name: churn
  description: Will this customer leave?
  owners: [ada@example.org]
  source: {source}
  key: [contact]
  time: {{column: at, format: "%d.%m.%Y %H:%M", zone: Europe/Vienna}}
  label: {{column: left_us, positive: "yes"}}
  contract:
    columns:
      contact: {{type: integer}}
      at: {{type: timestamp}}
      plan: {{type: string, categories: [basic, plus, pro]}}
      region: {{type: string, nullable: true}}
      tickets: {{type: integer, min: 0}}
      spend: {{type: number, nullable: true}}
      is_new: {{type: boolean}}
      left_us: {{type: string, categories: ["yes", "no"]}}
  features:
    columns: [plan, region, tickets, spend, is_new]
    calendar: [weekday, month]
  split: {{holdout_days: 10}}
  training: {{estimator: LogisticRegression, parameters: {{max_iter: 500}}}}
  gates:
    features: {{max_null_share: 0.4}}
    floors: {{roc_auc: 0.7}}
"""


def contacts(rows: int = 4_000) -> pl.DataFrame:
    rng = np.random.default_rng(4)
    tickets = rng.poisson(1.5, rows)
    plan = rng.choice(["basic", "plus", "pro"], rows)
    start = datetime(2026, 1, 31, tzinfo=UTC)
    chance = 1 / (1 + np.exp(3 - tickets - (plan == "basic")))
    return pl.DataFrame(
        {
            "contact": np.arange(rows),
            "at": [start + timedelta(minutes=15 * n) for n in range(rows)],
            "plan": plan,
            "region": pl.Series(rng.choice(["north", "south", ""], rows)).replace({"": None}),
            "tickets": tickets,
            "spend": pl.Series(rng.normal(50, 10, rows)).set(pl.Series(tickets == 7), None),
            "is_new": rng.random(rows) < 0.5,
            "left_us": np.where(rng.random(rows) < chance, "yes", "no"),
        }
    )


def as_written(frame: pl.DataFrame) -> pl.DataFrame:
    """The times as the source system writes them: local text without a zone."""
    local = pl.col("at").dt.convert_time_zone("Europe/Vienna").dt.strftime("%d.%m.%Y %H:%M")
    return frame.with_columns(local)


@pytest.fixture(params=["csv", "table"])
def planted(
    request: pytest.FixtureRequest, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = contacts()
    if request.param == "csv":
        source = "{landing: churn}"
        folder = home / "landing" / "churn"
        folder.mkdir(parents=True)
        half = frame.height // 2
        as_written(frame[:half]).write_csv(folder / "first.csv")
        as_written(frame[half:]).write_csv(folder / "second.csv")
    else:
        source = "{table: crm/contacts}"
        narrow = frame.with_columns(pl.col("tickets").cast(pl.Int32))
        narrow.write_delta(str(home / "lake" / "crm" / "contacts"))
    model = tmp_path / "models" / "churn"
    model.mkdir(parents=True)
    (model / "defs.yaml").write_text(CHURN.format(source=source))
    shipped = Path(definitions.packaged.__file__).parent / "card_fraud"
    (tmp_path / "models" / "card_fraud").symlink_to(shipped)
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path / "models"))


def test_a_second_model_is_delivered_by_yaml_alone(planted: None, server: str) -> None:
    loaded = definitions.defs()
    assert len(loaded.resolve_all_asset_specs()) == 12
    job = loaded.resolve_job_def("churn_cicd")
    with dg.DagsterInstance.ephemeral() as instance:
        assert job.execute_in_process(instance=instance).success
    live = Ledger(Settings.from_env().ledger_url).live("churn")
    assert live is not None
    row = {"plan": "basic", "region": None, "tickets": 4, "spend": 51.5, "is_new": True}
    row |= {"weekday": 2, "month": 3}
    answer = predict_row(server, "churn", row, token=None)
    calm = predict_row(server, "churn", {**row, "plan": "pro", "tickets": 0}, token=None)
    assert answer["score"] > 0.5 > calm["score"]
