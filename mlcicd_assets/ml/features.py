"""Model inputs from raw events: raw columns, calendar parts, windows of an entity's past days."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlcicd_assets.ml.errors import DataError, NotEnoughData, SpecError
from mlcicd_assets.ml.extensions import transformer
from mlcicd_assets.ml.schema import feature_columns, window_name
from mlcicd_assets.ml.sections import Windows
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

LABEL = "label"
KNOWN_AT = "label_known_at"
LAST_NIGHT_HOUR = 6


def check_features(spec: PipelineSpec) -> None:
    """Check that features and gates can be computed from the columns of the contract.

    Raises:
        SpecError: two features share a name or take a reserved one, or a column is missing or
            has a type that its feature or gate cannot use.
    """
    types = {name: rule.type for name, rule in spec.contract.columns.items()}
    names = [column.name for column in feature_columns(spec)]
    faults = [f"two features are called '{n}'" for n in sorted({*names}) if names.count(n) > 1]
    faults += [f"'{n}' is reserved" for n in (LABEL, KNOWN_AT) if n in {*names, *spec.key}]
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
    """Return one row for every event, sorted by (time, key).

    Columns: key, time, what split, evaluation and gates need, the model inputs as in
    `feature_columns` (numbers Float64, categories String), `label` (Int8 0 / 1, Int16 index of
    a class or Float64; null where unknown) and `label_known_at` (UTC microseconds, null if
    never). Nothing in a row depends on what happened, or became known, after its time. Events
    must have passed the contract, and the spec `check_features`.

    Raises:
        DataError: the spec has a label source, and no labels are given; or a label is none of
            its classes, or no finite number.
    """
    import polars as pl

    try:
        frame = _with_labels(events, labels, spec).collect(engine="streaming")
    except pl.exceptions.InvalidOperationError as error:
        raise DataError(
            f"'{spec.name}': '{spec.label.column}' has a value that is not in label.classes: "
            "correct the data, or add the class"
        ) from error
    if spec.label.target == "regression" and not frame[LABEL].drop_nulls().is_finite().all():
        raise DataError(f"'{spec.name}': '{spec.label.column}' has labels that are not finite")
    ranked = spec.evaluation.entity_precision
    entities = [spec.split.drop_known_positive, ranked.entity if ranked else None]
    kept = [*spec.key, spec.time.column, *[name for name in entities if name is not None]]
    kept += spec.gates.columns()
    columns = {name: pl.col(name) for name in kept}
    for name in spec.features.columns:
        is_text = spec.contract.columns[name].type == "string"
        columns[name] = pl.col(name).cast(pl.String if is_text else pl.Float64)
    columns |= {part: _calendar(part, spec.time.column) for part in spec.features.calendar}
    for windows in spec.features.windows:
        columns |= _window_columns(windows, spec)
    columns |= {name: pl.col(name) for name in (LABEL, KNOWN_AT)}
    return frame.sort(spec.time.column, *spec.key).select(**columns)


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


def _with_labels(
    events: "pl.LazyFrame", labels: "pl.LazyFrame | None", spec: PipelineSpec
) -> "pl.LazyFrame":
    """Add label and known_at; of a key with several labels, the one that was known first.

    Of two that were known at once, the positive one.
    """
    import polars as pl

    label, column = _label(spec).alias(LABEL), pl.col(spec.label.column)
    if spec.label.source is None:
        due = pl.col(spec.time.column) + pl.duration(days=spec.label.matures_after_days)
        return events.with_columns(label, pl.when(column.is_not_null()).then(due).alias(KNOWN_AT))
    if labels is None:
        raise DataError(f"'{spec.name}' has labels of its own: give their table, too")
    told = labels.select(*spec.key, label, pl.col(spec.label.known_at).alias(KNOWN_AT))
    ordered = told.drop_nulls().sort(KNOWN_AT, LABEL, descending=[False, True])
    first = ordered.unique(subset=spec.key, keep="first", maintain_order=True)
    return events.join(first, on=spec.key, how="left")


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


def _window_columns(windows: Windows, spec: PipelineSpec) -> "dict[str, pl.Expr]":
    """Express one `windows` entry over rows sorted by time; see `Windows` for what it covers.

    Rows of the same entity and time see each other.
    """
    import polars as pl

    time = spec.time.column
    statistics = {"count": pl.len()}
    if windows.of is not None:
        bounds = spec.contract.columns[windows.of]
        # Rounding of running totals must not carry a mean past the bounds of its values.
        mean = pl.col(windows.of).cast(pl.Float64).mean().clip(bounds.min, bounds.max)
        statistics["mean"] = mean
    if "label_rate" in windows.stats:
        due = pl.col(time) + pl.duration(days=windows.delay_days)
        told = (pl.col(KNOWN_AT) <= due).fill_null(False)
        rate = pl.when(told).then(LABEL).cast(pl.Float64)
        if spec.label.absent == "negative" and windows.delay_days >= spec.label.matures_after_days:
            rate = rate.fill_null(0)
        statistics["label_rate"] = rate.mean()
    return {
        window_name(windows, stat, days): statistics[stat]
        .rolling(time, period=f"{days}d", offset=f"-{days + windows.delay_days}d")
        .over(windows.entity)
        .cast(pl.Float64)
        for days in windows.days
        for stat in windows.stats
    }
