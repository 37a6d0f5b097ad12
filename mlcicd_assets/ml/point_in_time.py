"""Whether features see the future: computed again from what was known at a cut in the past."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

from mlcicd_assets.ml.features import add_computed
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.windows import KNOWN_AT, LABEL, reach_days

if TYPE_CHECKING:
    import polars as pl

SAMPLE = 250


def judged_range(days: Sequence[tuple[date, int]], spec: PipelineSpec) -> tuple[date, date, date]:
    """Return the first day to read, the first to judge, and the last one, all days with rows.

    The cut will be at noon of the last day but one. `days` are ascending, with their rows.
    """
    last = max(len(days) - 2, 0)
    first, rows = last, 0
    while first > 0 and rows < 2 * SAMPLE:
        first -= 1
        rows += days[first][1]
    judged = days[first][0]
    reach = min(reach_days(spec), judged.toordinal() - 1)
    return judged - timedelta(days=reach), judged, days[last][0]


def future_seen(
    rows: "pl.LazyFrame",
    labels: "pl.LazyFrame | None",
    days: tuple[date, date, date],
    spec: PipelineSpec,
) -> tuple[dict[str, int], int]:
    """Count, by feature, the past rows that change without the future, and all that were judged.

    `rows` of the feature table and `labels` hold those of the `days` (see `judged_range`) at
    least. Judged are the newest rows before the cut, and of entities whose label became known
    later.
    """
    import polars as pl

    time_, key = pl.col(spec.time.column), list(spec.key)
    read_from, judged_from = (_midnight(day) for day in days[:2])
    cut = _midnight(days[2]) + timedelta(hours=12)
    past = rows.filter(time_ >= read_from, time_ < cut)
    late = past.filter(False)
    if spec.label.source is None:
        is_late = (time_ + timedelta(days=spec.label.matures_after_days) >= cut).fill_null(False)
        late = past.filter(is_late)
        unknown = {name: pl.when(~is_late).then(name) for name in (LABEL, KNOWN_AT)}
        past = past.with_columns(**unknown)
    elif labels is not None:
        is_late = pl.col(spec.label.known_at) >= cut
        late = past.join(labels.filter(is_late), on=key, how="semi")
        labels = labels.filter(~is_late)
    entities = sorted({windows.entity for windows in spec.features.windows})
    newest = past.filter(time_ >= judged_from)
    order = [spec.time.column, *key]
    told = _sharing(newest, late, entities).top_k(SAMPLE, by=order)
    judged = (
        pl.concat([newest.top_k(SAMPLE, by=order), told]).unique(key).collect(engine="streaming")
    )
    source = _sharing(past, judged.lazy(), entities or key).sort(order).collect(engine="streaming")
    again = add_computed(source, None, labels, spec)
    stored = rows.filter(time_ >= judged_from)
    later = stored.join(judged.lazy(), on=key, how="semi").collect(engine="streaming")
    known, later = (one.join(judged, on=key, how="semi").sort(key) for one in (again, later))
    names = [column.name for column in feature_columns(spec)]
    changed = {name: int(known[name].ne_missing(later[name]).sum()) for name in names}
    return {name: count for name, count in changed.items() if count}, judged.height


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _sharing(frame: "pl.LazyFrame", others: "pl.LazyFrame", names: list[str]) -> "pl.LazyFrame":
    """Return the rows that have a value of one of these columns in common with the others."""
    import polars as pl

    values = others.select(names).unique().collect(engine="streaming")
    shared = [pl.col(name).is_in(values[name].unique().implode()) for name in names]
    return frame.filter(pl.any_horizontal(pl.lit(False), *shared))
