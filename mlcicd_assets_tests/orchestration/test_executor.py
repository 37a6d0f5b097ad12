"""One executor for every job: by environment, by a run's config, and checked when it is used."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from mlcicd_assets.orchestration.executor import in_process_or_docker

SAID: list[str] = []
Job = Callable[[], dg.JobDefinition]


def plain() -> dg.JobDefinition:
    @dg.op
    def speak(context: dg.OpExecutionContext) -> None:
        SAID.append(context.run_id)

    return dg.GraphDefinition("speaks", node_defs=[speak]).to_job(
        executor_def=in_process_or_docker()
    )


def with_docker() -> dg.JobDefinition:
    """Dagster keeps a job that it has loaded, so that of another environment needs a name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCICD_EXECUTOR", "docker")
        return plain()


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    SAID.clear()
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")  # where no engine is
    silent = {"telemetry": {"enabled": False}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=silent) as made:
        yield made


def execute(instance: dg.DagsterInstance, job: Job, chosen: dict[str, Any] | None = None) -> str:
    """Run the job by its own executor; return what the events of its failure say."""
    config = {"execution": {"config": chosen}} if chosen else None
    with dg.execute_job(dg.reconstructable(job), instance, run_config=config) as done:
        failures = [event for event in done.all_events if event.is_failure]
        return "".join(f"{event.message} {event.event_specific_data}" for event in failures)


@pytest.mark.parametrize(
    ("job", "config"),
    [
        (plain, None),
        (with_docker, {"in_process": {}}),
        (plain, {"in_process": {"retries": {"disabled": {}}}}),
    ],
)
def test_steps_work_in_the_process_of_the_run(
    job: Job, config: dict[str, Any] | None, instance: dg.DagsterInstance
) -> None:
    assert execute(instance, job, config) == ""
    assert len(SAID) == 1


@pytest.mark.parametrize(("job", "config"), [(with_docker, None), (plain, {"docker": {}})])
def test_steps_go_to_docker_by_environment_or_by_config(
    job: Job, config: dict[str, Any] | None, instance: dg.DagsterInstance
) -> None:
    assert "Error while fetching server API version" in execute(instance, job, config)
    assert SAID == []


@pytest.mark.parametrize("chosen", ["in_process", "docker"])
def test_a_mistake_below_the_choice_is_named(chosen: str, instance: dg.DagsterInstance) -> None:
    told = execute(instance, plain, {chosen: {"max_concurent": 2}})
    assert f"execution.config.{chosen}" in told
    assert 'unexpected config entry "max_concurent"' in told
    assert SAID == []


def test_docker_needs_what_other_processes_can_load() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert "non-ephemeral instance is needed" in execute(instance, plain, {"docker": {}})
