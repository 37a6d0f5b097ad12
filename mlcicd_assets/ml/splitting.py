"""The split in time: training rows, a gap of the label's maturity, then the holdout."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.ml.errors import NotEnoughData
from mlcicd_assets.ml.features import KNOWN_AT, LABEL
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.target import target_of

if TYPE_CHECKING:
    import polars as pl

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Split:
    """Two disjoint frames with all columns of the features, `label` never null.

    Bounds are half open, UTC: all training rows lie in [train_from, train_until), the holdout's
    in [holdout_from, holdout_until). A share may cut between rows of one moment: that moment
    then lies in both, so whoever asks what training cannot have seen (from `train_until` on)
    leaves out too much rather than too little.
    """

    train: "pl.DataFrame"
    holdout: "pl.DataFrame"
    train_from: datetime
    train_until: datetime
    holdout_from: datetime
    holdout_until: datetime


def split_frame(features: "pl.DataFrame", spec: PipelineSpec, as_of: datetime) -> Split:
    """Split the feature table (see `compute_features`) by UTC calendar days, or by a share.

    Training sees only labels known when the holdout begins, the holdout those known at `as_of`;
    the spec's `absent` rule decides about rows without one.

    Raises:
        NotEnoughData: a part is empty, or has labels of one class only.
    """
    import polars as pl

    if features.is_empty():
        raise NotEnoughData(f"'{spec.name}' has no rows to split: land data first")
    share = spec.split.holdout_share
    cut = _by_days(features, spec, as_of) if share is None else _by_share(features, spec, as_of)
    holdout = cut.holdout
    if spec.split.drop_known_positive is not None:
        seen = features.filter(pl.col(spec.time.column) >= cut.train_from)
        holdout = _without_known(holdout, seen, entity=spec.split.drop_known_positive, spec=spec)
    train, holdout = _labelled(cut.train, cut.holdout_from, spec), _labelled(holdout, as_of, spec)
    _check(train, spec, what="training", start=cut.train_from, end=cut.train_until)
    _check(holdout, spec, what="holdout", start=cut.holdout_from, end=cut.holdout_until)
    return replace(cut, train=train, holdout=holdout)


def random_split(split: Split, *, seed: int) -> Split:
    """Deal the same rows to parts of the same sizes, blind to time: no honest estimate."""
    import polars as pl

    rows = pl.concat([split.train, split.holdout])
    dealt, cut = np.random.default_rng(seed).permutation(rows.height), split.train.height
    return replace(split, train=rows[dealt[:cut]], holdout=rows[dealt[cut:]])


def _by_days(features: "pl.DataFrame", spec: PipelineSpec, as_of: datetime) -> Split:
    import polars as pl

    moment = pl.col(spec.time.column)
    oldest, newest = features.select(moment.min(), moment.max().alias("newest")).row(0)
    holdout_from, holdout_until = _holdout_bounds(spec, as_of, newest=newest)
    train_until = holdout_from - timedelta(days=spec.label.matures_after_days)
    train_from = _train_from(spec, oldest, train_until)
    train = features.filter(moment >= train_from, moment < train_until)
    holdout = features.filter(moment >= holdout_from, moment < holdout_until)
    return Split(train, holdout, train_from, train_until, holdout_from, holdout_until)


def _by_share(features: "pl.DataFrame", spec: PipelineSpec, as_of: datetime) -> Split:
    """Hold out the last share of the mature rows, ordered by (time, key)."""
    import polars as pl

    moment, gap = pl.col(spec.time.column), timedelta(days=spec.label.matures_after_days)
    mature = features.filter(moment <= as_of - gap).sort(spec.time.column, *spec.key)
    cut = round(mature.height * (1 - (spec.split.holdout_share or 0)))
    holdout = mature.slice(cut)
    holdout_from, newest = holdout.select(moment.min(), moment.max().alias("newest")).row(0)
    train = mature.head(cut).filter(moment + gap <= pl.lit(holdout_from))
    if train.is_empty():  # without a holdout it is, too
        raise NotEnoughData(
            f"'{spec.name}' has {mature.height} mature rows, too few to hold out a share: wait for "
            "more, or change split in defs.yaml"
        )
    oldest, last = train.select(moment.min(), moment.max().alias("last")).row(0)
    train_until = last.astimezone(UTC) + timedelta.resolution
    train_from = _train_from(spec, oldest, train_until)
    return Split(
        train.filter(moment >= train_from),
        holdout,
        train_from,
        train_until,
        holdout_from.astimezone(UTC),
        newest.astimezone(UTC) + timedelta.resolution,
    )


def _train_from(spec: PipelineSpec, oldest: datetime, train_until: datetime) -> datetime:
    days = spec.split.train_days
    return oldest.astimezone(UTC) if days is None else train_until - days * DAY


def _holdout_bounds(
    spec: PipelineSpec, as_of: datetime, *, newest: datetime
) -> tuple[datetime, datetime]:
    """Take complete mature days; none that begins after the newest event."""
    mature_until = as_of - timedelta(days=spec.label.matures_after_days)
    end_of_events = _day(newest) + DAY
    length = (spec.split.holdout_days or 0) * DAY
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
    missing = target_of(spec.label.target, spec.label.classes).missing(part[LABEL].to_numpy())
    if missing:
        raise NotEnoughData(
            f"'{spec.name}': the {what} part from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} "
            f"UTC has {part.height} rows and {missing}: wait for more (mature) data, or change "
            "split in defs.yaml"
        )
