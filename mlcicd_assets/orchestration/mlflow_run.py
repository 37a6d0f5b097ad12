"""dagster-mlflow's resource, wrapped so that a run opens late and always ends with its status.

Used bare it leaves runs RUNNING for ever, and the next Dagster run in the same process writes
into the old MLflow run; its hook ends the run after each op (dagster issue 21872).
"""

import warnings
from collections.abc import Iterator
from typing import Any

import dagster as dg

from mlcicd_assets.io.registry import ensure_experiment
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.spec import PipelineSpec


class LazyMlflowRun:
    """One MLflow run for this Dagster run, opened by the first call of `open`."""

    def __init__(self, context: dg.InitResourceContext) -> None:
        self._context = context
        self._tracked: Any = None

    def open(self) -> Any:
        """Return dagster-mlflow's `MlFlow`: all of mlflow's functions, on a run of our own."""
        if self._tracked is None:
            self._tracked = self._start()
        return self._tracked

    def close(self, *, failed: bool) -> None:
        """End the run with the status of the Dagster step; nothing to do if none was opened."""
        if self._tracked is None:
            return
        while self._tracked.active_run():
            self._tracked.end_run("FAILED" if failed else "FINISHED")

    def _start(self) -> Any:
        import mlflow

        ensure_experiment(Settings.from_env(), self._context.resource_config["experiment_name"])
        while mlflow.active_run():  # left over by an earlier run of this process that was killed
            mlflow.end_run("KILLED")
        with warnings.catch_warnings():
            # It is beta, and asks Dagster for a run by a deprecated name.
            warnings.simplefilter("ignore", category=dg.BetaWarning)
            warnings.simplefilter("ignore", category=DeprecationWarning)
            from dagster_mlflow.resources import MlFlow

            return MlFlow(self._context)


@dg.resource(config_schema={"experiment_name": str, "extra_tags": dg.Permissive()})
def mlflow_run(context: dg.InitResourceContext) -> Iterator[LazyMlflowRun]:
    """Offer an MLflow run; require it on `trained_model` only, since each step opens its own."""
    lazy = LazyMlflowRun(context)
    try:
        yield lazy
    finally:
        failures = context.instance.all_logs(
            context.run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE}
        )
        lazy.close(failed=bool(failures))


def mlflow_key(spec: PipelineSpec) -> str:
    """Return the resource key of a model's MLflow run; each model has an experiment of its own."""
    return f"{spec.name}_mlflow"


def mlflow_run_for(spec: PipelineSpec) -> dg.ResourceDefinition:
    """Return the resource for one model."""
    return mlflow_run.configured({"experiment_name": spec.name, "extra_tags": {"model": spec.name}})
