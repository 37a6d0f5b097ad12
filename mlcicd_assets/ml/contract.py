"""The data contract: exact Arrow schemas, and the rules that every row of a batch must meet."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.sections import ContractColumn, Label, OnBreak, RowRule
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


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


@dataclass(frozen=True)
class _Rule:
    """`good` is an expression over the batch: true where the row meets the rule, never null."""

    name: str
    good: "pl.Expr"
    on_break: OnBreak


def event_schema(spec: PipelineSpec) -> "pa.Schema":
    """Return the exact Arrow schema of raw events, in the order of the contract."""
    import pyarrow as pa

    return pa.schema(
        [(name, _arrow_type(rule.type)) for name, rule in spec.contract.columns.items()]
    )


def label_schema(spec: PipelineSpec) -> "pa.Schema":
    """Return the Arrow schema of a label source: key, label (see `label_types`), known_at."""
    import pyarrow as pa

    return pa.schema(
        [
            *[(name, _arrow_type(spec.contract.columns[name].type)) for name in spec.key],
            (spec.label.column, _arrow_type(label_types(spec.label)[0])),
            (spec.label.known_at, _arrow_type("timestamp")),
        ]
    )


def label_types(label: Label) -> tuple[str, ...]:
    """Return the contract types that a label may have, that of a source of its own first."""
    if label.target == "regression":
        return ("number", "integer")
    values = label.classes or (label.positive,)
    if isinstance(values[0], str):
        return ("string",)
    if label.classes:
        return ("integer",)
    whole = ("integer", "boolean", "number")
    return ("boolean", "integer", "number") if isinstance(label.positive, bool) else whole


def check_schema(found: "pa.Schema", expected: "pa.Schema", *, what: str) -> None:
    """Compare two schemas, whatever the order of their fields.

    Raises:
        SchemaMismatch: lists every missing, extra, repeated and differently typed column.
    """
    faults: list[str] = []
    for name in dict.fromkeys([*expected.names, *found.names]):
        has = ", ".join(str(field.type) for field in found if field.name == name)
        must = ", ".join(str(field.type) for field in expected if field.name == name)
        if has != must:
            faults.append(f"column '{name}' is {has or 'missing'} and must be {must or 'left out'}")
    if faults:
        raise SchemaMismatch(
            f"{what}: {'; '.join(faults)}. Deliver exactly these columns, or change the contract"
        )


def check_rules(spec: PipelineSpec) -> None:
    """Check the contract itself, without data.

    Raises:
        SpecError: a rule cannot be parsed or names unknown columns, a bound or category stands
            on a column that cannot have it, or key, time or label have an impossible type.
    """
    faults = [*_column_faults(spec)]
    faults += [fault for rule in spec.contract.rules for fault in _row_rule_faults(rule, spec)]
    if faults:
        raise SpecError(f"contract of '{spec.name}': {'; '.join(faults)}")


def check_batch(frame: "pl.DataFrame", spec: PipelineSpec) -> ContractReport:
    """Split a batch of exactly `event_schema` into good and quarantined rows.

    A repeated key keeps its first row by event time, then by input order.
    """
    import polars as pl

    rules = list(_rules(spec))
    # By number: a rule may have the name of a column, or of another rule.
    met = frame.select(rule.good.alias(str(number)) for number, rule in enumerate(rules))
    is_good = met.select(pl.all_horizontal(pl.all())).to_series()
    names = [
        pl.when(~pl.col(str(number))).then(pl.lit(rule.name)) for number, rule in enumerate(rules)
    ]
    broken_rules = pl.concat_list(names).list.drop_nulls().list.unique().list.sort()
    quarantined = frame.filter(~is_good).with_columns(
        met.filter(~is_good).select(broken_rules=broken_rules).to_series()
    )
    counts = quarantined["broken_rules"].explode(empty_as_null=False).value_counts(sort=True)
    broken = dict(counts.iter_rows())
    fatal = {rule.name for rule in rules if rule.on_break == "fail"} & broken.keys()
    failures = [RuleBreak(rule, f"{broken[rule]} rows", "0 rows") for rule in sorted(fatal)]
    bounds = spec.contract.rows
    if not bounds.min <= frame.height <= bounds.max:
        threshold = f"{bounds.min} to {bounds.max} rows"
        failures.append(RuleBreak("rows", f"{frame.height} rows", threshold))
    good = frame.filter(is_good)
    return ContractReport(good, quarantined, broken, tuple(failures), frame.height)


def _arrow_type(kind: str) -> "pa.DataType":
    import pyarrow as pa

    return {
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "string": pa.string(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }[kind]


def _rules(spec: PipelineSpec) -> Iterator[_Rule]:
    import polars as pl

    for name, column in spec.contract.columns.items():
        for check, good in _column_checks(name, column):
            yield _Rule(f"{name}:{check}", good.fill_null(True), column.on_break)
    for rule in spec.contract.rules:
        # A rule that cannot be answered is broken.
        yield _Rule(rule.name, pl.sql_expr(rule.check).fill_null(False), rule.on_break)
    time = spec.time.column
    first = pl.struct(spec.key).sort_by(time, maintain_order=True).is_first_distinct()
    in_input_order = first.sort_by(pl.int_range(pl.len()).sort_by(time, maintain_order=True))
    yield _Rule("unique_key", in_input_order, spec.contract.unique_key)


def _column_checks(name: str, rule: ContractColumn) -> "Iterator[tuple[str, pl.Expr]]":
    import polars as pl

    value = pl.col(name)
    if not rule.nullable:
        yield "nullable", value.is_not_null()
    if rule.type == "number":
        yield "finite", value.is_finite()
    if rule.min is not None:
        yield "min", value >= rule.min
    if rule.max is not None:
        yield "max", value <= rule.max
    if rule.categories is not None:
        yield "categories", value.is_in(rule.categories)


def _column_faults(spec: PipelineSpec) -> Iterator[str]:
    columns, label = spec.contract.columns, spec.label
    for name, rule in columns.items():
        bounded = rule.min is not None or rule.max is not None
        if bounded and rule.type not in {"integer", "number"}:
            yield f"'{name}' is a {rule.type}: min and max are for integers and numbers only"
        if rule.categories is not None and rule.type != "string":
            yield f"'{name}' is a {rule.type}: categories are for strings only"
        if name in spec.key and rule.nullable:
            yield f"key column '{name}' must not be nullable"
    if columns[spec.time.column].type != "timestamp" or columns[spec.time.column].nullable:
        yield f"time column '{spec.time.column}' must be a timestamp and not nullable"
    try:
        ZoneInfo(spec.time.zone)
    except (ZoneInfoNotFoundError, ValueError):
        yield f"time zone '{spec.time.zone}' does not exist: give one such as UTC"
    if label.source is None:
        kind, allowed = columns[label.column].type, label_types(label)
        if kind not in allowed:
            value = label.classes or label.positive
            yield (
                f"label '{label.column}' is a {kind}: with target {label.target} and {value!r} it "
                f"must be {' or '.join(allowed)}"
            )


def _row_rule_faults(rule: RowRule, spec: PipelineSpec) -> Iterator[str]:
    import polars as pl

    # Not by way of Arrow: that imports pandas, and this runs whenever the definitions load.
    types = {
        "integer": pl.Int64(),
        "number": pl.Float64(),
        "boolean": pl.Boolean(),
        "string": pl.String(),
        "timestamp": pl.Datetime("us", "UTC"),
    }
    schema = {name: types[column.type] for name, column in spec.contract.columns.items()}
    try:
        expression = pl.sql_expr(rule.check).alias("good")
        found = pl.DataFrame(schema=schema).select(expression)["good"].dtype
    except pl.exceptions.PolarsError as error:
        reason = str(error).partition("\n")[0]
        yield f"rule '{rule.name}' cannot be read: {reason}; correct '{rule.check}'"
        return
    if found != pl.Boolean:
        yield f"rule '{rule.name}' gives {found}: '{rule.check}' must be true for a good row"
