"""Several classes, and a number: the whole pipeline with every gate on, and what serves."""

from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from mlcicd_assets.io.endpoint import predict_row
from mlcicd_assets.ml.gates import GATES
from mlcicd_assets.ml.values import ModelVersionRef
from mlcicd_assets_tests.small_model import (
    failed_checks,
    metadata,
    outcomes,
    run_job,
    stored_value,
)
from mlcicd_assets_tests.target_models import CLASSES, DAYS, land, machine_spec, world

NAME = "machines"
ROW = {"load": 90.0, "heat": 90.0, "shop": "west"}


@pytest.mark.ci
@pytest.mark.parametrize("target", ["multiclass", "regression"])
def test_a_model_is_released_kept_and_blocked(target: str, server: str) -> None:
    spec = machine_spec(target)
    land(world())
    first = run_job(spec)
    assert failed_checks(first) == {}
    judged = {check.check_name for check in first.get_asset_check_evaluations()}
    assert judged >= {name for name, gate in GATES.items() if gate.is_on(spec.gates)}
    assert metadata(first, "deployed_endpoint", NAME)["outcome"] == "released"
    picture = "confusion" if target == "multiclass" else "predicted"
    assert f"picture/{picture}" in metadata(first, "evaluation_report", NAME)
    answer = predict_row(server, NAME, ROW, token=None)
    if target == "multiclass":
        assert answer["decision"] == "broken"
        assert list(answer["score"]) == CLASSES
        assert sum(answer["score"].values()) == pytest.approx(1)
    else:
        assert 0 < answer["score"] < 500
        assert "decision" not in answer

    again = run_job(spec)
    assert outcomes(NAME) == ["released", "kept"]
    assert metadata(again, "trained_model", NAME)["trained_now"] is False

    newer = world(seed=2).with_columns(
        pl.col("id") + 1_000_000, pl.col("at") + timedelta(days=DAYS)
    )
    land(newer.head(2_000), "second.parquet")
    gates = {**spec.gates.model_dump(mode="json"), "golden_set": []}
    worse = machine_spec(target, features={"columns": ["shop"]}, gates=gates)
    blocked = failed_checks(run_job(worse))
    assert blocked.keys() >= {"metric_floors", "not_worse_than_champion"}
    assert outcomes(NAME)[-1] == "blocked"
    assert stored_value(NAME, "trained_model", ModelVersionRef).version == 2


def test_a_class_that_is_not_listed_stops_the_run(server: str) -> None:
    columns: dict[str, Any] = machine_spec("multiclass").contract.model_dump()["columns"]
    columns["state"]["categories"] = [*CLASSES, "gone"]
    land(
        world().with_columns(
            state=pl.when(pl.col("id") == 7).then(pl.lit("gone")).otherwise("state")
        )
    )
    result = run_job(machine_spec("multiclass", contract={"columns": columns}))
    assert not result.success
    told = str([event.event_specific_data for event in result.all_events if event.is_step_failure])
    assert "has a value that is not in label.classes" in told
