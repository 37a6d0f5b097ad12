"""`PipelineSpec`: the complete description of one model, as written in its defs.yaml."""

import hashlib
import json
import re
from typing import Self

from pydantic import Field, model_validator

from mlcicd_assets.ml import extensions
from mlcicd_assets.ml.frozen import Column, Frozen, Name
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.sections import (
    CLASSIFIERS,
    COMPARED,
    REGRESSORS,
    Contract,
    Evaluation,
    Features,
    Label,
    Source,
    Split,
    TimeColumn,
    Training,
    Trigger,
)


class PipelineSpec(Frozen):
    """One model, completely: from its source to its gates."""

    name: Name = Field(description="Of the model, its assets, jobs and tables.")
    description: str = Field(min_length=1, description="One sentence for people.")
    owners: tuple[str, ...] = Field(min_length=1, description="E-mail addresses or 'team:name'.")
    source: Source = Field(description="Where the events come from.")
    key: tuple[Column, ...] = Field(min_length=1, description="Columns that identify a row.")
    time: TimeColumn = Field(description="When the event happened.")
    label: Label = Field(description="What is predicted.")
    contract: Contract = Field(description="What raw data must look like.")
    features: Features = Field(description="What the model sees.")
    split: Split = Field(description="What it learns from, what it is judged on.")
    training: Training = Field(description="The estimator.")
    evaluation: Evaluation = Field(default=Evaluation(), description="Further metrics.")
    gates: Gates = Field(description="What every candidate must pass.")
    trigger: Trigger = Field(default=Trigger(), description="What starts a run, and how soon.")
    schedule: str | None = Field(default=None, description="Cron, UTC. Default: sensor only.")
    freshness_hours: int | None = Field(
        default=None,
        ge=1,
        description="The UI warns when nothing new was materialized for so long.",
    )

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        known = set(self.contract.columns)
        for where, column in self._named_columns():
            if column not in known:
                raise ValueError(
                    f"{where} names column '{column}', which contract.columns does not describe; "
                    f"it has: {', '.join(sorted(known))}"
                )
        for owner in self.owners:
            if not re.fullmatch(r"team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s]+", owner):
                raise ValueError(f"owner '{owner}' must be an e-mail address or 'team:name'")
        return self

    @model_validator(mode="after")
    def _fits_target(self) -> Self:
        allowed = REGRESSORS if self.label.target == "regression" else CLASSIFIERS
        if self.training.estimator not in allowed:
            allowed = (*allowed, *extensions.estimators_for(self.label.target))
        if self.training.estimator not in allowed:
            raise ValueError(
                f"estimator '{self.training.estimator}' cannot serve a {self.label.target} target: "
                f"choose one of {', '.join(allowed)}"
            )
        metric, compared = self.gates.champion.metric, COMPARED[self.label.target]
        if metric not in {None, *compared}:
            raise ValueError(
                f"gates.champion.metric '{metric}' is not one of {', '.join(compared)}"
            )
        if self.label.target != "binary":
            rates = any("label_rate" in windows.stats for windows in self.features.windows)
            fairness = self.gates.fairness
            binary_only = {
                "gates.costs": self.gates.costs,
                "split.drop_known_positive": self.split.drop_known_positive,
                "evaluation.entity_precision": self.evaluation.entity_precision,
                "the windows' label_rate": rates,
                "gates.fairness.metric": fairness and fairness.metric,
            }
            given = [name for name, value in binary_only.items() if value]
            if given:
                raise ValueError(f"{', '.join(given)}: only a binary target has it; remove it")
        return self

    @model_validator(mode="before")
    @classmethod
    def _no_templates(cls, data: object) -> object:
        if "{{" in repr(data):
            raise ValueError(
                "templates such as {{ env.X }} are not substituted here: keep the environment out "
                "of defs.yaml and use the MLCICD_* variables"
            )
        return data

    @property
    def definition(self) -> str:
        """Name all that decides training or gates; a new default of the package changes nothing."""
        asides = {"description", "owners", "trigger", "schedule", "freshness_hours"}
        told = self.model_dump(mode="json", exclude=asides, exclude_defaults=True)
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def sources(self) -> list[tuple[Source, str]]:
        """Return each source with the name of the model's own table for it."""
        return [
            (self.source, "raw"),
            *([(self.label.source, "labels")] if self.label.source is not None else []),
        ]

    def _named_columns(self) -> list[tuple[str, str]]:
        named = [("key", column) for column in self.key]
        named.append(("time", self.time.column))
        if self.label.source is None:
            named.append(("label", self.label.column))
        named += [("features.columns", column) for column in self.features.columns]
        for windows in self.features.windows:
            named.append(("features.windows.entity", windows.entity))
            if windows.of is not None:
                named.append(("features.windows.of", windows.of))
        if self.split.drop_known_positive is not None:
            named.append(("split.drop_known_positive", self.split.drop_known_positive))
        if self.evaluation.entity_precision is not None:
            named.append(("evaluation.entity_precision", self.evaluation.entity_precision.entity))
        return named
