"""The sections of a defs.yaml, from the source to the evaluation; the gates are ml/policy.py."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mlcicd_assets.ml.frozen import Column, Frozen, Name
from mlcicd_assets.ml.search_space import Search

TablePath = Annotated[str, Field(min_length=1, max_length=500)]
OnBreak = Literal["quarantine", "fail"]

# By which metric a champion may be compared, the first by default; more is better in each.
COMPARED = {
    "binary": ("average_precision", "roc_auc", "saving"),
    "multiclass": ("roc_auc", "accuracy", "balanced_accuracy"),
    "regression": ("r2",),
}
# What the plain-array scorer can reproduce exactly (ml/export.py); anything else is refused here.
CLASSIFIERS = (
    "HistGradientBoostingClassifier",
    "RandomForestClassifier",
    "ExtraTreesClassifier",
    "DecisionTreeClassifier",
    "LogisticRegression",
)
REGRESSORS = (
    "HistGradientBoostingRegressor",
    "RandomForestRegressor",
    "ExtraTreesRegressor",
    "DecisionTreeRegressor",
    "Ridge",
)


class Source(Frozen):
    """Where rows come from: a landing folder, or a Delta table that others write.

    A relative `landing` is a folder below `$MLCICD_HOME/landing`, a relative `table` one
    below `$MLCICD_LAKE`.
    """

    landing: Name | None = Field(
        default=None,
        description="A folder of CSV or Parquet files, each taken in once: write them under a "
        "hidden or .tmp name and rename.",
    )
    table: TablePath | None = Field(default=None, description="A Delta table that others write.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.landing is None) == (self.table is None):
            raise ValueError("give exactly one of 'landing' (a folder of files) or 'table'")
        return self


class TimeColumn(Frozen):
    """The event time: stored as UTC microseconds whatever its form on arrival."""

    column: Column = Field(description="A timestamp column of the contract.")
    format: str = Field(
        default="iso",
        description="'iso', 'epoch_s', 'epoch_ms', or a strptime pattern for text columns.",
    )
    zone: str = Field(default="UTC", description="Zone of times that carry none.")


class Label(Frozen):
    """What is predicted, and from when on it may be believed."""

    column: Column = Field(description="The column that holds it.")
    target: Literal["binary", "multiclass", "regression"] = Field(
        default="binary", description="Yes or no, one of several classes, or a number."
    )
    positive: str | int | bool = Field(
        default=1, description="The value that means 'yes' (binary only)."
    )
    classes: tuple[str | int, ...] = Field(
        default=(), description="All values, three or more (multiclass only)."
    )
    source: Source | None = Field(
        default=None, description="A table or folder of its own: key, label, known_at."
    )
    known_at: Column = Field(default="known_at", description="Only with a source of its own.")
    matures_after_days: int = Field(
        default=0, ge=0, description="Age of a row from which its label counts as final."
    )
    absent: Literal["unknown", "negative"] = Field(
        default="unknown", description="What a mature row without a label is (binary only)."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        several = self.target == "multiclass"
        if several != bool(self.classes):
            raise ValueError("'classes' goes with target multiclass: give both or neither")
        if several and (len({*self.classes}) < 3 or len({*self.classes}) < len(self.classes)):
            raise ValueError("'classes' must name three or more different values")
        if len({type(value) for value in self.classes}) > 1:
            raise ValueError("'classes' must be all texts or all whole numbers")
        if self.target != "binary" and self.absent == "negative":
            raise ValueError("'absent: negative' is for a binary target")
        return self

    @property
    def evidence(self) -> str:
        """Say what `Target.judged` counts."""
        return {"binary": "positives", "multiclass": "rows of the rarest class"}.get(
            self.target, "labelled rows"
        )


class ContractColumn(Frozen):
    """One column of the raw data, and what its values must meet."""

    type: Literal["integer", "number", "boolean", "string", "timestamp"] = Field(
        description="Compared exactly; nothing is cast silently."
    )
    nullable: bool = Field(default=False, description="Whether a value may be missing.")
    min: float | None = Field(default=None, description="Of integers and numbers.")
    max: float | None = Field(default=None, description="Of integers and numbers.")
    categories: tuple[str, ...] | None = Field(default=None, description="All values of a string.")
    on_break: OnBreak = Field(
        default="quarantine", description="Put the row aside, or refuse the batch."
    )


class RowRule(Frozen):
    """A condition across columns, as an SQL expression that is true for a good row."""

    name: Name = Field(description="What the quarantine calls it.")
    check: str = Field(min_length=1, description="SQL; what cannot be answered is broken.")
    on_break: OnBreak = Field(
        default="quarantine", description="Put the row aside, or refuse the batch."
    )


class RowCount(Frozen):
    """Bounds for the rows of one batch: a landing file, or a pinned table version."""

    min: int = Field(default=1, ge=0, description="Fewer refuse the batch.")
    max: int = Field(default=100_000_000, ge=1, description="More refuse the batch.")


class Contract(Frozen):
    """What raw data must look like; each rule quarantines the row or fails the batch."""

    columns: dict[Column, ContractColumn] = Field(
        min_length=1, description="Exactly these, whatever their order."
    )
    rules: tuple[RowRule, ...] = Field(default=(), description="Conditions across columns.")
    unique_key: OnBreak = Field(
        default="quarantine", description="What a repeated key does; the first row is kept."
    )
    rows: RowCount = Field(default=RowCount(), description="Of one batch.")


class Windows(Frozen):
    """Statistics of an entity's past days, the row itself included when there is no delay.

    A window of d days at time t covers (t - delay - d, t - delay]. `label_rate` counts only
    labels known between their row and `delay_days` later, so nothing from after t is ever seen.
    """

    entity: Column = Field(description="Whose past it is, such as customer_id.")
    days: tuple[Annotated[int, Field(ge=1, le=3650)], ...] = Field(
        min_length=1, description="Length of each window."
    )
    stats: tuple[Literal["count", "mean", "label_rate"], ...] = Field(
        min_length=1, description="What is computed; label_rate for a binary target only."
    )
    of: Column | None = Field(default=None, description="The column that 'mean' averages.")
    delay_days: int = Field(default=0, ge=0, description="How long before the row it ends.")
    served: Literal["request"] = Field(
        default="request", description="How it reaches the server: the caller sends it."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if ("mean" in self.stats) != (self.of is not None):
            raise ValueError("'of' names the column for 'mean': give both or neither")
        if "label_rate" in self.stats and self.delay_days == 0:
            raise ValueError("'label_rate' needs delay_days: labels arrive late")
        return self


class Features(Frozen):
    """What the model sees: raw columns, calendar parts and per-entity windows."""

    columns: tuple[Column, ...] = Field(
        default=(), description="Taken as they are; a string is one-hot encoded."
    )
    calendar: tuple[Literal["hour", "weekday", "month", "weekend", "night"], ...] = Field(
        default=(), description="Parts of the event time, UTC; night is 0 to 6 o'clock."
    )
    windows: tuple[Windows, ...] = Field(default=(), description="Per entity, over past days.")
    transforms: dict[str, Name] = Field(
        default_factory=dict,
        description="Feature: your own transformer of it (ml/extensions.py).",
    )


class Split(Frozen):
    """Time-ordered: training rows, a gap of the label's maturity, then the holdout."""

    holdout_days: int | None = Field(
        default=None, ge=1, description="The last mature days are held out."
    )
    holdout_share: float | None = Field(
        default=None, gt=0, lt=1, description="Of the mature rows, ordered by (time, key)."
    )
    train_days: int | None = Field(default=None, ge=1, description="Default: all before the gap.")
    holdout_from: date | None = Field(
        default=None, description="Fixed first holdout day; default: the last mature days."
    )
    drop_known_positive: Column | None = Field(
        default=None,
        description="Drop holdout rows of an entity whose positive label was known by that day.",
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.holdout_days is None) == (self.holdout_share is None):
            raise ValueError("give exactly one of 'holdout_days' or 'holdout_share'")
        if self.holdout_from is not None and self.holdout_days is None:
            raise ValueError("'holdout_from' needs 'holdout_days': a share ends with the data")
        return self


