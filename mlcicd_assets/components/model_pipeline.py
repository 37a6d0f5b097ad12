"""`ModelPipeline`: the Dagster component that turns one defs.yaml into a pipeline."""

import dagster as dg
from dagster.components import ComponentLoadContext
from pydantic import BaseModel

from mlcicd_assets.components.scaffolder import ModelPipelineScaffolder
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.pipeline import build_pipeline


@dg.scaffold_with(ModelPipelineScaffolder)
class ModelPipeline(dg.Component):
    """One model, from raw data to live endpoint, described completely in YAML.

    The YAML schema is the domain's `PipelineSpec`: this class only wires.
    """

    def __init__(self, spec: PipelineSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return the schema that `dg check yaml` validates."""
        return PipelineSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: ComponentLoadContext) -> "ModelPipeline":
        """Wrap validated attributes."""
        if not isinstance(attributes, PipelineSpec):
            raise TypeError(f"expected PipelineSpec, got {type(attributes).__name__}")
        return cls(attributes)

    def build_defs(self, context: ComponentLoadContext) -> dg.Definitions:
        """Build the model's assets, checks, job, schedule and sensor."""
        path = context.path / "README.md"
        readme = path.read_text("utf-8", "replace") if path.is_file() else ""
        return build_pipeline(self.spec, readme=readme.partition("\n## ")[0])
