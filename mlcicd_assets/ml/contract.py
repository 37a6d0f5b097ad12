"""The data contract: exact Arrow schemas, and the rules that every row of a batch must meet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from mlcicd_assets.ml.errors import SchemaMismatch, SpecError
from mlcicd_assets.ml.sections import ContractColumn, Label, OnBreak, RowRule
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa


DAY, HASH = "mlcicd_day", "__hash"


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


def check_batch(
    frame: "pl.DataFrame", spec: PipelineSpec, taken: "pl.DataFrame | None" = None
) -> ContractReport:
    """Split a batch of exactly `event_schema` into good and quarantined rows.

    A repeated key keeps its first row by event time, then by all its columns; none when it is
    among the keys already `taken`.
    """
    import polars as pl

    rules = [*_rules(spec), _unique_key(frame, spec, taken)]
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
    failures = batch_failures(broken, frame.height, spec)
    return ContractReport(frame.filter(is_good), quarantined, broken, failures, frame.height)


def batch_failures(
    broken: Mapping[str, int], rows: int, spec: PipelineSpec
) -> tuple[RuleBreak, ...]:
    """Return what fails a whole batch of `rows` rows, of which so many broke each rule."""
    on_break = [(rule.name, rule.on_break) for rule in _rules(spec)]
    on_break.append(("unique_key", spec.contract.unique_key))
    fatal = {name for name, then in on_break if then == "fail"} & broken.keys()
    failures = [RuleBreak(rule, f"{broken[rule]} rows", "0 rows") for rule in sorted(fatal)]
    bounds = spec.contract.rows
    if not bounds.min <= rows <= bounds.max:
        threshold = f"{bounds.min} to {bounds.max} rows"
        failures.append(RuleBreak("rows", f"{rows} rows", threshold))
    return tuple(failures)


def find_twins(
    keys: "pl.LazyFrame", wanted: "pl.DataFrame | None", names: list[str]
) -> "pl.DataFrame":
    """Return the `wanted` keys (None: all) that stand on several days, once for each of its days.

    `keys` has the key columns, which are the `names`, and `DAY`.
    """
    import polars as pl

    if wanted is None:
        # By hashes first: of so many keys no table fits into memory.
        hashed = keys.with_columns(pl.struct(names).hash().alias(HASH))
        hashes = np.sort(hashed.select(HASH).collect(engine="streaming")[HASH].to_numpy())
        twice = pl.Series(HASH, hashes[1:][hashes[1:] == hashes[:-1]]).unique().to_frame()
        found = hashed.join(twice.lazy(), on=HASH, how="semi").drop(HASH)
    else:
        # Files without a key in this range need not be read.
        one = pl.col(names[0])
        near = one.is_between(wanted[names[0]].min(), wanted[names[0]].max())
        if wanted[names[0]].null_count():
            near |= one.is_null()
        found = keys.filter(near).join(wanted.lazy(), on=names, how="semi", nulls_equal=True)
    days = found.unique().collect(engine="streaming")
    return days.filter(days.select(names).is_duplicated())


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


def _unique_key(frame: "pl.DataFrame", spec: PipelineSpec, taken: "pl.DataFrame | None") -> _Rule:
    """Make the rule for the rows of this very frame."""
    import polars as pl

    key, number = list(spec.key), "__number"
    keys = frame.select(key)
    is_first = ~keys.is_duplicated()
    if not is_first.all():
        several = (
            frame.with_row_index(number).filter(~is_first).sort(spec.time.column, *frame.columns)
        )
        first = several.unique(key, keep="first", maintain_order=True)[number]
        is_first = is_first.scatter(first, True)
    if taken is not None and taken.height:
        known = keys.with_row_index(number).join(taken, on=key, how="semi", nulls_equal=True)
        is_first = is_first.scatter(known[number], False)
    return _Rule("unique_key", pl.lit(is_first), spec.contract.unique_key)


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
