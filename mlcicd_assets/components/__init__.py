"""Component types that a Dagster project can name in its YAML."""

from mlcicd_assets.components.model_pipeline import ModelPipeline

__all__ = ["ModelPipeline"]
