"""Model inputs from raw events: raw columns, calendar parts, windows of an entity's past days."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from mlcicd_assets.ml.contract import DAY
from mlcicd_assets.ml.errors import DataError, NotEnoughData, SpecError
from mlcicd_assets.ml.extensions import transformer
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.windows import KNOWN_AT, LABEL, window_columns

if TYPE_CHECKING:
    import polars as pl

LAST_NIGHT_HOUR = 6
ROW = "row number"  # no name of a column: those have no space


def check_features(spec: PipelineSpec) -> None:
    """Check that features and gates can be computed from the columns of the contract.

    Raises:
        SpecError: two features share a name or take a reserved one, or a column is missing or
            has a type that its feature or gate cannot use.
    """
    types = {name: rule.type for name, rule in spec.contract.columns.items()}
    names = [column.name for column in feature_columns(spec)]
    faults = [f"two features are called '{n}'" for n in sorted({*names}) if names.count(n) > 1]
    faults += [
        f"'{n}' is reserved"
        for n in (LABEL, KNOWN_AT, DAY, ROW)
        if n in {*names, *kept_columns(spec)}
    ]
    faults += [f"'{n}' is a time" for n in spec.features.columns if types[n] == "timestamp"]
    for windows in spec.features.windows:
        if windows.of is not None and types[windows.of] not in {"integer", "number"}:
            faults.append(f"'{windows.of}' is a {types[windows.of]}: only numbers have a mean")
        if spec.contract.columns[windows.entity].nullable:
            faults.append(f"'{windows.entity}' is nullable: windows need to know whose they are")
    numbers = [column.name for column in feature_columns(spec) if column.kind == "number"]
    for name, own in spec.features.transforms.items():
        transformer(own)
        if name not in numbers:
            faults.append(f"transforms name '{name}', which is no numeric feature")
    faults += _gate_faults(spec, types)
    if faults:
        raise SpecError(f"features of '{spec.name}': {'; '.join(faults)}. Correct defs.yaml")


def compute_features(
    events: "pl.LazyFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec
) -> "pl.DataFrame":
    """Return one row for every event, with its label: `make_rows`, then `join_labels`."""
    rows = make_rows(events.collect(engine="streaming"), None, labels, spec)
    return join_labels(rows, labels, spec)


def make_rows(
    events: "pl.DataFrame",
    before: "pl.DataFrame | None",
    labels: "pl.LazyFrame | None",
    spec: PipelineSpec,
) -> "pl.DataFrame":
    """Return one row for every event, sorted by (time, key); events must have met the contract.

    Columns: key, time, what split, evaluation, gates and windows need, the model inputs as in
    `feature_columns` (numbers Float64, categories String); without a label source also `label`
    (Int8 0 / 1, Int16 index of a class or Float64; null where unknown) and `label_known_at` (UTC
    microseconds, null if never). Nothing in a row depends on what happened, or became known,
    after its time. `before` are such rows of the `reach_days` before; default: there are none.

    Raises:
        DataError: a label is none of its classes, or no finite number; or labels are missing.
    """
    import polars as pl

    columns = {name: pl.col(name) for name in kept_columns(spec)}
    for name in spec.features.columns:
        is_text = spec.contract.columns[name].type == "string"
        columns[name] = pl.col(name).cast(pl.String if is_text else pl.Float64)
    rows = events.select(**columns)
    if spec.label.source is None:
        due = pl.col(spec.time.column) + pl.duration(days=spec.label.matures_after_days)
        told = _mapped(events.lazy(), spec).select(
            pl.col(LABEL), pl.when(pl.col(LABEL).is_not_null()).then(due).alias(KNOWN_AT)
        )
        rows = rows.hstack(_collected(told, spec))
    return add_computed(_sorted(rows, spec.time.column, list(spec.key)), before, labels, spec)


def add_computed(
    rows: "pl.DataFrame",
    before: "pl.DataFrame | None",
    labels: "pl.LazyFrame | None",
    spec: PipelineSpec,
) -> "pl.DataFrame":
    """Compute calendar and windows of rows that have all other columns, sorted by time."""
    import polars as pl

    moment = spec.time.column
    rows = rows.with_columns(**{part: _calendar(part, moment) for part in spec.features.calendar})
    known = [name for name in (LABEL, KNOWN_AT) if spec.label.source is None]
    inputs = [column.name for column in feature_columns(spec)]
    order = list(dict.fromkeys([*kept_columns(spec), *inputs, *known]))
    if spec.features.windows:
        looked_at = rows.select(look_back_columns(spec))
        if before is not None:
            looked_at = pl.concat([before.select(looked_at.columns), looked_at])
        skip = looked_at.height - rows.height
        if needs_labels(spec):
            looked_at = _told_since(looked_at, labels, spec)
        rows = rows.with_columns(window_columns(looked_at, spec, skip=skip).values())
    return rows.select(order)


def _sorted(rows: "pl.DataFrame", moment: str, key: list[str]) -> "pl.DataFrame":
    """Sort them; of rows that come in order of time, as most do, only those of one moment."""
    import polars as pl

    times = rows[moment]
    if not times.is_sorted():
        return rows.sort(moment, *key)
    same = times.diff().cast(int).eq(0).fill_null(False)
    tied = (same | same.shift(-1, fill_value=False)).arg_true().to_numpy()
    if len(tied):
        order = np.arange(rows.height)
        order[tied] = tied[rows[tied].select(pl.arg_sort_by(moment, *key)).to_series().to_numpy()]
        rows = rows[order]
    return rows.with_columns(pl.col(moment).set_sorted())  # known so, days are slices


def join_labels(
    rows: "pl.DataFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec
) -> "pl.DataFrame":
    """Add `label` and `label_known_at`, of a key with several labels the one known first.

    Of two that were known at once, the positive one. Rows of a spec without a label source have
    theirs already.
    """
    if spec.label.source is None:
        return rows
    joined = rows.lazy().join(
        _first(_told(labels, spec), spec.key), on=spec.key, how="left", maintain_order="left"
    )
    return _collected(joined, spec)


def kept_columns(spec: PipelineSpec) -> list[str]:
    """Return key, time, and the raw columns that split, evaluation, gates and windows need."""
    ranked = spec.evaluation.entity_precision
    entities = [spec.split.drop_known_positive, ranked.entity if ranked else None]
    entities += [windows.entity for windows in spec.features.windows]
    averaged = [windows.of for windows in spec.features.windows]
    kept = [*spec.key, spec.time.column, *entities, *spec.gates.columns(), *averaged]
    return list(dict.fromkeys(name for name in kept if name is not None))


def look_back_columns(spec: PipelineSpec) -> list[str]:
    """Return the columns by which earlier rows can count in a window of later ones."""
    names = [spec.time.column]
    for windows in spec.features.windows:
        names += [windows.entity, *([windows.of] if windows.of else [])]
        if "label_rate" in windows.stats:
            names += [LABEL, KNOWN_AT] if spec.label.source is None else spec.key
    return list(dict.fromkeys(names))


def needs_labels(spec: PipelineSpec) -> bool:
    """Tell whether windows count labels that come from a source of their own."""
    rates = any("label_rate" in windows.stats for windows in spec.features.windows)
    return rates and spec.label.source is not None


def as_of(events: "pl.LazyFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec) -> datetime:
    """Return the moment (UTC) up to which labels are known: it comes from the data, not a clock.

    Raises:
        NotEnoughData: there is no row to take it from.
    """
    import polars as pl

    if labels is not None:
        newest = labels.select(pl.col(spec.label.known_at).max())
    else:
        newest = events.select(pl.col(spec.time.column).max())
    moment = newest.collect(engine="streaming").item()
    if moment is None:
        what = "events" if labels is None else "labels"
        raise NotEnoughData(f"'{spec.name}' has no {what} yet: land some first")
    return moment.astimezone(UTC)


def _gate_faults(spec: PipelineSpec, types: Mapping[str, str]) -> list[str]:
    """What gates ask for that neither the contract nor the features have."""
    gates, contract = spec.gates, spec.contract.columns
    faults = [f"gates name '{n}', which is no column" for n in gates.columns() if n not in types]
    faults += [
        f"'{name}' is no cost: it must be a number, and not nullable"
        for name in (gates.costs.columns() if gates.costs else ())
        if types.get(name) not in {"integer", "number"} or contract[name].nullable
    ]
    classes = spec.label.classes or (None,)
    faults += [
        f"golden case '{case.name}': 'of' must be one of {classes}"
        for case in gates.golden_set
        if case.of not in classes
    ]
    if gates.champion.metric == "saving" and gates.costs is None:
        faults.append("gates.champion.metric 'saving' needs gates.costs")
    types_of = {"number": (float, type(None)), "category": (str, type(None))}
    kinds = {column.name: types_of[column.kind] for column in feature_columns(spec)}
    told = [(case.name, *cell) for case in gates.golden_set for cell in case.row.items()]
    return faults + [
        f"golden case '{case}': '{name}' is no feature of that type"
        for case, name, value in told
        if not isinstance(value, kinds.get(name, ()))
    ]


def _told_since(
    rows: "pl.DataFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec
) -> "pl.DataFrame":
    """Add the label of each row that was known first of those known after its time.

    Few rows have one: those are found by number and written into two empty columns. A join would
    copy every column of all rows.
    """
    import polars as pl

    moment = spec.time.column
    keys = rows.lazy().select(*spec.key, moment).with_row_index(ROW)
    later = pl.col(KNOWN_AT) >= pl.col(moment)
    timed = keys.join(_told(labels, spec), on=spec.key).filter(later)
    found = _collected(_first(timed, [ROW]).select(ROW, LABEL, KNOWN_AT), spec)
    columns = [
        pl.repeat(None, rows.height, dtype=found[name].dtype, eager=True)
        .alias(name)
        .scatter(found[ROW], found[name])
        for name in (LABEL, KNOWN_AT)
    ]
    return rows.with_columns(columns)


def _told(labels: "pl.LazyFrame | None", spec: PipelineSpec) -> "pl.LazyFrame":
    """Return what became known: key, label and when."""
    import polars as pl

    if labels is None:
        raise DataError(f"'{spec.name}' has labels of its own: give their table, too")
    known_at = pl.col(spec.label.known_at).alias(KNOWN_AT)
    return _mapped(labels, spec).select(*spec.key, LABEL, known_at).drop_nulls()


def _first(told: "pl.LazyFrame", by: Sequence[str]) -> "pl.LazyFrame":
    """Keep the label known first; of two that were known at once, the positive one."""
    ordered = told.sort(KNOWN_AT, LABEL, descending=[False, True])
    return ordered.unique(subset=by, keep="first", maintain_order=True)


def _mapped(table: "pl.LazyFrame", spec: PipelineSpec) -> "pl.LazyFrame":
    return table.with_columns(_label(spec).alias(LABEL))


def _collected(rows: "pl.LazyFrame", spec: PipelineSpec) -> "pl.DataFrame":
    import polars as pl

    try:
        frame = rows.collect(engine="streaming")
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(
            f"'{spec.name}': '{spec.label.column}' has a value that is not in label.classes: "
            "correct the data, or add the class"
        ) from error
    if spec.label.target == "regression" and not frame[LABEL].drop_nulls().is_finite().all():
        raise DataError(f"'{spec.name}': '{spec.label.column}' has labels that are not finite")
    return frame


def _label(spec: PipelineSpec) -> "pl.Expr":
    """Return the label as `ml/target.py` wants it: 0 or 1, the index of a class, a number."""
    import polars as pl

    column, label = pl.col(spec.label.column), spec.label
    if label.target == "multiclass":
        # A value that is no class fails, rather than to become a missing label.
        return column.replace_strict(
            list(label.classes), range(len(label.classes)), return_dtype=pl.Int16
        )
    if label.target == "regression":
        return column.cast(pl.Float64)
    if isinstance(label.positive, str):
        return (column == label.positive).cast(pl.Int8)
    return (column.cast(pl.Float64) == float(label.positive)).cast(pl.Int8)


def _calendar(part: str, time: str) -> "pl.Expr":
    import polars as pl

    moment = pl.col(time).dt
    parts = {
        "hour": moment.hour(),
        "weekday": moment.weekday() - 1,
        "month": moment.month(),
        "weekend": moment.weekday() >= 6,
        "night": moment.hour() <= LAST_NIGHT_HOUR,
    }
    return parts[part].cast(pl.Float64)
