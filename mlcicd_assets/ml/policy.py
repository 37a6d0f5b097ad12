"""`Gates`: the policy section of a spec, what every candidate must pass."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mlcicd_assets.ml.frozen import Column, Frozen, Name, Share

Amount = Annotated[float, Field(ge=0)]


class FeatureGate(Frozen):
    """Sanity of the feature table."""

    max_null_share: Share = Field(default=0.2, description="Of any feature.")
    may_be_constant: tuple[str, ...] = Field(default=(), description="Features by name.")


class HistoryGates(Frozen):
    """The newest days of the raw table against its own earlier days; null turns a gate off.

    With fewer than `needs_days` earlier days there is nothing to compare with, and they pass.
    A day is a UTC date that has rows.
    """

    newest_days: int = Field(default=7, ge=1, description="Days that are judged.")
    needs_days: int = Field(default=14, ge=2, description="Earlier days needed to judge by.")
    volume_factor: float | None = Field(
        default=5, gt=1, description="Rows of a day: at most so many times more or fewer."
    )
    shift_factor: float | None = Field(
        default=5, gt=1, description="Median of a column: at most so many times larger or smaller."
    )
    max_gap_days: float | None = Field(
        default=3, gt=0, description="Days between events, times the usual where that is longer."
    )
    max_duplicate_share: Share | None = Field(
        default=0.01, description="Rows equal to another but for their key, beyond the usual share."
    )


class LeakageGate(Frozen):
    """What a feature, or the holdout, may know that it must not."""

    max_feature_auc: Share = Field(
        default=0.85, description="Of any single feature, in training; for classes the lowest."
    )
    max_feature_r2: Share = Field(
        default=0.95, description="The same where the target is a number: R2 of its rank."
    )
    may_exceed: tuple[str, ...] = Field(default=(), description="Features known to be honest.")
    disjoint: Column | None = Field(
        default=None, description="Entity that may not be in training and holdout both."
    )


class Costs(Frozen):
    """What each kind of decision costs: an amount of money, or a column that holds it.

    Chooses the decision threshold, and gives the metric `saving`.
    """

    false_positive: Amount | Column = Field(description="Of a needless alert.")
    false_negative: Amount | Column = Field(description="Of a positive without an alert.")
    true_positive: Amount | Column = Field(default=0.0, description="Of a rightful alert.")

    def columns(self) -> list[str]:
        """Return the columns that hold an amount."""
        given = (self.false_positive, self.false_negative, self.true_positive)
        return [amount for amount in given if isinstance(amount, str)]


class ChampionGate(Frozen):
    """Paired comparison with the live model on the same holdout rows."""

    metric: str | None = Field(
        default=None,
        description="Default: average_precision (also: roc_auc, saving); of several classes "
        "roc_auc (also: accuracy, balanced_accuracy); of a number r2.",
    )
    margin: float = Field(default=0.02, ge=0, description="How much worse is beyond doubt worse.")
    resamples: int = Field(default=200, ge=50, le=10_000, description="Of the paired bootstrap.")
    min_positives: int = Field(
        default=20, ge=1, description="In the holdout: of several classes rows of the rarest."
    )


class CalibrationGate(Frozen):
    """Whether a score of p means that a share of p is positive, on the holdout.

    Of several classes: whether the class taken is right as often as its probability says. Of a
    number: whether the mean label of rows with like predictions is what was predicted.
    """

    max_error: Share = Field(
        default=0.1, description="Expected calibration error; of a number in sd of the label."
    )
    max_ratio: float = Field(
        default=3, gt=1, description="Mean score to share of positives: so many times off."
    )


class SliceGate(Frozen):
    """Ranking inside each value of a column; values with too few positives are not judged.

    Of several classes each against the rest; of a number what is above the slice's median.
    """

    columns: tuple[Column, ...] = Field(
        default=(), description="Default: the categorical features."
    )
    min_roc_auc: Share = Field(default=0.55, description="Inside a slice, beyond chance.")
    min_positives: int = Field(default=20, ge=5, description="A slice with fewer is not judged.")


class ServingGate(Frozen):
    """The real bundle in the real server, in a clean process with serving dependencies only."""

    max_p99_ms: float = Field(default=500, gt=0, description="At this concurrency.")
    max_memory_mb: float = Field(default=1024, gt=0, description="Of the server process.")
    requests: int = Field(default=200, ge=20, description="Single rows of the holdout.")
    concurrency: int = Field(default=8, ge=1, le=64, description="Callers at once.")


class GoldenCase(Frozen):
    """A row that every model must get right: a feature left out is null.

    Bounds are of the score: a probability, or the number predicted; of several classes, that of
    the one named by `of`.
    """

    name: Name = Field(description="What the verdict calls it.")
    row: dict[str, float | str | None] = Field(min_length=1, description="Feature: value.")
    of: str | int | None = Field(default=None, description="The class that is meant.")
    at_least: float | None = Field(default=None, description="Lowest score.")
    at_most: float | None = Field(default=None, description="Highest score.")

    @model_validator(mode="after")
    def _has_bound(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"golden case '{self.name}' needs 'at_least' or 'at_most'")
        return self


class FairnessGate(Frozen):
    """Ratio of the lowest to the highest value among the groups of a column."""

    group: Column = Field(description="The column that names the group.")
    metric: Literal["recall", "alert_rate"] | None = Field(
        default=None,
        description="Default: recall; of several classes it is the accuracy, of a number the mean "
        "absolute error.",
    )
    min_ratio: Share = Field(default=0.8, description="Lowest to highest.")
    min_positives: int = Field(
        default=20, ge=1, description="Of a group; where the target is not binary: rows."
    )


class PoisoningGate(Frozen):
    """No single source of training rows may bend what is learned."""

    source: Column = Field(description="The column that names the source of a row.")
    max_positive_share: Share = Field(
        default=0.8,
        description="Of all training positives (each class; labels above the median), from one "
        "source.",
    )
    max_rate_factor: float = Field(
        default=3, gt=1, description="Label rate of a source, newest days to earlier ones."
    )


class StabilityGate(Frozen):
    """Decisions under small noise on the numeric features."""

    noise: Share = Field(default=0.01, description="In standard deviations of each feature.")
    max_flipped: Share = Field(
        default=0.25,
        description="Of the alerts; of several classes of the rows; of a number the share of rows "
        "that move by more than a tenth of the labels' sd.",
    )


class Approval(Frozen):
    """A person must say yes to each release."""

    authenticated: bool = Field(
        default=True, description="Only a git commit in the approvals folder counts."
    )


class Gates(Frozen):
    """The policy: what every candidate must pass. Its digest binds each verdict."""

    max_quarantined_share: Share = Field(default=0.01, description="Of the rows, by the contract.")
    features: FeatureGate = Field(default=FeatureGate(), description="Gate feature_sanity.")
    history: HistoryGates = Field(
        default=HistoryGates(),
        description="Gates volume, freshness, column_history and duplicates.",
    )
    leakage: LeakageGate = Field(default=LeakageGate(), description="Gate leakage.")
    floors: dict[str, float] = Field(min_length=1, description="Metric name: worst allowed value.")
    costs: Costs | None = Field(default=None, description="Money; binary only.")
    champion: ChampionGate = Field(
        default=ChampionGate(), description="Gate not_worse_than_champion, and what is better."
    )
    calibration: CalibrationGate | None = Field(
        default=CalibrationGate(), description="Null turns it off."
    )
    slices: SliceGate | None = Field(default=SliceGate(), description="Null turns it off.")
    serving: ServingGate | None = Field(
        default=ServingGate(), description="Gate serving_trial; null turns it off."
    )
    golden_set: tuple[GoldenCase, ...] = Field(default=(), description="Off while empty.")
    fairness: FairnessGate | None = Field(default=None, description="Off unless given.")
    poisoning: PoisoningGate | None = Field(default=None, description="Off unless given.")
    stability: StabilityGate | None = Field(default=None, description="Off unless given.")
    approval: Approval | None = Field(default=None, description="Off unless given.")

    def columns(self) -> list[str]:
        """Return the columns that gates read, inputs of the model or not."""
        groups = [self.leakage.disjoint, *(self.slices.columns if self.slices else ())]
        groups += [self.fairness and self.fairness.group, self.poisoning and self.poisoning.source]
        return [name for name in groups if name] + (self.costs.columns() if self.costs else [])
