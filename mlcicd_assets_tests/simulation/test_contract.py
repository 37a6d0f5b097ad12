"""The simulated data are what the card_fraud model and data/README.md say they are."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest
import yaml

from mlcicd_assets.ml.contract import check_batch, check_schema, event_schema, label_schema
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.simulation.cards import Simulated, simulate
from mlcicd_assets.simulation.config import CardSimulation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    text = (ROOT / "mlcicd_assets/defs/card_fraud/defs.yaml").read_text()
    return PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return simulate(CardSimulation(8, leak_rate=0.02), 6)


def test_payments_meet_the_contract(simulated: Simulated, spec: PipelineSpec) -> None:
    found = simulated.transactions.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    assert found.names == event_schema(spec).names
    report = check_batch(simulated.transactions, spec)
    assert report.failures == ()
    assert report.broken == {}
    assert report.good.height == simulated.transactions.height


def test_types_are_those_of_the_contract(simulated: Simulated) -> None:
    utc = pl.Datetime("us", "UTC")
    assert simulated.transactions.schema == {
        "transaction_id": pl.Int64,
        "tx_time": utc,
        "customer_id": pl.Int64,
        "terminal_id": pl.Int64,
        "amount": pl.Float64,
        "channel": pl.String,
        "card_limit": pl.Float64,
    }
    assert simulated.labels.schema == {
        "transaction_id": pl.Int64,
        "is_fraud": pl.Int64,
        "known_at": utc,
    }


def test_labels_have_the_schema_of_the_spec(simulated: Simulated, spec: PipelineSpec) -> None:
    found = simulated.labels.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    check_schema(found, label_schema(spec), what="labels")
    assert simulated.labels["transaction_id"].is_unique().all()


def test_amounts_are_cents_and_even_thieves_stop_at_the_limit() -> None:
    payments = simulate(CardSimulation(8, leak_rate=0.5), 6).transactions
    amount, limit = payments["amount"], payments["card_limit"]
    assert amount.min() >= 0
    assert (amount - amount.round(2)).abs().max() == 0
    assert (amount <= limit).all()
    assert (amount == limit).any()


def test_no_column_tells_the_fraud(simulated: Simulated) -> None:
    assert "fraud" not in " ".join(simulated.transactions.columns)
    assert simulated.transactions["tx_time"].dt.date().min() == date(2026, 1, 1)


def test_the_data_readme_describes_every_column(spec: PipelineSpec) -> None:
    readme = (ROOT / "data/README.md").read_text()
    names = [*spec.contract.columns, *spec.key, spec.label.column, spec.label.known_at]
    names += [column.name for column in feature_columns(spec)]
    names += ["label", "label_known_at", "broken_rules"]
    assert [name for name in names if f"`{name}`" not in readme] == []
