"""The fingerprint is stable for ever, and equal exactly for equal multisets of rows."""

import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.fingerprint import fingerprint

SCHEMA = {"b": pl.Float64, "a": pl.Int64, "c": pl.String}
# Close neighbours, and strings that try to look like other rows.
ROW = st.tuples(
    st.none() | st.sampled_from([0.0, -0.0, 1.0, 1.5, math.nan, math.inf, 1e300]),
    st.none() | st.sampled_from([0, 1, -1, 12]),
    st.none() | st.sampled_from(["", "~", "|", "1", "0:", "1|2:", "NaN", "é", "\0"]),
)
ROWS = st.lists(ROW, max_size=6)


def frame_of(rows: list[tuple[Any, ...]]) -> pl.LazyFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").lazy()


def multiset(rows: list[tuple[Any, ...]]) -> Counter[str]:
    return Counter(
        repr(tuple(0.0 if value == 0 else value for value in row[:1]) + row[1:]) for row in rows
    )


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(ROWS, ROWS)
    | ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows)))
)
def test_equal_exactly_for_equal_multisets(orders: tuple[list[Any], list[Any]]) -> None:
    one, two = orders
    # The order of the columns is nothing, either.
    equal = fingerprint(frame_of(one)) == fingerprint(frame_of(two).select("c", "b", "a"))
    assert equal == (multiset(one) == multiset(two))


def test_golden_value() -> None:
    frame = pl.DataFrame(
        {
            "id": pl.Series([1, None], dtype=pl.Int64),
            "small": pl.Series([None, -7], dtype=pl.Int8),
            "amount": [1e300, -0.0],
            "name": ["Zoë|1", None],
            "flag": [True, None],
            "rules": [["a", None], []],
            "at": pl.Series([datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC), None]),
        }
    )
    assert fingerprint(frame.lazy()) == "v1:2:a2794851ac5f8b6e:360341f7"


def test_nans_are_equal_whatever_their_bits() -> None:
    bits = pl.Series([0x7FF8000000000000, 0x7FF8000000000001]).reinterpret(dtype=pl.Float64)
    one, two = (fingerprint(bits[n : n + 1].to_frame("a").lazy()) for n in (0, 1))
    assert one == two


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ([[]], [None]),
        ([[]], [[None]]),
        ([["a", "b"]], [["a|1:b"]]),
        ([["a", "b"]], [["b", "a"]]),
    ],
)
def test_lists_differ_by_their_items(one: list[Any], two: list[Any]) -> None:
    kind = {"rules": pl.List(pl.String)}
    first, second = (
        fingerprint(pl.DataFrame({"rules": v}, schema=kind).lazy()) for v in (one, two)
    )
    assert first != second


def test_the_type_of_a_column_counts() -> None:
    narrow = pl.DataFrame({"a": [1]}, schema={"a": pl.Int32}).lazy()
    assert fingerprint(narrow) != fingerprint(narrow.cast(pl.Int64))


def test_the_sum_wraps_at_64_bits() -> None:
    """Five rows whose hashes add up to more than 2^64."""
    frames = [pl.DataFrame({"a": [value]}).lazy() for value in range(5)]
    parts = [int(fingerprint(frame).split(":")[2], 16) for frame in frames]
    assert sum(parts) >= 2**64
    assert int(fingerprint(pl.concat(frames)).split(":")[2], 16) == sum(parts) % 2**64


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(DataError, match="column 'a' is a Duration"):
        fingerprint(pl.DataFrame({"a": [1]}).select(pl.duration(days="a").alias("a")).lazy())
