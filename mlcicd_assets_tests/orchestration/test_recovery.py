"""The jobs `<model>_rebuild` and `<model>_recall`: each fails as its command does, and says why."""

from typing import Any

import dagster as dg
import pytest

from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.io.days import three_days
from mlcicd_assets_tests.small_model import MODEL, small_spec


def run(name: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
    job = build_pipeline(small_spec()).resolve_job_def(f"{MODEL}_{name}")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            instance=instance,
            run_config={"ops": {f"{MODEL}_{name}_op": {"config": config or {}}}},
            raise_on_error=False,
        )


def answer(result: dg.ExecuteInProcessResult) -> str:
    failed = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    if failed:
        return str(failed[0].user_failure_data.metadata["answer"].value)
    (output,) = [e.step_output_data for e in result.all_events if e.is_successful_output]
    return str(output.metadata["answer"].value)


def test_the_recall_job_lists_and_acts_when_told(server: str) -> None:
    three = three_days(server)
    config = {"where": "k >= 200 and k < 300", "reason": "terminal 7"}
    dry = run("recall", config)
    assert dry.success
    assert "nothing was done" in answer(dry)
    assert three.served() == 3
    assert run("recall", {**config, "yes": True}).success
    assert three.served() == 1
    assert three.ledger.entries(kinds=("recall",))[0].body["reason"] == "terminal 7"


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("recall", {"reason": "r"}, "say which rows are bad"),
        ("rebuild", {"version": 2}, "no such version to make again; it has: none"),
    ],
)
def test_a_command_that_fails_fails_its_job(
    name: str, config: dict[str, Any], words: str, home: object
) -> None:
    result = run(name, config)
    assert not result.success
    assert words in " ".join(answer(result).split())
