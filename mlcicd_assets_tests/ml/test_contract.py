"""Every kind of rule breaks on its own kind of row, and bad contracts are refused."""

import math
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mlcicd_assets.ml.contract import (
    DAY,
    RuleBreak,
    check_batch,
    check_rules,
    check_schema,
    event_schema,
    find_twins,
    label_schema,
)
from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.ml.specs import small_spec

START = datetime(2024, 3, 1, tzinfo=UTC)
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"type": "integer", "min": 0.5},
    "at": {"type": "timestamp"},
    "amount": {"type": "number", "min": 0, "max": 10},
    "kind": {"type": "string", "categories": ["a", "b"], "nullable": True},
    "limit": {"type": "number", "nullable": True},
    "online": {"type": "boolean"},
}
GOOD = {"id": 1, "at": START, "amount": 5.0, "kind": "a", "limit": 9.0, "online": True}
# Named like a column: the two must not be taken for each other.
RULES = [{"name": "amount", "check": "amount <= coalesce(limit, amount)"}]


def make_spec(columns: dict[str, Any] | None = None, **contract: Any) -> PipelineSpec:
    return small_spec({**COLUMNS, **(columns or {})}, contract={"rules": RULES, **contract})


def make_batch(spec: PipelineSpec, *rows: dict[str, Any]) -> pl.DataFrame:
    schema = pl.DataFrame(event_schema(spec).empty_table()).schema
    return pl.DataFrame([{**GOOD, "id": n + 1, **row} for n, row in enumerate(rows)], schema=schema)


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        ({"id": None}, ["id:nullable"]),
        ({"id": 0}, ["id:min"]),
        ({"at": None}, ["at:nullable"]),
        ({"amount": -0.1}, ["amount:min"]),
        ({"amount": 10.5, "limit": None}, ["amount:max"]),
        ({"amount": math.nan, "limit": None}, ["amount:finite", "amount:max"]),
        ({"amount": -math.inf}, ["amount:finite", "amount:min"]),
        ({"kind": "c"}, ["kind:categories"]),
        ({"limit": math.inf}, ["limit:finite"]),
        ({"online": None}, ["online:nullable"]),
        ({"limit": 4.0}, ["amount"]),
    ],
)
def test_each_rule_quarantines_its_row_alone(row: dict[str, Any], rules: list[str]) -> None:
    spec = make_spec()
    report = check_batch(make_batch(spec, {}, row, {"kind": None, "limit": None}), spec)
    assert report.quarantined["broken_rules"].to_list() == [rules]
    assert report.quarantined.drop("broken_rules").equals(make_batch(spec, {}, row)[1:])
    assert report.good.equals(make_batch(spec, {}, {}, {"kind": None, "limit": None})[::2])
    assert report.broken == dict.fromkeys(rules, 1)
    assert (report.failures, report.rows) == ((), 3)


def test_an_unanswered_rule_is_broken() -> None:
    spec = make_spec(rules=[{"name": "within", "check": "amount <= limit"}])
    report = check_batch(make_batch(spec, {"limit": None}, {}), spec)
    assert report.broken == {"within": 1}
    assert report.good["id"].to_list() == [2]


def test_rules_of_the_same_name_all_count() -> None:
    checks = ("amount <= limit", "online", "true")
    spec = make_spec(rules=[{"name": "unique_key", "check": check} for check in checks])
    report = check_batch(make_batch(spec, {"amount": 9.5, "online": False}, {}, {"id": 2}), spec)
    assert report.broken == {"unique_key": 2}


def test_of_a_repeated_key_the_first_row_in_time_then_by_its_columns_stays() -> None:
    spec = make_spec()
    rows = [
        {"id": 7, "at": START + timedelta(hours=2), "amount": 1.0},
        {"id": 7, "amount": 2.0},
        {"id": 8, "at": START + timedelta(hours=1), "amount": 3.0},
        {"id": 7, "amount": 4.0},
        {"id": 8, "amount": 5.0},
    ]
    for order in permutations(rows):
        batch = make_batch(spec, *order)
        report = check_batch(batch, spec)
        assert set(report.good["amount"]) == {2.0, 5.0}
        assert report.broken == {"unique_key": 3}
        taken = batch.filter(pl.col("id") == 8).select("id")
        assert set(check_batch(batch, spec, taken).good["amount"]) == {2.0}


