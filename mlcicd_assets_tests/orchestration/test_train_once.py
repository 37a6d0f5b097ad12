"""One training for a key, whoever asks; what that saved; a search that goes on after a stop."""

import multiprocessing
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlcicd_assets.io.registry import client
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml import search as search_module
from mlcicd_assets.ml.search import chosen_spec
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.processes import mlcicd
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    ledger,
    metadata,
    small_spec,
    stored_value,
)

ASSETS = [
    dg.AssetKey([MODEL, name]) for name in ("raw_data", "validated_features", "trained_model")
]
SEARCH = {"trials": 3, "folds": 2, "parameters": {"max_iter": [1, 20, 40]}}


def searching(**changes: Any) -> PipelineSpec:
    """With labels that mature fast enough to leave rows in the first fold."""
    return small_spec(
        label__matures_after_days=2,
        training__parameters={"learning_rate": 0.1},
        training__search={**SEARCH, **changes},
    )


def train(spec: PipelineSpec, assets: list[dg.AssetKey] = ASSETS) -> dg.ExecuteInProcessResult:
    """By the job."""
    job = build_pipeline(spec).resolve_job_def(f"{spec.name}_cicd")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance, asset_selection=assets, raise_on_error=False
        )


def materialize(spec: PipelineSpec) -> dg.ExecuteInProcessResult:
    """By the button of the UI."""
    defs = build_pipeline(spec)
    return dg.materialize(list(defs.assets or ()), resources=defs.resources, selection=ASSETS)


def versions() -> int:
    return len(client(Settings.from_env()).search_model_versions(f"name='{MODEL}'"))


def test_the_button_and_the_job_train_once_and_the_time_saved_adds_up(home: Path) -> None:
    deliver_days()
    first = metadata(materialize(small_spec()), "trained_model")
    shown = [metadata(run(small_spec()), "trained_model") for run in (train, materialize)]
    assert [first["trained_now"], *(one["trained_now"] for one in shown)] == [True, False, False]
    assert versions() == 1
    cost = first["training_cpu_seconds"]
    assert first["cpu_seconds_saved"] == first["cpu_seconds_saved_in_all"] == 0
    assert [one["cpu_seconds_saved"] for one in shown] == [cost, cost]
    assert [one["cpu_seconds_saved_in_all"] for one in shown] == pytest.approx(
        [cost, 2 * cost], abs=0.02
    )
    ledger().record_outcome(MODEL, "kept", reason="x", data={}, run_id="r")
    assert f"saved     {ledger().saved_seconds(MODEL):,.1f} CPU s" in mlcicd("status").stdout
    other = small_spec(training__seed=8)
    assert metadata(train(other), "trained_model")["trained_now"]
    assert ledger().saved_seconds("another_model") == 0


def test_a_step_that_is_repeated_saves_only_once(home: Path) -> None:
    deliver_days()
    train(small_spec())
    known = ledger().find_trained(
        stored_value(MODEL, "trained_model", ModelVersionRef).training_key
    )
    assert known is not None
    for run in ("a", "a", "b"):
        ledger().remember_reuse(known, run)
    assert ledger().saved_seconds(MODEL) == pytest.approx(2 * known.seconds)


def race(start: Any) -> None:
    start.wait()
    sys.exit(0 if train(small_spec(), ASSETS[-1:]).success else 1)


@pytest.mark.ci
def test_two_racing_runs_train_once(home: Path, ledger_url: str) -> None:
    deliver_days()
    assert train(small_spec(), ASSETS[:2]).success
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    racers = [context.Process(target=race, args=(start,)) for _ in range(2)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=300)
        racer.kill()
    assert [racer.exitcode for racer in racers] == [0, 0]
    assert versions() == 1
    saved = ledger().saved_seconds(MODEL)
    known = ledger().find_trained(
        stored_value(MODEL, "trained_model", ModelVersionRef).training_key
    )
    assert known is not None
    assert saved == known.seconds


@pytest.mark.ci
def test_a_search_is_told_logged_and_chosen(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    deliver_days()
    run = train(searching())
    assert run.success
    assert "trial 2 of 3: average_precision 0." in capfd.readouterr().err
    model = stored_value(MODEL, "trained_model", ModelVersionRef)
    trials = ledger().trials(model.training_key)
    best = max(trials.values(), key=lambda trial: trial.score)
    assert model.chosen == best.parameters != {"max_iter": 1}
    assert metadata(run, "trained_model")["chosen_by_search"] == model.chosen
    tracked = client(Settings.from_env())
    parent = tracked.get_run(model.mlflow_run_id)
    assert parent.data.params["parameters.max_iter"] == str(model.chosen["max_iter"])
    assert parent.data.params["parameters.learning_rate"] == "0.1"
    children = tracked.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{model.mlflow_run_id}'"
    )
    assert {child.info.status for child in children} == {"FINISHED"}
    assert {
        child.data.params["max_iter"]: child.data.metrics["average_precision"] for child in children
    } == {str(one.parameters["max_iter"]): pytest.approx(one.score) for one in trials.values()}
    cost = metadata(run, "trained_model")["training_cpu_seconds"]
    assert cost > sum(trial.seconds for trial in trials.values())
    again = train(searching())
    assert not metadata(again, "trained_model")["trained_now"]
    assert "trial" not in capfd.readouterr().err
    assert stored_value(MODEL, "trained_model", ModelVersionRef) == model
    # Found once, it is the same as being told.
    direct = chosen_spec(searching(), model.chosen)
    assert metadata(train(direct), "trained_model")["bundle_digest"] == model.digest


@pytest.mark.ci
def test_a_stopped_search_goes_on_from_its_finished_trials(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    tried: list[int] = []
    honest = search_module._try

    def killed(number: int, *words: Any) -> Any:
        tried.append(number)
        if number == 2 and tried.count(2) == 1:
            raise OSError("killed")
        return honest(number, *words)

    monkeypatch.setattr(search_module, "_try", killed)
    assert not train(searching()).success
    assert versions() == 0
    second = train(searching())
    assert second.success
    assert tried == [0, 1, 2, 2]
    assert versions() == 1
    model = stored_value(MODEL, "trained_model", ModelVersionRef)
    tracked = client(Settings.from_env())
    runs = tracked.search_runs([tracked.get_run(model.mlflow_run_id).info.experiment_id])
    parents = [run.data.tags.get("mlflow.parentRunId") for run in runs]
    assert parents.count(model.mlflow_run_id) == 3, "the training's run shows all of its trials"
    statuses = sorted(run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert statuses == ["FAILED", "FINISHED"]


@pytest.mark.ci
def test_a_search_whose_bundle_was_lost_is_not_made_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    train(searching())
    model = stored_value(MODEL, "trained_model", ModelVersionRef)
    folder = Settings.from_env().releases / MODEL
    for file in sorted(folder.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    monkeypatch.setattr(search_module, "_try", lambda *_: 1 / 0)
    again = train(searching())
    assert again.success
    assert metadata(again, "trained_model")["bundle_digest"] == model.digest
