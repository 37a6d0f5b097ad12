"""The feature step records every verdict that the endpoint will ask for."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.feature_run import MadeFeatures, make_features
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml import features
from mlcicd_assets.ml.gates import data_gates
from mlcicd_assets.ml.values import RawData
from mlcicd_assets.simulation.cards import simulate
from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets_tests.small_model import small_spec


def made(tmp_path: Path, **columns: Any) -> MadeFeatures:
    """Features of 30 days, where some columns of the last day are others."""
    settings, spec = Settings.from_env({"MLCICD_HOME": str(tmp_path)}), small_spec()
    world = simulate(CardSimulation(seed=3, customers=300, terminals=600), 30)
    end = world.transactions["tx_time"].dt.date().max()
    new = pl.col("tx_time").dt.date() == end
    values = {name: pl.when(new).then(value).otherwise(name) for name, value in columns.items()}
    events = world.transactions.with_columns(**values)
    labels = world.labels.filter(pl.col("known_at").dt.date() <= end)
    uris = [str(tmp_path / name) for name in ("raw", "labels")]
    for uri, frame in zip(uris, (events, labels), strict=True):
        frame.write_delta(uri)
    return make_features(settings, spec, RawData(*map(pin, uris)), run_id="r")


def test_every_gate_for_data_has_its_verdict_on_the_feature_table(tmp_path: Path) -> None:
    run = made(tmp_path)
    verdicts = {verdict.gate: verdict for verdict in run.verdicts}
    assert verdicts.keys() == {gate.name for gate in data_gates(small_spec().gates)}
    assert {verdict.subject for verdict in verdicts.values()} == {run.data.fingerprint}
    assert [str(verdict) for verdict in verdicts.values() if not verdict.passed] == []


@pytest.mark.parametrize(
    ("columns", "gate", "words"),
    [
        ({"amount": pl.col("amount") / 100}, "column_history", "amount has a median size"),
        ({"amount": pl.col("amount") - 10_000}, "contract", "amount:min quarantined"),
        ({"tx_time": pl.col("tx_time").dt.offset_by("9d")}, "freshness", "no event between"),
    ],
)
def test_a_bad_day_fails_its_gate(tmp_path: Path, columns: Any, gate: str, words: str) -> None:
    failed = {verdict.gate: str(verdict) for verdict in made(tmp_path, **columns).verdicts}
    assert words in failed[gate]
    assert "FAILED" in failed[gate]


def test_a_feature_that_sees_the_future_fails_its_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hour of the newest payment of all: known only at the end.
    newest = pl.col("tx_time").max().dt.timestamp().cast(pl.Float64)
    monkeypatch.setattr(features, "_calendar", lambda *_: newest)
    failed = {v.gate: str(v) for v in made(tmp_path).verdicts if not v.passed}
    assert "hour in" in failed["point_in_time"]
