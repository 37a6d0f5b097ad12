"""Where the steps of a run work: in the process of the run, or each in a Docker container."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from mlcicd_assets.io.settings import Settings


def in_process_or_docker() -> dg.ExecutorDefinition:
    """Return the executor of a job: `MLCICD_EXECUTOR`, unless the run's config says otherwise.

    To import dagster-docker costs 0.3 CPU seconds: what stands below `docker` is checked by its
    own executor, once a run has chosen it.
    """
    return dg.ExecutorDefinition(
        "in_process_or_docker",
        config_schema=dg.Field(
            dg.Selector({"in_process": dg.Permissive(), "docker": dg.Permissive()}),
            default_value={Settings.from_env().executor: {}},
        ),
        requirements=_requirements,
        executor_creation_fn=_create,
    )


def is_one_process(context: dg.AssetExecutionContext) -> bool:
    """Tell whether the steps work in the process of their run, and so live as long as it does."""
    execution = context.get_step_execution_context().resolved_run_config.execution
    # Tests, and projects that use ours, bring executors of Dagster's own.
    is_known = context.job_def.executor_def.name.startswith(("in_process", "execute_in_process"))
    return is_known and "docker" not in execution.execution_engine_config


def _requirements(config: Mapping[str, object]) -> Sequence[Any]:
    return dg.multiple_process_executor_requirements() if "docker" in config else []


def _create(context: dg.InitExecutorContext) -> dg.Executor:
    ((choice, config),) = context.executor_config.items()
    chosen = dg.in_process_executor
    if choice == "docker":
        from dagster_docker import docker_executor as chosen
    checked = chosen.configured(config).apply_config_mapping({})
    if not checked.success:
        raise dg.DagsterInvalidConfigError(f"execution.config.{choice}", checked.errors, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=dg.BetaWarning)  # docker_executor is
        return chosen.executor_creation_fn(
            context._replace(executor_def=chosen, executor_config=checked.value["config"])
        )
