"""The split by days or by share, and the published counts of the Fraud Detection Handbook."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from pydantic import ValidationError

from mlcicd_assets.ml.errors import NotEnoughData
from mlcicd_assets.ml.features import as_of, compute_features
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import random_split, split_frame
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.ml.specs import small_spec

START = datetime(2024, 3, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
FRAME = {"id": pl.Int64, "at": UTC_US, "who": pl.Int64, "label": pl.Int8, "label_known_at": UTC_US}


COLUMNS = {
    "id": {"type": "integer"},
    "at": {"type": "timestamp"},
    "who": {"type": "integer"},
    "bad": {"type": "integer"},
}


def make_spec(split: dict[str, Any], **label: Any) -> PipelineSpec:
    return small_spec(COLUMNS, split=split, label={"matures_after_days": 2, **label})


def make_frame(days: int, per_day: int = 4, known_after: timedelta = 2 * DAY) -> pl.DataFrame:
    """Rows every few hours from START on, every second one positive."""
    times = [START + DAY * n / per_day for n in range(days * per_day)]
    rows = [(n, at, n, n % 2, at + known_after) for n, at in enumerate(times)]
    return pl.DataFrame(rows, schema=FRAME, orient="row")


def days_of(frame: pl.DataFrame) -> list[int]:
    return sorted({(at - START).days for at in frame["at"]})


def test_the_last_complete_mature_days_are_held_out_behind_a_gap() -> None:
    frame = make_frame(14)
    split = split_frame(frame, make_spec({"holdout_days": 3}), START + 12 * DAY + DAY / 2)
    assert days_of(split.holdout) == [7, 8, 9]
    assert days_of(split.train) == [0, 1, 2, 3, 4]
    assert (split.train_from, split.train_until) == (START, START + 5 * DAY)
    assert (split.holdout_from, split.holdout_until) == (START + 7 * DAY, START + 10 * DAY)


def test_train_days_bound_the_training() -> None:
    spec = make_spec({"holdout_days": 3, "train_days": 2})
    split = split_frame(make_frame(14), spec, START + 12 * DAY)
    assert days_of(split.train) == [3, 4]
    assert split.train_from == START + 3 * DAY


def test_a_fixed_holdout_ends_where_labels_are_not_mature() -> None:
    spec = make_spec({"holdout_days": 3, "holdout_from": date(2024, 3, 9)})
    split = split_frame(make_frame(14), spec, START + 12 * DAY + DAY / 2)
    assert split.holdout_from == START + 8 * DAY
    assert split.holdout["at"].max() == START + 10 * DAY + DAY / 2
    assert split_frame(make_frame(14), spec, START + 20 * DAY).holdout_until == START + 11 * DAY


def test_the_day_of_the_newest_row_counts_when_labels_come_with_the_rows() -> None:
    spec = make_spec({"holdout_days": 2}, source=None, matures_after_days=0)
    frame = make_frame(14, known_after=timedelta(0))
    split = split_frame(frame, spec, START + 13.75 * DAY)
    assert days_of(split.holdout) == [12, 13]
    assert days_of(split.train) == list(range(12))


@pytest.mark.parametrize(
    "split", [{"holdout_days": 3}, {"holdout_days": 9, "holdout_from": date(2024, 3, 12)}]
)
def test_the_holdout_ends_with_the_newest_event_however_late_labels_come(
    split: dict[str, Any],
) -> None:
    # The newest event is of day 13, at 18:00; days 14 to 27 are mature, too, but empty.
    spec = make_spec(split)
    for late in (17, 20, 30):
        found = split_frame(make_frame(14), spec, START + late * DAY)
        assert (found.holdout_from, found.holdout_until) == (START + 11 * DAY, START + 14 * DAY)
        assert days_of(found.holdout) == [11, 12, 13]


@pytest.mark.parametrize("absent", ["negative", "unknown"])
def test_labels_count_from_when_they_were_known(absent: str) -> None:
    # Row 1 becomes known only after the holdout began, row 39 (day 9) only after as_of;
    # row 3 as it begins.
    late = {1: START + 8 * DAY, 3: START + 7 * DAY, 39: START + 30 * DAY}
    frame = make_frame(14).with_columns(
        label_known_at=pl.col("id").replace_strict(late, default=pl.col("label_known_at"))
    )
    spec = make_spec({"holdout_days": 3}, absent=absent)
    split = split_frame(frame, spec, START + 12 * DAY)
    train = dict(split.train.select("id", "label").iter_rows())
    holdout = dict(split.holdout.select("id", "label").iter_rows())
    if absent == "negative":
        assert (train[1], holdout[39]) == (0, 0)
    else:
        assert 1 not in train
        assert 39 not in holdout
    assert (train[3], holdout[37]) == (1, 1)
    assert split.train["label"].null_count() == split.holdout["label"].null_count() == 0


@pytest.mark.parametrize(
    ("positive_at", "known_at", "kept"),
    [
        (4.9, 6.9, []),  # mature at 6.9: known before day 7
        (5.0, 7.0, [7]),  # mature at the very start of day 7: not before it
        (5.5, 7.5, [7]),  # in the gap: known from day 8 on
        (4.0, 8.0, [7]),  # told late, at the very start of day 8
        (4.0, 8.1, [7, 8]),
        (-1.0, 1.0, [7, 8, 9]),  # before the training window
    ],
)
def test_known_positive_entities_leave_the_holdout_day_by_day(
    positive_at: float, known_at: float, kept: list[int]
) -> None:
    shown = (-1, START + positive_at * DAY, -7, 1, START + known_at * DAY)
    own = [(-10 - d, START + (d + 0.01) * DAY, -7, 0, START + (d + 2) * DAY) for d in (7, 8, 9)]
    rows = pl.DataFrame([shown, *own], schema=FRAME, orient="row")
    frame = pl.concat([make_frame(14), rows]).sort("at")
    spec = make_spec({"holdout_days": 3, "train_days": 5, "drop_known_positive": "who"})
    holdout = split_frame(frame, spec, START + 12 * DAY).holdout
    assert days_of(holdout.filter(pl.col("who") == -7)) == kept


def test_too_little_data_says_how_much_there_is() -> None:
    spec = make_spec({"holdout_days": 3})
    with pytest.raises(NotEnoughData, match=r"training part .* has 0 rows and 0 positives"):
        split_frame(make_frame(14), spec, START + 7 * DAY)
    negative = make_frame(14).with_columns(
        label=pl.when(pl.col("at") < START + 6 * DAY).then("label").otherwise(0).cast(pl.Int8)
    )
    with pytest.raises(NotEnoughData, match=r"holdout part .* has 12 rows and 0 positives"):
        split_frame(negative, spec, START + 12 * DAY)
    with pytest.raises(NotEnoughData, match="no rows to split"):
        split_frame(make_frame(0), spec, START)


def test_a_share_cuts_between_rows_of_one_moment_by_their_keys() -> None:
    # Days 0, 1 and 2 with 3, 4 and 3 rows of one moment each, in any order of arrival.
    whole = [START + day * DAY for day in (0, 0, 0, 1, 1, 1, 1, 2, 2, 2)]
    rows = [(n, at, n, n % 2, at) for n, at in enumerate(whole)]
    frame = pl.DataFrame(rows, schema=FRAME, orient="row").sample(fraction=1, shuffle=True, seed=1)
    spec = make_spec({"holdout_share": 0.5}, source=None, matures_after_days=0)
    split = split_frame(frame, spec, START + 2 * DAY)
    assert split.train["id"].to_list() == [0, 1, 2, 3, 4]
    assert split.holdout["id"].to_list() == [5, 6, 7, 8, 9]
    assert (split.train_from, split.train_until) == (START, START + DAY + TICK)
    assert (split.holdout_from, split.holdout_until) == (START + DAY, START + 2 * DAY + TICK)
    # What this model cannot have seen: none of the moment that the cut went through.
    assert split.holdout.filter(pl.col("at") >= split.train_until)["id"].to_list() == [7, 8, 9]


@pytest.mark.parametrize(("train_days", "first"), [(None, 0), (2, 16)])
def test_a_share_is_of_mature_rows_and_leaves_the_gap(train_days: int | None, first: int) -> None:
    spec = make_spec({"holdout_share": 0.25, "train_days": train_days})
    split = split_frame(make_frame(14), spec, START + 12 * DAY)
    # Rows 0 to 40 are mature; 31 is of day 7.75, and 23 is the last whose label was known by then.
    assert split.holdout["id"].to_list() == list(range(31, 41))
    assert split.train["id"].to_list() == list(range(first, 24))
    assert split.train_until == START + 5.75 * DAY + TICK


@pytest.mark.parametrize("as_of", [START - DAY, START + 2 * DAY, START + 3 * DAY])
def test_too_few_mature_rows_for_a_share_are_told(as_of: datetime) -> None:
    with pytest.raises(NotEnoughData, match=r"has \d mature rows, too few to hold out a share"):
        split_frame(make_frame(14), make_spec({"holdout_share": 0.2}), as_of)


@pytest.mark.parametrize(
    ("split", "told"),
    [
        ({}, "exactly one of 'holdout_days' or 'holdout_share'"),
        ({"holdout_days": 3, "holdout_share": 0.2}, "exactly one of"),
        ({"holdout_share": 0.2, "holdout_from": date(2024, 3, 9)}, "needs 'holdout_days'"),
        ({"holdout_share": 1}, "less than 1"),
        ({"holdout_share": 0}, "greater than 0"),
    ],
)
def test_a_split_that_says_nothing_or_too_much_is_refused(split: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        make_spec(split)


def test_a_random_split_deals_the_same_rows_blind_to_time() -> None:
    split = split_frame(make_frame(14), make_spec({"holdout_share": 0.25}), START + 12 * DAY)
    dealt, again = random_split(split, seed=5), random_split(split, seed=5)
    assert dealt.holdout.equals(again.holdout)
    assert not dealt.holdout.equals(random_split(split, seed=6).holdout)
    assert (dealt.train.height, dealt.holdout.height) == (split.train.height, split.holdout.height)
    both = pl.concat([dealt.train, dealt.holdout])["id"].sort()
    assert both.to_list() == [*split.train["id"], *split.holdout["id"]]
    assert dealt.holdout["at"].min() < split.train["at"].max() < dealt.train["at"].max()


@pytest.mark.real_data
def test_the_published_counts_of_the_handbook(handbook_file: Path) -> None:
    text = (ROOT / "mlcicd_assets_tests/e2e/models/handbook/defs.yaml").read_text()
    spec = PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])
    raw = pl.scan_parquet(handbook_file).with_columns(
        pl.col("TX_DATETIME").dt.cast_time_unit("us").dt.replace_time_zone("UTC")
    )
    known_at = pl.col("TX_DATETIME") + pl.duration(days=7)
    labels = raw.select("TRANSACTION_ID", "TX_FRAUD", known_at=known_at)
    split = split_frame(compute_features(raw, labels, spec), spec, as_of(raw, labels, spec))
    assert (split.train.height, split.train["label"].sum()) == (67_240, 598)
    assert (split.holdout.height, split.holdout["label"].sum()) == (58_264, 385)
