"""`dg scaffold defs ModelPipeline NAME --path TABLE`: what `mlcicd new` does, by Dagster's tool."""

import click
import dagster as dg
from pydantic import BaseModel

from mlcicd_assets.io.profile import write_model
from mlcicd_assets.ml.errors import MlcicdError, SpecError
from mlcicd_assets.ml.proposal import Choices


class ScaffoldParams(BaseModel):
    """The options of `mlcicd new`."""

    path: str
    label: str | None = None
    time: str | None = None
    key: list[str] = []
    positive: str | None = None


class ModelPipelineScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Look at a table and write the defs.yaml of a model for it."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Return the options."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write defs.yaml and README.md into the folder that dg has made."""
        given, folder = request.params, request.target_path
        choices = Choices(given.label, given.time, tuple(given.key), given.positive)
        try:
            if request.scaffold_format != "yaml" or request.append:
                raise SpecError("a model is one defs.yaml of its own: leave out --format")
            write_model(folder, folder.name, given.path, choices)
        except MlcicdError as error:
            if not any(folder.iterdir()):
                folder.rmdir()  # dg made it, and would refuse the next attempt because of it
            raise click.ClickException(str(error)) from error
