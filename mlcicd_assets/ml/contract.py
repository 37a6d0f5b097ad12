"""The data contract: exact Arrow schemas, and the rules that every row of a batch must meet."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.spec import ContractColumn, PipelineSpec, RowRule

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

# What dataframely calls its column rules, in the words of the contract.
RULE_WORDS = {
    "nullability": "nullable",
    "nan": "finite",
    "inf": "finite",
    "check__categories": "categories",
}


@dataclass(frozen=True)
class RuleBreak:
    """A rule that fails the whole batch, e.g. `amount:max`, '3 rows', '0 rows'."""

    rule: str
    observed: str
    threshold: str


@dataclass(frozen=True)
class ContractReport:
    """What a batch of `rows` rows is worth.

    `good` and `quarantined` share out the rows in input order; `quarantined` has the extra
    column `broken_rules` (list of rule names). `broken` counts rows by broken rule. With any
    `failures` the batch must not be used at all.
    """

    good: "pl.DataFrame"
    quarantined: "pl.DataFrame"
    broken: dict[str, int]
    failures: tuple[RuleBreak, ...]
    rows: int


def event_schema(spec: PipelineSpec) -> "pa.Schema":
    """Return the exact Arrow schema of raw events, in the order of the contract."""
    import pyarrow as pa

    return pa.schema(
        [(name, _arrow_type(rule.type)) for name, rule in spec.contract.columns.items()]
    )


def label_schema(spec: PipelineSpec) -> "pa.Schema":
    """Return the Arrow schema of a label source: key, label, known_at.

    The label's type is that of `label.positive`.
    """
    import pyarrow as pa

    kinds = {bool: "boolean", int: "integer", str: "string"}
    return pa.schema(
        [
            *[(name, _arrow_type(spec.contract.columns[name].type)) for name in spec.key],
            (spec.label.column, _arrow_type(kinds[type(spec.label.positive)])),
            (spec.label.known_at, _arrow_type("timestamp")),
        ]
    )


def check_schema(found: "pa.Schema", expected: "pa.Schema", *, what: str) -> None:
    """Compare two schemas, whatever the order of their fields.

    Raises:
        SchemaMismatch: lists every missing, extra, repeated and differently typed column.
    """
    names = found.names
    faults = [f"column '{name}' is missing" for name in expected.names if name not in names]
    faults += [f"column '{name}' is not expected" for name in names if name not in expected.names]
    faults += [
        f"column '{name}' occurs twice" for name in sorted({*names}) if names.count(name) > 1
    ]
    faults += [
        f"column '{name}' is {found.field(name).type} and must be {expected.field(name).type}"
        for name in expected.names
        if names.count(name) == 1 and found.field(name).type != expected.field(name).type
    ]
    if faults:
        raise SchemaMismatch(
            f"{what}: {'; '.join(faults)}. Deliver exactly these columns, or change the contract"
        )


def check_rules(spec: PipelineSpec) -> None:
    """Check the contract itself, without data.

    Raises:
        SpecError: a rule cannot be parsed or names unknown columns, a bound stands on a column
            that has no order, or key, time or label cannot have the type that they have.
    """
    faults = [
        fault
        for name, rule in spec.contract.columns.items()
        for fault in _column_faults(name, rule)
    ]
    faults += [fault for rule in spec.contract.rules for fault in _rule_faults(rule, spec)]
    faults += _time_faults(spec) + _label_faults(spec)
    faults += [
        f"key column '{name}' must not be nullable"
        for name in spec.key
        if spec.contract.columns[name].nullable
    ]
    if faults:
        raise SpecError(f"contract of '{spec.name}': {'; '.join(faults)}")


def check_batch(frame: "pl.DataFrame", spec: PipelineSpec) -> ContractReport:
    """Split a batch into good and quarantined rows, by every rule of the contract.

    A repeated key keeps its first row by event time, then by input order.

    Raises:
        SchemaMismatch: the frame does not have exactly the contract's columns and types.
        SpecError: see `check_rules`.
    """
    import polars as pl
    import pyarrow as pa

    check_rules(spec)
    expected = event_schema(spec)
    fields = [
        field.with_type(pa.string()) if pa.types.is_large_string(field.type) else field
        for field in frame.head(0).to_arrow().schema
    ]
    check_schema(pa.schema(fields), expected, what="batch")
    good, failure = _row_schema(spec).filter(frame.select(expected.names))
    quarantined = _with_broken_rules(failure.details(), expected.names)
    counts = quarantined["broken_rules"].explode(empty_as_null=False).value_counts(sort=True)
    broken = dict(counts.iter_rows())
    return ContractReport(
        # Undo dataframely's own frame type: what leaves here is an ordinary polars frame.
        good=pl.DataFrame(good),
        quarantined=quarantined,
        broken=broken,
        failures=_failures(broken, rows=frame.height, spec=spec),
        rows=frame.height,
    )


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return {
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }[kind]


def _row_schema(spec: PipelineSpec) -> Any:
    """Build the dataframely schema; attribute names of ours, so that no column hides a method."""
    import dataframely as dy
    import polars as pl

    parts: dict[str, Any] = {
        f"column_{place}": _column(name, rule)
        for place, (name, rule) in enumerate(spec.contract.columns.items())
    }
    for rule in spec.contract.rules:
        # dataframely takes NULL for good; a rule that cannot be answered is broken here.
        parts[f"|{rule.name}"] = _row_rule(pl.sql_expr(rule.check).fill_null(False))
    parts["|unique_key"] = _row_rule(_is_first(spec))
    return type("Batch", (dy.Schema,), parts)


def _row_rule(expression: "pl.Expr") -> Any:
    import dataframely as dy

    def check(_: Any) -> "pl.Expr":
        return expression

    return dy.rule()(check)


def _column(name: str, rule: ContractColumn) -> Any:
    import dataframely as dy

    common: dict[str, Any] = {"nullable": rule.nullable, "alias": name}
    match rule.type:
        case "integer":
            low = None if rule.min is None else math.ceil(rule.min)
            high = None if rule.max is None else math.floor(rule.max)
            return dy.Int64(min=low, max=high, **common)
        case "number":
            return dy.Float64(min=rule.min, max=rule.max, **common)
        case "boolean":
            return dy.Bool(**common)
        case "timestamp":
            return dy.Datetime(time_zone="UTC", time_unit="us", **common)
        case "string":
            return dy.String(check=_category_check(rule.categories), **common)


def _category_check(allowed: tuple[str, ...] | None) -> Any:
    def is_known(text: "pl.Expr") -> "pl.Expr":
        return text.is_in(allowed or ())

    return None if allowed is None else {"categories": is_known}


def _is_first(spec: PipelineSpec) -> "pl.Expr":
    """True for the first row of its key, by time and then by input order."""
    import polars as pl

    time = spec.time.column
    first = pl.struct(spec.key).sort_by(time, maintain_order=True).is_first_distinct()
    return first.sort_by(pl.int_range(pl.len()).sort_by(time, maintain_order=True))


def _with_broken_rules(details: "pl.DataFrame", columns: list[str]) -> "pl.DataFrame":
    import polars as pl

    rules = [name for name in details.columns if name not in columns]
    names = [pl.when(pl.col(rule) == "invalid").then(pl.lit(_public_name(rule))) for rule in rules]
    broken = pl.concat_list(names).list.drop_nulls().list.unique().list.sort()
    return details.select(*columns, broken.alias("broken_rules"))


def _public_name(rule: str) -> str:
    column, _, check = rule.partition("|")
    return f"{column}:{RULE_WORDS.get(check, check)}" if column else check


def _failures(broken: dict[str, int], *, rows: int, spec: PipelineSpec) -> tuple[RuleBreak, ...]:
    contract = spec.contract
    answers = {rule.name: rule.on_break for rule in contract.rules}
    answers["unique_key"] = contract.unique_key
    failures = [
        RuleBreak(rule, f"{count} rows", "0 rows")
        for rule, count in sorted(broken.items())
        if (answers.get(rule) or contract.columns[rule.partition(":")[0]].on_break) == "fail"
    ]
    if not contract.rows.min <= rows <= contract.rows.max:
        bounds = f"{contract.rows.min} to {contract.rows.max} rows"
        failures.append(RuleBreak("rows", f"{rows} rows", bounds))
    return tuple(failures)


def _column_faults(name: str, rule: ContractColumn) -> list[str]:
    faults: list[str] = []
    bounded = rule.min is not None or rule.max is not None
    if bounded and rule.type not in {"integer", "number"}:
        faults.append(f"'{name}' is a {rule.type}: min and max are for integers and numbers only")
    if rule.min is not None and rule.max is not None and rule.min > rule.max:
        faults.append(f"'{name}': min {rule.min} is above max {rule.max}")
    if rule.categories is not None and rule.type != "string":
        faults.append(f"'{name}' is a {rule.type}: categories are for strings only")
    return faults


def _rule_faults(rule: RowRule, spec: PipelineSpec) -> list[str]:
    import polars as pl

    if rule.name in {"unique_key", "rows"}:
        return [f"'{rule.name}' is the name of a built-in rule: choose another"]
    # Not by way of Arrow: that imports pandas, and this runs whenever the definitions load.
    types = {
        "integer": pl.Int64(),
        "number": pl.Float64(),
        "boolean": pl.Boolean(),
        "string": pl.String(),
        "timestamp": pl.Datetime("us", "UTC"),
    }
    frame = pl.DataFrame(
        schema={name: types[column.type] for name, column in spec.contract.columns.items()}
    )
    try:
        found = frame.select(pl.sql_expr(rule.check).alias("good"))["good"].dtype
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        return [f"rule '{rule.name}' cannot be read: {reason}; correct '{rule.check}'"]
    if found != pl.Boolean:
        return [f"rule '{rule.name}' gives {found}: '{rule.check}' must be true for a good row"]
    return []


def _time_faults(spec: PipelineSpec) -> list[str]:
    column = spec.contract.columns[spec.time.column]
    faults: list[str] = []
    if column.type != "timestamp" or column.nullable:
        faults.append(f"time column '{spec.time.column}' must be a timestamp and not nullable")
    try:
        ZoneInfo(spec.time.zone)
    except (ZoneInfoNotFoundError, ValueError):
        faults.append(f"time zone '{spec.time.zone}' does not exist: give one such as UTC")
    if "%Z" in spec.time.format:
        faults.append("time.format: zone names (%Z) cannot be read; use offsets (%z) or time.zone")
    return faults


def _label_faults(spec: PipelineSpec) -> list[str]:
    if spec.label.source is not None:
        return []
    kind = spec.contract.columns[spec.label.column].type
    if (kind == "string") != isinstance(spec.label.positive, str) or kind == "timestamp":
        return [
            f"label '{spec.label.column}' is a {kind}: 'positive' cannot be {spec.label.positive!r}"
        ]
    return []
