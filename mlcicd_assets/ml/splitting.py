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
    newest = features[spec.time.column].max()
    maturity = timedelta(days=spec.label.matures_after_days)
    holdout_from, holdout_until = _holdout_bounds(spec, as_of, is_complete=newest == as_of)
    train_until = holdout_from - maturity
    train_from = _train_from(features, spec, train_until)
    train = features.filter(moment >= train_from, moment < train_until)
    holdout = features.filter(moment >= holdout_from, moment < holdout_until)
    entity = spec.split.drop_known_positive
    if entity is not None:
        seen = features.filter(moment >= train_from, moment < holdout_until)
        holdout = _without_known(holdout, seen, entity=entity, spec=spec)
    split = Split(
        _labelled(train, holdout_from, spec),
        _labelled(holdout, as_of, spec),
        train_from,
        train_until,
        holdout_from,
        holdout_until,
    )
    _check(split, spec)
    return split


def _holdout_bounds(
    spec: PipelineSpec, as_of: datetime, *, is_complete: bool
) -> tuple[datetime, datetime]:
    mature_until = as_of - timedelta(days=spec.label.matures_after_days)
    length = spec.split.holdout_days * DAY
    if spec.split.holdout_from is not None:
        first = datetime.combine(spec.split.holdout_from, time(), UTC)
        # A row is mature up to and including that moment; microseconds are the resolution.
        return first, min(first + length, mature_until + timedelta.resolution)
    until = _day(mature_until)
    if spec.label.source is None and spec.label.matures_after_days == 0 and is_complete:
        # Labels come with the rows and the newest row sets the date: its day is all there is.
        until += DAY
    return until - length, until


def _train_from(features: "pl.DataFrame", spec: PipelineSpec, until: datetime) -> datetime:
    if spec.split.train_days is not None:
        return until - spec.split.train_days * DAY
    first = features[spec.time.column].dt.epoch("us").min()
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=int(str(first)))


def _day(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date(), time(), UTC)


def _labelled(part: "pl.DataFrame", known_until: datetime, spec: PipelineSpec) -> "pl.DataFrame":
    import polars as pl

    is_known = pl.col(KNOWN_AT) <= known_until
    known = part.with_columns(pl.when(is_known).then(LABEL).alias(LABEL))
    if spec.label.absent == "negative":
        return known.with_columns(pl.col(LABEL).fill_null(0))
    return known.drop_nulls(LABEL)


def _without_known(
    holdout: "pl.DataFrame", seen: "pl.DataFrame", *, entity: str, spec: PipelineSpec
) -> "pl.DataFrame":
    """Drop the rows of entities with a positive that was mature and known before their day."""
    import polars as pl

    moment = pl.col(spec.time.column)
    mature = moment + pl.duration(days=spec.label.matures_after_days)
    # The first day that starts after maturity, and not before the label was known.
    last_unknown = pl.max_horizontal(
        mature, pl.col(KNOWN_AT) - pl.duration(microseconds=1)
    ).dt.truncate("1d")
    found = seen.filter(pl.col(LABEL) == 1).group_by(entity).agg(last_unknown=last_unknown.min())
    first = holdout.join(found, on=entity, how="left", maintain_order="left")["last_unknown"]
    day = holdout[spec.time.column].dt.truncate("1d")
    return holdout.filter((day <= first).fill_null(True))


def _check(split: Split, spec: PipelineSpec) -> None:
    parts = (
        ("training", split.train, split.train_from, split.train_until),
        ("holdout", split.holdout, split.holdout_from, split.holdout_until),
    )
    for name, frame, start, end in parts:
        positives = int(frame[LABEL].sum())
        if frame.is_empty() or positives in {0, frame.height}:
            raise NotEnoughData(
                f"'{spec.name}': the {name} part from {start:%Y-%m-%d %H:%M} to "
                f"{end:%Y-%m-%d %H:%M} UTC has {frame.height} rows and {positives} positives; "
                "both classes are needed: wait for more (mature) data, or change split in defs.yaml"
            )
