"""The whole pipeline in process, against real Delta, MLflow, ledger and server."""

from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from mlcicd_assets.io import evaluation_run, training_run
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import CHAMPION, client
from mlcicd_assets.io.releases import bundle_folder, read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets_tests.small_model import (
    DAYS,
    MODEL,
    deliver_days,
    failed_checks,
    ledger,
    metadata,
    outcomes,
    run_job,
    small_spec,
    write_batch,
)


def served_version(url: str) -> int | None:
    status = model_status(url, MODEL, token=None)
    return status.version if status else None


def endpoint_alone(**changes: object) -> dg.ExecuteInProcessResult:
    return run_job(small_spec(**changes), only="deployed_endpoint")


def failure_text(result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(
        str(event.event_specific_data.error) for event in result.all_events if event.is_step_failure
    )


def test_first_run_releases_and_a_second_one_trains_nothing_and_keeps(server: str) -> None:
    deliver_days()
    first = run_job(small_spec())
    assert first.success
    assert metadata(first, "deployed_endpoint")["outcome"] == "released"
    assert metadata(first, "trained_model")["trained_now"]
    assert served_version(server) == 1
    second = run_job(small_spec())
    assert second.success
    endpoint = metadata(second, "deployed_endpoint")
    assert endpoint["outcome"] == "kept"
    assert "already live" in endpoint["reason"]
    assert metadata(second, "raw_data")["new_files"] == 0
    trained = metadata(second, "trained_model")
    assert not trained["trained_now"]
    assert trained["cpu_seconds_saved"] > 0
    mlflow_client = client(Settings.from_env())
    assert len(mlflow_client.search_model_versions(f"name='{MODEL}'")) == 1
    assert mlflow_client.get_model_version_by_alias(MODEL, CHAMPION).version == 1
    run = mlflow_client.get_run(metadata(first, "trained_model")["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["dagster_run_id"] == first.run_id
    assert outcomes() == ["released", "kept"]
    assert ledger().verify_chain() == []


def test_a_missed_floor_blocks_keeps_the_old_version_and_stays_blocked(server: str) -> None:
    deliver_days()
    assert run_job(small_spec()).success
    weak = small_spec(training__parameters={"max_iter": 1}, gates__floors={"roc_auc": 0.999})
    for _ in range(2):
        blocked = run_job(weak)
        assert not blocked.success
        (message,) = failed_checks(blocked).values()
        assert "metric_floors" in message
        assert "roc_auc >= 0.999" in message
        assert "observed roc_auc 0." in message
        assert served_version(server) == 1
    assert outcomes() == ["released", "blocked", "blocked"]
    versions = client(Settings.from_env()).search_model_versions(f"name='{MODEL}'")
    assert len(versions) == 2, "the blocked one was trained again"


@pytest.mark.ci
def test_a_batch_that_breaks_its_contract_blocks_until_it_is_corrected(server: str) -> None:
    deliver_days()
    assert run_job(small_spec()).success
    bad = write_batch("transactions-bad.parquet", transaction_id=pl.lit(-1, dtype=pl.Int64))
    for _ in range(2):
        blocked = run_job(small_spec())
        assert not blocked.success
        message = failed_checks(blocked)["contract"]
        assert "transactions-bad.parquet" in message
        assert "transaction_id:min" in message
        assert served_version(server) == 1
    assert outcomes() == ["released", "blocked", "blocked"]
    rows = metadata(blocked, "raw_data")["dagster/row_count"]
    bad.unlink()
    write_batch("transactions-good.parquet")
    good = run_job(small_spec())
    assert good.success, failure_text(good)
    assert metadata(good, "raw_data")["dagster/row_count"] > rows


def test_a_file_with_another_schema_is_refused_and_named(server: str) -> None:
    deliver_days()
    write_batch("transactions-text.parquet", amount=pl.col("amount").cast(pl.String))
    blocked = run_job(small_spec())
    assert not blocked.success
    message = failed_checks(blocked)["contract"]
    assert "transactions-text.parquet" in message
    assert "'amount' is string and must be double" in message


def test_bad_rows_are_quarantined_with_every_rule_they_broke(server: str, home: Path) -> None:
    deliver_days()
    amount = pl.when(pl.int_range(pl.len()) < 3).then(-5.0).otherwise("amount")
    limit = pl.when(pl.int_range(pl.len()) < 2).then(-9.0).otherwise("card_limit")
    write_batch("transactions-some.parquet", amount=amount, card_limit=limit)
    result = run_job(small_spec())
    assert result.success, failure_text(result)
    features = metadata(result, "validated_features")
    assert features["quarantined_rows"] == 3
    frame = pl.read_delta(features["quarantine_table"])
    assert sorted(map(sorted, frame["broken_rules"].to_list())) == [
        ["amount:min"],
        ["amount:min", "card_limit:min", "within_limit"],
        ["amount:min", "card_limit:min", "within_limit"],
    ]
    assert metadata(result, "raw_data")["dagster/row_count"] == features["dagster/row_count"] + 3


def test_the_endpoint_alone_refuses_what_failed_its_gate(server: str) -> None:
    deliver_days()
    strict = {"gates__floors": {"roc_auc": 0.999}}
    assert not run_job(small_spec(**strict)).success
    alone = endpoint_alone(**strict)
    assert not alone.success
    assert "gate 'metric_floors' FAILED" in failure_text(alone)
    assert served_version(server) is None
    assert outcomes() == ["blocked", "blocked"]


def test_the_endpoint_alone_refuses_verdicts_of_another_policy(server: str) -> None:
    deliver_days()
    assert not run_job(small_spec(gates__floors={"roc_auc": 0.999})).success
    alone = endpoint_alone(gates__floors={"roc_auc": 0.5})
    assert not alone.success
    assert "has no verdict" in failure_text(alone)
    assert served_version(server) is None


@pytest.mark.ci
def test_the_endpoint_alone_releases_what_passed(server: str) -> None:
    deliver_days()
    assert run_job(small_spec()).success
    alone = endpoint_alone()
    assert alone.success
    assert outcomes() == ["released", "kept"]


@pytest.mark.ci
def test_a_better_model_with_other_features_is_compared_on_the_same_rows(server: str) -> None:
    deliver_days()
    poor = small_spec(features={"columns": ["channel"]}, gates__floors={"roc_auc": 0.1})
    assert run_job(poor).success
    better = small_spec(gates__floors={"roc_auc": 0.1})
    result = run_job(better)
    assert result.success, failure_text(result)
    assert metadata(result, "deployed_endpoint")["outcome"] == "released"
    assert "better than the live model" in metadata(result, "deployed_endpoint")["reason"]
    assert served_version(server) == 2
    worse = run_job(poor)
    assert not worse.success
    assert "beyond doubt and margin" in failed_checks(worse)["not_worse_than_champion"]
    assert served_version(server) == 2
    pointer = read_pointer(Settings.from_env().releases, MODEL)
    assert pointer is not None
    assert pointer.previous_version == 1


@pytest.mark.ci
def test_a_new_day_is_taken_in_and_a_file_delivered_twice_adds_nothing(server: str) -> None:
    deliver_days(DAYS - 1)
    first = run_job(small_spec())
    assert first.success
    deliver_days(DAYS)
    folder = Settings.from_env().landing / "card_transactions"
    newest = max(folder.glob("transactions-*.parquet"))
    (folder / "transactions-again.parquet").write_bytes(newest.read_bytes())
    second = run_job(small_spec())
    assert second.success, failure_text(second)
    added = pl.read_parquet(newest).height
    rows = [metadata(run, "raw_data")["dagster/row_count"] for run in (first, second)]
    assert rows[1] == rows[0] + added
    assert metadata(second, "trained_model")["trained_now"]


def test_without_a_server_nothing_is_written_and_the_remedy_is_named(home: Path) -> None:
    deliver_days()
    result = run_job(small_spec())
    assert not result.success
    assert "mlcicd serve" in failure_text(result)
    assert ledger().entries(kinds=("intent", "outcome")) == []
    assert read_pointer(home / "releases", MODEL) is None


def test_a_changed_bundle_is_never_released(server: str, home: Path) -> None:
    deliver_days()
    spec = small_spec(gates__floors={"roc_auc": 0.999})
    blocked = run_job(spec)
    digest = metadata(blocked, "trained_model")["bundle_digest"]
    file = bundle_folder(home / "releases", MODEL, digest) / "model.json"
    file.write_bytes(file.read_bytes().replace(b'"threshold":', b'"threshold": '))
    again = run_job(small_spec())
    assert not again.success
    assert "digest" in failure_text(again).lower()
    assert served_version(server) is None


@pytest.mark.parametrize("days", [22])
def test_too_little_data_is_a_clear_error(server: str, days: int) -> None:
    deliver_days(days)
    result = run_job(small_spec())
    assert not result.success
    assert "NotEnoughData" in failure_text(result)


def test_an_asset_before_its_upstream_says_what_to_do(home: Path) -> None:
    alone = endpoint_alone()
    assert "'card_fraud/evaluation_report' has no value yet: materialize it first" in failure_text(
        alone
    )


def test_a_stored_value_of_another_shape_is_refused(home: Path) -> None:
    path = home / "values" / MODEL / "evaluation_report.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"candidate": 7}')
    assert "of another shape" in failure_text(endpoint_alone())


@pytest.mark.ci
def test_a_training_that_fails_ends_its_mlflow_run_as_failed(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "register", full_disk)
        assert not run_job(small_spec()).success
    mlflow_client = client(Settings.from_env())
    experiment = mlflow_client.get_experiment_by_name(MODEL)
    (run,) = mlflow_client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run_job(small_spec()).success
    statuses = [r.info.status for r in mlflow_client.search_runs([experiment.experiment_id])]
    assert sorted(statuses) == ["FAILED", "FINISHED"]


@pytest.mark.ci
def test_a_crash_between_mlflow_and_ledger_registers_no_second_version(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()

    def crash(*_: object) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "remember_trained", crash)
        assert not run_job(small_spec()).success
    again = run_job(small_spec())
    assert again.success
    assert not metadata(again, "trained_model")["trained_now"]
    assert len(client(Settings.from_env()).search_model_versions(f"name='{MODEL}'")) == 1


@pytest.mark.ci
def test_a_model_in_mlflow_that_scores_otherwise_than_the_bundle_is_blocked(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    honest = evaluation_run.load_pipeline

    class Other:
        def __init__(self, *where: object) -> None:
            self.pipeline = honest(*where)

        def predict_proba(self, rows: object) -> np.ndarray:
            return self.pipeline.predict_proba(rows) * (1 - 1e-9)

    monkeypatch.setattr(evaluation_run, "load_pipeline", Other)
    result = run_job(small_spec())
    assert not result.success
    assert "threshold difference <= 1e-12" in failed_checks(result)["scorer_parity"]
    assert served_version(server) is None


@pytest.mark.ci
def test_the_champion_is_judged_only_on_rows_that_it_was_not_trained_on(server: str) -> None:
    deliver_days()
    assert run_job(small_spec(split__holdout_days=3)).success
    longer = run_job(small_spec(split__holdout_days=12, gates__floors={"roc_auc": 0.1}))
    verdicts = {
        entry.body["gate"]: entry.body["sample_size"]
        for entry in ledger().entries(kinds=("verdict",))
        if entry.run_id == longer.run_id
    }
    # Of the 12 holdout days, the champion has trained on the first 2.
    assert 0 < verdicts["not_worse_than_champion"] < verdicts["metric_floors"]
