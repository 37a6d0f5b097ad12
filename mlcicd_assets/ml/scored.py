"""A holdout as one model scored it, and what a gate finds there."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from mlcicd_assets.ml.metrics import Array
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import Scorer
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.target import Target, target_of


@dataclass(frozen=True, eq=False)
class Scored:
    """One model, the split it is judged on, and its holdout's labels, scores and decisions.

    Their shapes and meanings: ml/target.py. `threshold` is None unless the target is binary.
    """

    spec: PipelineSpec
    split: Split
    as_of: datetime
    training_key: str
    columns: tuple[FeatureColumn, ...]
    scorer: Scorer
    threshold: float | None
    labels: Array
    scores: Array
    decisions: Array

    @property
    def target(self) -> Target:
        """What is measured and decided here."""
        return target_of(self.spec.label.target, self.spec.label.classes)


@dataclass(frozen=True)
class Finding:
    """What a gate found; it passes only with `rows` to judge by and without a fault."""

    observed: str
    threshold: str
    rows: int
    faults: Sequence[str]
    told: Sequence[str] = ()
