"""Every kind of rule breaks on its own kind of row, and bad contracts are refused."""

import math
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from mlcicd_assets.ml.contract import (
    RuleBreak,
    check_batch,
    check_rules,
    check_schema,
    event_schema,
    label_schema,
)
from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.spec import PipelineSpec

START = datetime(2024, 3, 1, tzinfo=UTC)
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"type": "integer", "min": 0.5},
    "at": {"type": "timestamp"},
    # Named like a method of dataframely's Schema, which it must not hide.
    "filter": {"type": "number", "min": 0, "max": 10},
    "kind": {"type": "string", "categories": ["a", "b"], "nullable": True},
    "limit": {"type": "number", "nullable": True},
    "online": {"type": "boolean"},
}
GOOD = {"id": 1, "at": START, "filter": 5.0, "kind": "a", "limit": 9.0, "online": True}
RULES = [{"name": "filter", "check": "filter <= coalesce(limit, filter)"}]


def make_spec(
    *,
    columns: dict[str, dict[str, Any]] | None = None,
    rules: list[dict[str, str]] | None = None,
    contract: dict[str, Any] | None = None,
    **changes: Any,
) -> PipelineSpec:
    return PipelineSpec.model_validate(
        {
            "name": "small",
            "description": "A small one.",
            "owners": ["team:x"],
            "source": {"landing": "events"},
            "key": ["id"],
            "time": {"column": "at"},
            "label": {"column": "bad", "source": {"landing": "labels"}},
            "contract": {
                "columns": {**COLUMNS, **(columns or {})},
                "rules": RULES if rules is None else rules,
                **(contract or {}),
            },
            "features": {"columns": ["filter"]},
            "split": {"holdout_days": 1},
            "training": {"estimator": "LogisticRegression"},
            "gates": {"floors": {"roc_auc": 0.5}},
            **changes,
        }
    )


def make_batch(spec: PipelineSpec, *rows: dict[str, Any]) -> pl.DataFrame:
    schema = pl.DataFrame(event_schema(spec).empty_table()).schema
    return pl.DataFrame([{**GOOD, "id": n + 1, **row} for n, row in enumerate(rows)], schema=schema)


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"id": None}, "id:nullable"),
        ({"id": 0}, "id:min"),
        ({"at": None}, "at:nullable"),
        ({"filter": -0.1, "limit": None}, "filter:min"),
        ({"filter": 10.5, "limit": None}, "filter:max"),
        ({"kind": "c"}, "kind:categories"),
        ({"limit": math.nan}, "limit:finite"),
        ({"limit": math.inf}, "limit:finite"),
        ({"online": None}, "online:nullable"),
        ({"limit": 4.0}, "filter"),
    ],
)
def test_each_rule_quarantines_its_row_alone(row: dict[str, Any], rule: str) -> None:
    spec = make_spec()
    report = check_batch(make_batch(spec, {}, row, {"kind": None, "limit": None}), spec)
    assert report.quarantined["broken_rules"].to_list() == [[rule]]
    assert report.quarantined.drop("broken_rules").equals(make_batch(spec, {}, row)[1:])
    assert report.good.equals(make_batch(spec, {}, {}, {"kind": None, "limit": None})[::2])
    assert report.broken == {rule: 1}
    assert (report.failures, report.rows) == ((), 3)


def test_nan_and_infinity_never_pass_bounds() -> None:
    spec = make_spec(rules=[])
    values = [{"filter": value} for value in (math.nan, math.inf, -math.inf)]
    report = check_batch(make_batch(spec, *values), spec)
    assert report.good.is_empty()
    assert report.broken["filter:finite"] == 3


def test_an_unanswered_rule_is_broken() -> None:
    spec = make_spec(rules=[{"name": "within", "check": "filter <= limit"}])
    report = check_batch(make_batch(spec, {"limit": None}, {}), spec)
    assert report.broken == {"within": 1}
    assert report.good["id"].to_list() == [2]


def test_of_a_repeated_key_the_first_row_in_time_then_input_stays() -> None:
    spec = make_spec()
    rows = [
        {"id": 7, "at": START + timedelta(hours=2), "filter": 1.0},
        {"id": 7, "filter": 2.0},
        {"id": 8, "at": START + timedelta(hours=1), "filter": 3.0},
        {"id": 7, "filter": 4.0},
        {"id": 8, "filter": 5.0},
    ]
    for order in permutations(rows):
        report = check_batch(make_batch(spec, *order), spec)
        first_seven = next(row["filter"] for row in order if row["filter"] in {2.0, 4.0})
        assert set(report.good["filter"]) == {first_seven, 5.0}
        assert report.broken == {"unique_key": 3}


