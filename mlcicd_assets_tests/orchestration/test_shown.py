"""What people see in the Dagster UI: pictures, numbers, tables, links, and nothing in the way."""

import base64
import io
import re
from datetime import timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from mlcicd_assets.io import feature_run
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import client
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.values import ModelVersionRef
from mlcicd_assets.orchestration import evaluation_report
from mlcicd_assets.orchestration.deployed_endpoint import _last_outcomes
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets.orchestration.raw_data import _schema
from mlcicd_assets.orchestration.trained_model import _links
from mlcicd_assets.orchestration.validated_features import _columns
from mlcicd_assets.orchestration.wiring import INLINE, inline
from mlcicd_assets_tests.ml.specs import small_spec as any_spec
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    ledger,
    metadata,
    run_job,
    small_spec,
    stored_value,
    write_batch,
)

PICTURES = ["precision_recall", "roc", "calibration", "importance"]


def shown(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, dg.MetadataValue]:
    (event,) = result.asset_materializations_for_node(f"{MODEL}__{asset}")
    return dict(event.metadata)


def pictures(markdown: str) -> list[tuple[int, int]]:
    found = re.findall(r"base64,([^)]+)\)", markdown)
    return [Image.open(io.BytesIO(base64.b64decode(png))).size for png in found]


@pytest.mark.pictures
@pytest.mark.ci
def test_each_asset_shows_what_a_person_needs(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_run, "SAMPLE_TEXT", 12)
    deliver_days()
    weak = {"training__parameters": {"max_iter": 1, "max_leaf_nodes": 2}}
    first = run_job(small_spec(**weak, gates__floors={"roc_auc": 0.1}))
    assert metadata(first, "deployed_endpoint")["rollback"].startswith(f"'{MODEL}' has no earlier")
    bad = pl.when(pl.int_range(pl.len()) < 7).then(-5.0).otherwise("amount")
    write_batch("transactions-some.parquet", amount=bad)
    spec = small_spec(gates__floors={"roc_auc": 0.1}, gates__history={"max_duplicate_share": 1})
    result = run_job(spec)
    assert result.success

    features = shown(result, "validated_features")
    numbers = {name: value.value for name, value in features.items()}
    assert numbers["quarantined/amount:min"] == 7
    (rule,) = features["quarantined_by_rule"].records
    assert rule.data == {"rule": "amount:min", "rows": 7}
    sample = [record.data for record in features["quarantined_sample"].records]
    assert [row["amount"] for row in sample] == ["-5.0"] * 5
    assert sample[0]["broken_rules"] == "['amount:min"
    schema = {column.name: column for column in numbers["dagster/column_schema"].columns}
    told = "model input, made of customer_id, tx_time, amount"
    assert schema["customer_id_mean_amount_7d"].description == told
    assert schema["transaction_id"].description == "not seen by the model, as in the raw data"

    report = shown(result, "evaluation_report")
    assert report["champion_version"].value == 1
    for name in PICTURES:
        assert len(report[f"picture/{name}"].value) < INLINE
        assert pictures(report[f"picture/{name}"].value) == [(200, 120)]
    assert pictures(report["pictures"].value) == [(560, 360)] * len(PICTURES)
    assert isinstance(report["alert_rate"], dg.FloatMetadataValue)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    compared = checks["not_worse_than_champion"].metadata
    assert compared["difference"].value == pytest.approx(
        compared["candidate"].value - compared["champion"].value
    )

    model = metadata(result, "trained_model")
    assert model["training_positives"] > 0
    assert 1 < model["bundle_kilobytes"] < 1_000
    assert (
        model["mlflow_command"]
        == f"mlflow ui --backend-store-uri {Settings.from_env().tracking_uri}"
    )

    endpoint = metadata(result, "deployed_endpoint")
    assert endpoint["outcome"] == "released", endpoint["reason"]
    assert endpoint["rollback"] == f"to v1: mlcicd rollback {MODEL} --reason '...'"
    live = ledger().live(MODEL)
    assert live is not None
    assert shown(result, "deployed_endpoint")["live_since"].value == pytest.approx(
        pl.Series([live.at]).str.to_datetime(time_zone="UTC").dt.timestamp("us")[0] / 1e6, abs=1
    )
    rows = endpoint["last_outcomes"].splitlines()[2:]
    assert ["| released | 2 |" in rows[0], "| released | 1 |" in rows[1]] == [True, True]


