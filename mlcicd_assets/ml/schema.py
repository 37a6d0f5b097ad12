"""The model's input columns, derived from the spec: one definition for training and serving."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mlcicd_assets.ml.extensions import transformer
from mlcicd_assets.ml.sections import Windows
from mlcicd_assets.ml.spec import PipelineSpec

CALENDAR_BOUNDS = {
    "hour": (0, 23),
    "weekday": (0, 6),
    "month": (1, 12),
    "weekend": (0, 1),
    "night": (0, 1),
}


@dataclass(frozen=True)
class FeatureColumn:
    """One input of the model and what a caller may send for it.

    `kind` number: float64 (integers and booleans widened); category: a string.
    """

    name: str
    kind: Literal["number", "category"]
    nullable: bool = False
    min: float | None = None
    max: float | None = None
    categories: tuple[str, ...] | None = None


def feature_columns(spec: PipelineSpec) -> tuple[FeatureColumn, ...]:
    """Return the model's inputs in their fixed order: columns, calendar, windows."""
    columns = [_raw(spec, name) for name in spec.features.columns]
    columns += [
        FeatureColumn(part, "number", min=low, max=high)
        for part in spec.features.calendar
        for low, high in [CALENDAR_BOUNDS[part]]
    ]
    columns += [
        _window(spec, windows, stat, days)
        for windows in spec.features.windows
        for days in windows.days
        for stat in windows.stats
    ]
    return tuple(columns)


def feature_definitions(spec: PipelineSpec) -> dict[str, Any]:
    """Return all that decides what a feature's values mean, as plain JSON data."""
    own = {name: transformer(name).version for name in spec.features.transforms.values()}
    return {
        **({"transformers": own} if own else {}),
        "features": spec.features.model_dump(mode="json"),
        "label": spec.label.model_dump(mode="json"),
        "time": spec.time.model_dump(mode="json"),
        "key": list(spec.key),
    }


def is_defined_alike(definitions: Mapping[str, Any], spec: PipelineSpec) -> bool:
    """Tell whether features mean the same as in `definitions`, whatever version wrote them."""
    own = {"features": spec.features, "time": spec.time}
    return (
        all(type(part).model_validate(definitions[name]) == part for name, part in own.items())
        and definitions.get("transformers") == feature_definitions(spec).get("transformers")
        and definitions["key"] == list(spec.key)
    )


def window_name(windows: Windows, stat: str, days: int) -> str:
    """Name of one windowed feature, e.g. `customer_id_mean_amount_7d`."""
    of = f"_{windows.of}" if stat == "mean" else ""
    return f"{windows.entity}_{stat}{of}_{days}d"


def _raw(spec: PipelineSpec, name: str) -> FeatureColumn:
    rule = spec.contract.columns[name]
    if rule.type == "string":
        return FeatureColumn(name, "category", nullable=rule.nullable, categories=rule.categories)
    bounds = (0, 1) if rule.type == "boolean" else (rule.min, rule.max)
    return FeatureColumn(name, "number", nullable=rule.nullable, min=bounds[0], max=bounds[1])


def _window(spec: PipelineSpec, windows: Windows, stat: str, days: int) -> FeatureColumn:
    name = window_name(windows, stat, days)
    if stat == "count":
        return FeatureColumn(name, "number", min=0)
    # An empty window (possible with a delay) has no mean and no rate: null, never a made-up 0.
    if stat == "label_rate":
        return FeatureColumn(name, "number", nullable=True, min=0, max=1)
    of = spec.contract.columns[windows.of or ""]
    return FeatureColumn(name, "number", nullable=True, min=of.min, max=of.max)