class Training(Frozen):
    """The estimator and all that decides what it learns."""

    estimator: str = Field(
        description=f"One of {', '.join((*CLASSIFIERS, *REGRESSORS))}, or one of your own "
        "(ml/extensions.py)."
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="As the estimator calls them."
    )
    seed: int = Field(default=0, description="Of everything random in it.")
    threads: int = Field(
        default=1, ge=1, description="More are faster on idle cores, and learn something else."
    )
    threshold_slice: float = Field(
        default=0.2, gt=0, lt=0.9, description="Last share of the training rows, for the threshold."
    )

    search: Search | None = Field(default=None, description="Off by default.")

    @model_validator(mode="after")
    def _no_reserved(self) -> Self:
        searched = set(self.search.parameters if self.search else ())
        taken = {"random_state", "n_jobs"} & (searched | set(self.parameters))
        if taken:
            raise ValueError(f"{sorted(taken)} are set by 'seed' and 'threads': remove them")
        if twice := searched & set(self.parameters):
            raise ValueError(f"{sorted(twice)} are both given and searched for: remove one of both")
        return self


class Trigger(Frozen):
    """When new data start a run; its schedule and people start others."""

    new_labels: int = Field(
        default=1, ge=1, description="Labels without new events count from so many new ones on."
    )
    quiet_minutes: float = Field(
        default=0,
        ge=0,
        description="Wait until nothing new has come for so long, at most ten times as long.",
    )
    cooldown_minutes: float = Field(
        default=0,
        ge=0,
        description="Least time between two such runs; a run that failed is tried again sooner.",
    )


class EntityPrecision(Frozen):
    """Precision among the k highest-scored entities of each day (card precision@k)."""

    entity: Column = Field(description="What is ranked, such as card_id.")
    k: int = Field(ge=1, description="How many a day can be looked at.")


class Evaluation(Frozen):
    """Metrics beside the standard ones."""

    entity_precision: EntityPrecision | None = Field(
        default=None, description="Adds the metric entity_precision_at_K."
    )
    random_split: bool = Field(
        default=False, description="Also tell the ROC AUC that a split blind to time would claim."
    )