def test_rules_that_fail_the_batch_say_how_many_rows() -> None:
    columns = {"filter": {**COLUMNS["filter"], "on_break": "fail"}}
    rules = [{"name": "within", "check": "filter <= limit", "on_break": "fail"}]
    contract = {"unique_key": "fail", "rows": {"min": 9, "max": 10}}
    spec = make_spec(columns=columns, rules=rules, contract=contract)
    rows = [{"id": 1, "filter": 11.0}, {"id": 1}, {"id": 2, "kind": "c"}]
    report = check_batch(make_batch(spec, *rows), spec)
    assert report.failures == (
        RuleBreak("filter:max", "1 rows", "0 rows"),
        RuleBreak("unique_key", "1 rows", "0 rows"),
        RuleBreak("within", "1 rows", "0 rows"),
        RuleBreak("rows", "3 rows", "9 to 10 rows"),
    )
    assert report.quarantined["broken_rules"].to_list() == [
        ["filter:max", "within"],
        ["unique_key"],
        ["kind:categories"],
    ]


def test_an_empty_batch_breaks_only_the_row_count() -> None:
    spec = make_spec()
    report = check_batch(make_batch(spec), spec)
    assert report.failures == (RuleBreak("rows", "0 rows", "1 to 100000000 rows"),)
    assert report.good.schema == make_batch(spec).schema
    assert report.quarantined.schema["broken_rules"] == pl.List(pl.String)


def test_a_frame_with_other_columns_is_refused() -> None:
    spec = make_spec()
    frame = make_batch(spec, {}).with_columns(pl.col("id").cast(pl.Int32), more=1).drop("kind")
    with pytest.raises(SchemaMismatch) as error:
        check_batch(frame, spec)
    for part in ("'kind' is missing", "'more' is not expected", "'id' is int32 and must be int64"):
        assert part in str(error.value)


def test_schemas_are_compared_whatever_their_order() -> None:
    one, two = pa.field("a", pa.int64()), pa.field("b", pa.string())
    check_schema(pa.schema([two, one]), pa.schema([one, two]), what="x")
    with pytest.raises(SchemaMismatch, match="x: column 'a' occurs twice"):
        check_schema(pa.schema([one, two, one]), pa.schema([one, two]), what="x")


@pytest.mark.parametrize(
    ("positive", "kind"), [(1, pa.int64()), ("yes", pa.string()), (True, pa.bool_())]
)
def test_label_schema_follows_the_positive_value(positive: Any, kind: pa.DataType) -> None:
    label = {"column": "bad", "source": {"landing": "labels"}, "positive": positive}
    schema = label_schema(make_spec(label=label))
    stamp = pa.timestamp("us", "UTC")
    assert schema == pa.schema([("id", pa.int64()), ("bad", kind), ("known_at", stamp)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": [{"name": "r", "check": "filter <="}]}, "rule 'r' cannot be read"),
        ({"rules": [{"name": "r", "check": "nosuch > 1"}]}, "nosuch"),
        ({"rules": [{"name": "r", "check": "filter > 'a'"}]}, "rule 'r' cannot be read"),
        ({"rules": [{"name": "r", "check": "filter + 1"}]}, "must be true for a good row"),
        ({"rules": [{"name": "rows", "check": "true"}]}, "built-in"),
        ({"columns": {"kind": {"type": "string", "min": 1}}}, "'kind' is a string"),
        ({"columns": {"limit": {"type": "number", "min": 2, "max": 1}}}, "min 2.0 is above"),
        ({"columns": {"limit": {"type": "number", "categories": ["a"]}}}, "for strings only"),
        ({"columns": {"at": {"type": "string"}}}, "time column 'at' must be a timestamp"),
        ({"columns": {"id": {"type": "integer", "nullable": True}}}, "key column 'id'"),
        ({"time": {"column": "at", "zone": "Mars/Base"}}, "Mars/Base"),
        ({"time": {"column": "at", "format": "%Y %Z"}}, "use offsets"),
        ({"label": {"column": "kind"}}, "'positive' cannot be 1"),
        ({"label": {"column": "filter", "positive": "x"}}, "'positive' cannot be 'x'"),
    ],
)
def test_a_contract_that_cannot_hold_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_rules(make_spec(**changes))


def test_the_contract_of_a_good_spec_is_accepted() -> None:
    check_rules(make_spec())
