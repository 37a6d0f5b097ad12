"""What a feature table remembers of each day, so that gates need not read all days again."""

from collections import Counter
from typing import TYPE_CHECKING

from mlcicd_assets.ml.contract import DAY, ContractReport
from mlcicd_assets.ml.data_gates import FeatureStats
from mlcicd_assets.ml.history import ROWS, measure_days
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

BROKEN = "broken_rules"


def describe_days(
    days: "pl.DataFrame",
    quarantined: "pl.DataFrame",
    report: ContractReport,
    rows: "pl.DataFrame",
    spec: PipelineSpec,
) -> "pl.DataFrame":
    """Add to each of the `days` what was found in it.

    `quarantined` and the feature `rows` have their `DAY`. Columns: measures of ml/history.py (null
    without good rows), `quarantined`, `broken` (rule and rows) and each feature's nulls and bounds.
    """
    import polars as pl

    rules = quarantined.select(DAY, pl.col(BROKEN).alias("rule")).explode("rule")
    counted = rules.group_by(DAY, "rule").len("rows").sort("rule")
    broken = counted.group_by(DAY, maintain_order=True).agg(broken=pl.struct("rule", "rows"))
    features = [
        stat
        for column in feature_columns(spec)
        for value in [pl.col(column.name)]
        for stat in (
            value.null_count().alias(f"nulls of {column.name}"),
            value.min().alias(f"least {column.name}"),
            value.max().alias(f"most {column.name}"),
        )
    ]
    parts = (
        measure_days(report.good, spec),
        quarantined.group_by(DAY).len("quarantined"),
        broken,
        rows.group_by(DAY).agg(pl.col(spec.time.column).max().alias("newest"), *features),
    )
    for part in parts:
        days = days.join(part, on=DAY, how="left")
    return days.with_columns(pl.col(ROWS, "quarantined").fill_null(0))


def broken_rules(days: "pl.DataFrame") -> dict[str, int]:
    """Count the quarantined rows by rule, the most broken one first."""
    import polars as pl

    rules = days.select(pl.col("broken").explode(empty_as_null=False)).unnest("broken").drop_nulls()
    counts: Counter[str] = Counter()
    for rule, rows in rules.iter_rows():
        counts[rule] += rows
    return dict(counts.most_common())


def feature_stats(days: "pl.DataFrame", spec: PipelineSpec) -> list[FeatureStats]:
    """Return what the gate feature_sanity judges, over all days."""
    rows, found = max(int(days[ROWS].sum()), 1), list[FeatureStats]()
    for column in feature_columns(spec):
        least, most = days[f"least {column.name}"].min(), days[f"most {column.name}"].max()
        distinct = 0 if least is None else 1 if least == most else 2
        nulls = int(days[f"nulls of {column.name}"].sum())
        found.append(FeatureStats(column.name, nulls / rows, distinct))
    return found
