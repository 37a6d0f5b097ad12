"""Features against a naive oracle, row by row, and their blindness to the future."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mlcicd_assets.ml.errors import DataError, NotEnoughData, SpecError
from mlcicd_assets.ml.features import as_of, check_features, compute_features
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.ml.specs import small_spec

START = datetime(2024, 3, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")
EVENTS = {"id": pl.Int64, "at": UTC_US, "who": pl.String, "amount": pl.Float64, "kind": pl.String}
LABELS = {"id": pl.Int64, "bad": pl.Int64, "known_at": UTC_US}
COLUMNS = {
    "id": {"type": "integer"},
    "at": {"type": "timestamp"},
    "who": {"type": "string"},
    "amount": {"type": "number", "nullable": True, "min": 0},
    "kind": {"type": "string"},
}
WINDOWS = [
    {"entity": "who", "days": [1, 3], "stats": ["count", "mean"], "of": "amount"},
    {"entity": "who", "days": [2], "stats": ["count", "label_rate"], "delay_days": 2},
]


def make_spec(**changes: Any) -> PipelineSpec:
    label = {"matures_after_days": 2, "absent": "negative", **changes.pop("label", {})}
    base = {
        "features": {"columns": ["amount", "kind"], "calendar": ["hour"], "windows": WINDOWS},
        "split": {"holdout_days": 1, "drop_known_positive": "who"},
    }
    return small_spec(COLUMNS, label=label, **{**base, **changes})


def make_frames(events: list[tuple], labels: list[tuple]) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    rows = [(n, START + timedelta(hours=h), w, a, "k") for n, (h, w, a) in enumerate(events)]
    known = [(n, bad, START + timedelta(hours=h)) for n, bad, h in labels]
    return (
        pl.DataFrame(rows, schema=EVENTS, orient="row").lazy(),
        pl.DataFrame(known, schema=LABELS, orient="row").lazy(),
    )


# Few hours and entities, so that ties, window borders and shared days are common.
EVENT = st.tuples(
    st.integers(0, 20).map(lambda n: n * 6),
    st.sampled_from("ab"),
    st.none() | st.integers(0, 9).map(float),
)
LABEL = st.tuples(st.integers(0, 11), st.integers(0, 1), st.integers(0, 30).map(lambda n: n * 6))


def oracle(events: list[tuple], labels: list[tuple], spec: PipelineSpec) -> dict[int, dict]:
    """What the docstring of `Windows` says, one row and one window at a time, in hours.

    Of several labels the one known first counts, of two at once the positive one; in a label rate
    of those that were known between the row and two days later.
    """
    first, timely = {}, {}
    for known, negative, key in sorted((known, -bad, key) for key, bad, known in labels):
        first.setdefault(key, -negative)
        if key < len(events) and events[key][0] <= known <= events[key][0] + 48:
            timely.setdefault(key, -negative)
    final = spec.label.absent == "negative" and spec.label.matures_after_days <= 2
    rows = {}
    for key, (hour, who, _) in enumerate(events):
        row: dict[str, Any] = {"label": first.get(key)}
        for days in (1, 3):
            inside = [a for h, w, a in events if w == who and hour - 24 * days < h <= hour]
            there = [a for a in inside if a is not None]
            row[f"who_count_{days}d"] = len(inside)
            row[f"who_mean_amount_{days}d"] = sum(there) / len(there) if there else None
        late = [n for n, (h, w, _) in enumerate(events) if w == who and -96 < h - hour <= -48]
        told = [timely[n] for n in late if n in timely]
        known = len(late) if final else len(told)
        row["who_count_2d"] = len(late)
        row["who_label_rate_2d"] = sum(told) / known if known else None
        rows[key] = row
    return rows


@settings(max_examples=60, deadline=None)
@given(
    st.lists(EVENT, min_size=1, max_size=12),
    st.lists(LABEL, max_size=12),
    st.sampled_from([("negative", 2), ("negative", 3), ("unknown", 2)]),
)
def test_labels_and_windows_equal_a_naive_count_row_by_row(
    events: list[tuple], labels: list[tuple], rule: tuple[str, int]
) -> None:
    spec = make_spec(label={"absent": rule[0], "matures_after_days": rule[1]})
    frame = compute_features(*make_frames(events, labels), spec)
    expected = oracle(events, labels, spec)
    assert frame.height == len(events)
    for row in frame.iter_rows(named=True):
        for name, value in expected[row["id"]].items():
            if value is None:
                assert row[name] is None, name
            else:
                assert math.isclose(row[name], value, abs_tol=1e-9), name


@settings(max_examples=60, deadline=None)
@given(
    st.lists(EVENT, min_size=2, max_size=12),
    st.lists(LABEL, max_size=12),
    st.integers(0, 20).map(lambda n: n * 6),
)
def test_the_future_changes_no_bit_of_the_past(
    events: list[tuple], labels: list[tuple], now: int
) -> None:
    events = sorted(events, key=lambda event: event[0])
    spec = make_spec()
    past = [event for event in events if event[0] <= now]
    if not past:
        return
    told = [label for label in labels if label[2] <= now and label[0] < len(past)]
    names = [column.name for column in feature_columns(spec)]
    now_known = compute_features(*make_frames(past, told), spec).select("id", *names)
    later = compute_features(*make_frames(events, labels), spec).select("id", *names)
    assert_frame_equal(later.filter(pl.col("id") < len(past)), now_known, check_exact=True)


def test_columns_types_and_order() -> None:
    spec = make_spec()
    events = [(30, "b", 1.0), (2, "a", None), (2, "a", 3.0)]
    frame = compute_features(*make_frames(events, [(0, 1, 40)]), spec)
    inputs = [column.name for column in feature_columns(spec)]
    assert frame.columns == ["id", "at", "who", *inputs, "label", "label_known_at"]
    assert frame["id"].to_list() == [1, 2, 0]
    assert frame["label"].to_list() == [None, None, 1]
    assert frame["label_known_at"].to_list() == [None, None, START + timedelta(hours=40)]
    kinds = {**dict.fromkeys(inputs, pl.Float64), "kind": pl.String}
    assert {name: frame.schema[name] for name in inputs} == kinds
    assert frame.schema["label"] == pl.Int8
    assert frame.schema["label_known_at"] == UTC_US


def test_rows_of_one_moment_stand_by_their_key_however_they_came() -> None:
    events, labels = make_frames([(2, "a", 1.0), (2, "a", 2.0), (2, "b", 3.0)], [])
    for way in (events, events.reverse()):
        assert compute_features(way, labels, make_spec())["id"].to_list() == [0, 1, 2]


def test_means_stay_within_the_bounds_of_their_column() -> None:
    # Differences of running totals of 0.1 would come out above and below 0.1.
    columns = {**COLUMNS, "amount": {"type": "number", "min": 0.1, "max": 0.1}}
    events = [(6 * n, "a", 0.1) for n in range(50)]
    frame = compute_features(*make_frames(events, []), make_spec(contract={"columns": columns}))
    assert set(frame["who_mean_amount_3d"]) == {0.1}


def test_calendar_is_in_utc() -> None:
    parts = ["hour", "weekday", "month", "weekend", "night"]
    spec = make_spec(features={"calendar": parts})
    # 2024-03-01 is a Friday; + 30 h is Saturday 06:00, + 79 h is Monday 07:00.
    frame = compute_features(
        *make_frames([(0, "a", 1.0), (30, "a", 1.0), (79, "a", 1.0)], []), spec
    )
    assert frame.select(parts).rows() == [(0, 4, 3, 0, 1), (6, 5, 3, 1, 1), (7, 0, 3, 0, 0)]


def test_a_label_column_is_known_when_it_matures() -> None:
    columns = {**COLUMNS, "bad": {"type": "boolean", "nullable": True}}
    spec = make_spec(contract={"columns": columns}, label={"source": None, "positive": True})
    events = make_frames([(0, "a", 1.0), (1, "a", 1.0), (2, "a", 1.0)], [])[0]
    frame = compute_features(events.with_columns(bad=pl.Series([True, False, None])), None, spec)
    assert frame["label"].to_list() == [1, 0, None]
    assert frame["label_known_at"].to_list() == [
        START + timedelta(days=2),
        START + timedelta(days=2, hours=1),
        None,
    ]


def test_as_of_comes_from_the_data() -> None:
    events, labels = make_frames([(0, "a", 1.0), (5, "a", 1.0)], [(0, 1, 3), (1, 0, 4)])
    assert as_of(events, labels, make_spec()) == START + timedelta(hours=4)
    assert as_of(events, None, make_spec()) == START + timedelta(hours=5)
    with pytest.raises(NotEnoughData, match="no labels yet"):
        as_of(events, labels.clear(), make_spec())


def test_labels_of_their_own_must_be_given() -> None:
    with pytest.raises(DataError, match="labels of its own"):
        compute_features(make_frames([(0, "a", 1.0)], [])[0], None, make_spec())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"columns": ["amount", "amount"]}, "two features are called 'amount'"),
        ({"columns": ["at"]}, "'at' is a time"),
        (
            {"windows": [{"entity": "id", "days": [1], "stats": ["mean"], "of": "who"}]},
            "only numbers have a mean",
        ),
        (
            {"windows": [{"entity": "amount", "days": [1], "stats": ["count"]}]},
            "'amount' is nullable",
        ),
        ({"columns": ["label"]}, "'label' is reserved"),
    ],
)
def test_impossible_features_are_refused(features: dict[str, Any], message: str) -> None:
    columns = {**COLUMNS, "label": {"type": "number"}}
    with pytest.raises(SpecError, match=message):
        check_features(make_spec(contract={"columns": columns}, features=features))


def test_of_several_labels_a_rate_counts_the_first_that_was_known_after_its_row() -> None:
    frame = compute_features(
        *make_frames([(5, "a", 1.0), (60, "a", 1.0)], [(0, 0, 4), (0, 1, 6), (0, 0, 7)]),
        make_spec(),
    )
    assert frame["who_label_rate_2d"].to_list() == [None, 1.0]
    assert frame["label"].to_list() == [0, None]


@pytest.mark.parametrize("told", [(0, 1), (1, 0)])
def test_of_two_labels_known_at_once_the_positive_one_counts(told: tuple[int, int]) -> None:
    frame = compute_features(
        *make_frames([(5, "a", 1.0), (60, "a", 1.0)], [(0, bad, 6) for bad in told]), make_spec()
    )
    assert frame["who_label_rate_2d"].to_list() == [None, 1.0]
    assert frame["label"].to_list() == [1, None]
