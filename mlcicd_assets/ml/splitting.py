"""The split in time: training days, a gap of the label's maturity, then the holdout days."""

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from mlcicd_assets.ml.errors import NotEnoughData
from mlcicd_assets.ml.features import KNOWN_AT, LABEL
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Split:
    """Two disjoint frames with all columns of the features, `label` filled with 0 or 1.

    Bounds are half open, UTC: training covers [train_from, train_until), the holdout
    [holdout_from, holdout_until).
    """

    train: "pl.DataFrame"
    holdout: "pl.DataFrame"
    train_from: datetime
    train_until: datetime
    holdout_from: datetime
    holdout_until: datetime


def split_frame(features: "pl.DataFrame", spec: PipelineSpec, as_of: datetime) -> Split:
    """Split the feature table (see `compute_features`) by UTC calendar days.

    Training sees only labels known when the holdout begins, the holdout those known at `as_of`;
    the spec's `absent` rule decides about rows without one.

    Raises:
        NotEnoughData: a part is empty, or has labels of one class only.
    """
    import polars as pl

    if features.is_empty():
        raise NotEnoughData(f"'{spec.name}' has no rows to split: land data first")
    moment = pl.col(spec.time.column)
    oldest, newest = features.select(moment.min(), moment.max().alias("newest")).row(0)
    holdout_from, holdout_until = _holdout_bounds(spec, as_of, newest=newest)
    train_until = holdout_from - timedelta(days=spec.label.matures_after_days)
    days = spec.split.train_days
    train_from = oldest.astimezone(UTC) if days is None else train_until - days * DAY
    train = features.filter(moment >= train_from, moment < train_until)
    holdout = features.filter(moment >= holdout_from, moment < holdout_until)
    if spec.split.drop_known_positive is not None:
        seen = features.filter(moment >= train_from)
        holdout = _without_known(holdout, seen, entity=spec.split.drop_known_positive, spec=spec)
    train, holdout = _labelled(train, holdout_from, spec), _labelled(holdout, as_of, spec)
    _check(train, spec, what="training", start=train_from, end=train_until)
    _check(holdout, spec, what="holdout", start=holdout_from, end=holdout_until)
    return Split(train, holdout, train_from, train_until, holdout_from, holdout_until)


def _holdout_bounds(
    spec: PipelineSpec, as_of: datetime, *, newest: datetime
) -> tuple[datetime, datetime]:
    """Take complete mature days; none that begins after the newest event."""
    mature_until = as_of - timedelta(days=spec.label.matures_after_days)
    end_of_events = _day(newest) + DAY
    length = spec.split.holdout_days * DAY
    if spec.split.holdout_from is not None:
        first = datetime.combine(spec.split.holdout_from, time(), UTC)
        # A row is mature up to and including that moment; microseconds are the resolution.
        return first, min(first + length, mature_until + timedelta.resolution, end_of_events)
    if spec.label.source is None and spec.label.matures_after_days == 0:
        # Labels come with the rows and the newest row sets the date: its day is all there is.
        return end_of_events - length, end_of_events
    until = min(_day(mature_until), end_of_events)
    return until - length, until


def _day(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date(), time(), UTC)


def _without_known(
    holdout: "pl.DataFrame", seen: "pl.DataFrame", *, entity: str, spec: PipelineSpec
) -> "pl.DataFrame":
    """Drop the rows of entities with a positive that was mature and known before their day."""
    import polars as pl

    moment = pl.col(spec.time.column)
    mature = moment + pl.duration(days=spec.label.matures_after_days)
    # The first day that starts after maturity, and not before the label was known.
    known = pl.max_horizontal(mature, pl.col(KNOWN_AT) - pl.duration(microseconds=1))
    positives = seen.filter(pl.col(LABEL) == 1).group_by(entity)
    last_unknown = positives.agg(last_unknown=known.dt.truncate("1d").min())
    is_unknown = (moment.dt.truncate("1d") <= pl.col("last_unknown")).fill_null(True)
    dated = holdout.join(last_unknown, on=entity, how="left", maintain_order="left")
    return dated.filter(is_unknown).select(holdout.columns)


def _labelled(part: "pl.DataFrame", known_until: datetime, spec: PipelineSpec) -> "pl.DataFrame":
    import polars as pl

    is_known = pl.col(KNOWN_AT) <= known_until
    known = part.with_columns(pl.when(is_known).then(LABEL).alias(LABEL))
    if spec.label.absent == "negative":
        return known.with_columns(pl.col(LABEL).fill_null(0))
    return known.drop_nulls(LABEL)


def _check(
    part: "pl.DataFrame", spec: PipelineSpec, *, what: str, start: datetime, end: datetime
) -> None:
    positives = int(part[LABEL].sum())
    if positives in {0, part.height}:
        raise NotEnoughData(
            f"'{spec.name}': the {what} part from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} "
            f"UTC has {part.height} rows and {positives} positives; both classes are needed: wait "
            "for more (mature) data, or change split in defs.yaml"
        )
