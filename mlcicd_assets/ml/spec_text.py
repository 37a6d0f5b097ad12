"""The text of a defs.yaml to its `PipelineSpec`, without Dagster."""

import yaml
from pydantic import ValidationError

from mlcicd_assets.ml.contract import check_rules
from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.features import check_features
from mlcicd_assets.ml.search import check_search
from mlcicd_assets.ml.spec import PipelineSpec

COMPONENT = "mlcicd_assets.components.ModelPipeline"


def parse_spec(text: str, where: str) -> PipelineSpec:
    """Read a defs.yaml and check all that can be checked without data.

    Raises:
        SpecError: names `where` and the field of each mistake.
    """
    try:
        told = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{where} is not one YAML document: {error}") from error
    if not isinstance(told, dict) or {*told} != {"type", "attributes"}:
        raise SpecError(f"{where} must have 'type: {COMPONENT}' and 'attributes:', nothing else")
    try:
        spec = PipelineSpec.model_validate(told["attributes"])
        check_rules(spec)
        check_features(spec)
        check_search(spec)
    except ValidationError as error:
        named = (
            (".".join(map(str, ("attributes", *one["loc"]))), one["msg"]) for one in error.errors()
        )
        faults = "".join(f"\n  {place}: {words}" for place, words in named)
        raise SpecError(f"{where} cannot be used; correct{faults}") from error
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from error
    return spec
