"""Jobs `<model>_rebuild` and `<model>_recall`: the commands of that name, in a clean process."""

import subprocess
import sys

import dagster as dg
from pydantic import Field

from mlcicd_assets.ml.spec import PipelineSpec


class Rebuild(dg.Config):
    """What is made again."""

    version: int | None = Field(default=None, description="Default: the live version.")


class Recall(dg.Config):
    """Which rows are bad: give one of table_version, file and where."""

    reason: str = Field(description="Why; kept in the ledger.")
    table: str = Field(default="raw", description="raw or labels.")
    table_version: int | None = Field(default=None, description="The one that added the rows.")
    file: str | None = Field(default=None, description="Name of a landing file.")
    where: str | None = Field(default=None, description="An SQL condition.")
    yes: bool = Field(default=False, description="Do it; without, only list what is affected.")


def recovery_jobs(spec: PipelineSpec) -> list[dg.JobDefinition]:
    """Build both jobs of a model; each fails when its command does."""

    @dg.op(name=f"{spec.name}_rebuild_op")
    def rebuild(context: dg.OpExecutionContext, config: Rebuild) -> None:
        _run(context, "rebuild", spec, config)

    @dg.op(name=f"{spec.name}_recall_op")
    def recall(context: dg.OpExecutionContext, config: Recall) -> None:
        _run(context, "recall", spec, config)

    told = {
        "rebuild": (rebuild, "Make a released version again from its record, and compare."),
        "recall": (recall, "Find what was made from bad rows, and take it out of service."),
    }
    return [
        dg.GraphDefinition(f"{spec.name}_{name}", node_defs=[op]).to_job(
            description=text,
            tags={"mlcicd/model": spec.name},
            executor_def=dg.in_process_executor,
        )
        for name, (op, text) in told.items()
    ]


def _run(context: dg.OpExecutionContext, name: str, spec: PipelineSpec, config: dg.Config) -> None:
    words = [sys.executable, "-m", "mlcicd_assets.cli.main", name, spec.name]
    for option, value in config.model_dump().items():
        flag = f"--{option.replace('_', '-')}"
        words += (
            [flag] if value is True else [f"{flag}={value}"] if value not in {None, False} else []
        )
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    shown = {"answer": dg.MetadataValue.md(f"```\n{done.stdout}{done.stderr}\n```")}
    context.add_output_metadata(shown)
    if done.returncode:
        raise dg.Failure(f"mlcicd {name} {spec.name} ended with {done.returncode}", metadata=shown)