@pytest.mark.parametrize("changed", [None, [2], [1, 2, 3]])
def test_keys_of_several_days_are_found_with_all_their_days(changed: list[int] | None) -> None:
    days = {1: [7, 8, 8, None], 2: [7, 9], 3: [5, None, 4], 4: [8, 4]}
    rows = [(key, day) for day, keys in days.items() for key in keys]
    frame = pl.DataFrame(rows, schema={"id": pl.Int64, DAY: pl.Int32}, orient="row").lazy()
    wanted = [key for day in changed or () for key in days[day]]
    asked = pl.DataFrame({"id": [*wanted, 4]}, schema={"id": pl.Int64}).unique()
    found = find_twins(frame, asked if changed else None, ["id"])
    twins = {(7, 1), (7, 2), (4, 3), (4, 4)}
    more = {(8, 1), (8, 4), (None, 1), (None, 3)}
    assert set(found.rows()) == (twins if changed == [2] else twins | more)
    assert found.height == len(set(found.rows()))


def test_rules_that_fail_the_batch_say_how_many_rows() -> None:
    columns = {"amount": {**COLUMNS["amount"], "on_break": "fail"}}
    rules = [{"name": "within", "check": "amount <= limit", "on_break": "fail"}]
    spec = make_spec(columns, rules=rules, unique_key="fail", rows={"min": 9, "max": 10})
    later = START + timedelta(hours=1)
    rows = [{"id": 1, "amount": 11.0}, {"id": 1, "at": later}, {"id": 2, "kind": "c"}]
    report = check_batch(make_batch(spec, *rows), spec)
    assert report.failures == (
        RuleBreak("amount:max", "1 rows", "0 rows"),
        RuleBreak("unique_key", "1 rows", "0 rows"),
        RuleBreak("within", "1 rows", "0 rows"),
        RuleBreak("rows", "3 rows", "9 to 10 rows"),
    )
    assert report.quarantined["broken_rules"].to_list() == [
        ["amount:max", "within"],
        ["unique_key"],
        ["kind:categories"],
    ]


def test_an_empty_batch_breaks_only_the_row_count() -> None:
    spec = make_spec()
    report = check_batch(make_batch(spec), spec)
    assert report.failures == (RuleBreak("rows", "0 rows", "1 to 100000000 rows"),)
    assert report.good.schema == make_batch(spec).schema
    assert report.quarantined.schema["broken_rules"] == pl.List(pl.String)


def test_schemas_are_compared_whatever_their_order() -> None:
    one, two = pa.field("a", pa.int64()), pa.field("b", pa.string())
    check_schema(pa.schema([two, one]), pa.schema([one, two]), what="x")
    found = pa.schema([one, one, pa.field("b", pa.int8()), pa.field("c", pa.int8())])
    with pytest.raises(SchemaMismatch) as error:
        check_schema(found, pa.schema([one, two, pa.field("d", pa.int8())]), what="x")
    assert str(error.value).startswith(
        "x: column 'a' is int64, int64 and must be int64; column 'b' is int8 and must be string; "
        "column 'd' is missing and must be int8; column 'c' is int8 and must be left out"
    )


@pytest.mark.parametrize(
    ("positive", "kind"), [(1, pa.int64()), ("yes", pa.string()), (True, pa.bool_())]
)
def test_label_schema_follows_the_positive_value(positive: Any, kind: pa.DataType) -> None:
    schema = label_schema(small_spec(COLUMNS, label={"positive": positive}))
    stamp = pa.timestamp("us", "UTC")
    assert schema == pa.schema([("id", pa.int64()), ("bad", kind), ("known_at", stamp)])


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"kind": {"type": "string", "min": 1}}, "'kind' is a string"),
        ({"limit": {"type": "number", "categories": ["a"]}}, "for strings only"),
        ({"at": {"type": "string"}}, "time column 'at' must be a timestamp"),
        ({"id": {"type": "integer", "nullable": True}}, "key column 'id'"),
    ],
)
def test_impossible_columns_are_refused(column: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_rules(make_spec(column))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": {"column": "at", "zone": "Mars/Base"}}, "Mars/Base"),
        (
            {"label": {"column": "kind", "source": None}},
            "kind' is a string: with target binary and 1 it must be integer",
        ),
        ({"label": {"column": "limit", "source": None, "positive": "x"}}, "'x' it must be string"),
    ],
)
def test_impossible_times_and_labels_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_rules(small_spec(COLUMNS, **changes))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("amount <=", "rule 'r' cannot be read"),
        ("nosuch > 1", "nosuch"),
        ("amount > 'a'", "rule 'r' cannot be read"),
        ("amount + 1", "must be true for a good row"),
    ],
)
def test_rules_without_sense_are_refused(check: str, message: str) -> None:
    check_rules(make_spec())
    with pytest.raises(SpecError, match=message):
        check_rules(make_spec(rules=[{"name": "r", "check": check}]))