@pytest.mark.parametrize("name", ["draw", "draw_small"])
def test_a_picture_that_cannot_be_drawn_or_shown_holds_up_no_release(
    name: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_font(*_: object) -> bytes:
        if name == "draw":
            raise OSError("no font")
        return b"x" * 2_000  # more than the UI shows without a click

    deliver_days()
    monkeypatch.setattr(evaluation_report, name, no_font)
    result = run_job(small_spec())
    assert metadata(result, "deployed_endpoint")["outcome"] == "released"
    report = metadata(result, "evaluation_report")
    assert ("pictures" in report) == (name == "draw_small")
    assert not any(key.startswith("picture/") for key in report)


def test_markdown_is_cut_after_a_whole_line_below_what_the_ui_shows() -> None:
    assert inline("short\n").value == "short\n"
    text = inline("x" * 99 + "\n" + "y" * 2_000)
    assert text.value == "x" * 99
    lines = inline("a line\n" * 500).value
    assert len(lines) < INLINE
    assert lines.endswith("a line")


def test_of_many_outcomes_the_last_five_are_shown_newest_first(home: Any) -> None:
    book = Ledger(Settings.from_env().ledger_url)
    for number in range(8):
        why = f"run {number}: a | b " + "and so on " * 50
        book.record_outcome(MODEL, "kept", reason=why, data={}, run_id="r")
    text = _last_outcomes(book.entries(model=MODEL))
    assert re.findall(r"run (\d)", text) == list("76543")
    assert len(text) < INLINE
    assert {line.count("|") for line in text.splitlines()} == {5}


def test_a_feature_names_the_raw_columns_that_it_is_made_of() -> None:
    spec = small_spec()
    names = ["hour", "amount", "terminal_id_label_rate_7d", "customer_id_mean_amount_1d", "label"]
    lineage = _columns([(name, "") for name in names], spec)["dagster/column_lineage"]
    found = {
        name: [dep.column_name for dep in deps] for name, deps in lineage.deps_by_column.items()
    }
    assert found == {
        "hour": ["tx_time"],
        "amount": ["amount"],
        "terminal_id_label_rate_7d": ["is_fraud", "terminal_id", "tx_time"],
        "customer_id_mean_amount_1d": ["amount", "customer_id", "tx_time"],
        "label": ["is_fraud"],
    }
    raw = {column.name for column in _schema(spec).columns}
    assert {name for names in found.values() for name in names} <= raw


def test_the_raw_schema_is_the_contract_in_words() -> None:
    columns = {column.name: column for column in _schema(small_spec()).columns}
    assert "max 100000" in columns["amount"].description
    assert not columns["amount"].constraints.nullable
    assert "table of its own" in columns["is_fraud"].description


def test_freshness_warns_after_the_hours_of_the_spec() -> None:
    def policy(**changes: Any) -> Any:
        graph = build_pipeline(small_spec(**changes)).resolve_asset_graph()
        return graph.get(dg.AssetKey([MODEL, "raw_data"])).freshness_policy

    fresh = policy(freshness_hours=30)
    assert fresh.warn_window.to_timedelta() == timedelta(hours=30)
    assert fresh.fail_window.to_timedelta() == timedelta(hours=60)
    assert policy() is None
    with pytest.raises(ValueError, match="freshness_hours"):
        any_spec({"id": {"type": "integer"}, "at": {"type": "timestamp"}}, freshness_hours=0)


def test_links_lead_to_the_server_and_never_show_a_database_password(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    assert run_job(small_spec()).success
    settings = Settings.from_env()
    model = stored_value(MODEL, "trained_model", ModelVersionRef)
    run = client(settings).get_run(model.mlflow_run_id)

    class Server:
        tracking_uri = "http://mlflow:5000"

    monkeypatch.setattr(
        "mlcicd_assets.orchestration.trained_model.client", lambda _: client(settings)
    )
    links = {name: link.value for name, link in _links(Server(), model).items()}
    experiment = run.info.experiment_id
    assert links == {
        "mlflow_run": f"http://mlflow:5000/#/experiments/{experiment}/runs/{model.mlflow_run_id}",
        "mlflow_model": f"http://mlflow:5000/#/models/{MODEL}/versions/1",
    }
    Server.tracking_uri = "postgresql://me:secret@db/mlflow"
    assert "secret" not in str(_links(Server(), model))
