"""Whether features see the future: computed again from what was known at a cut in the past."""

from datetime import timedelta
from typing import TYPE_CHECKING

from mlcicd_assets.ml.features import compute_features
from mlcicd_assets.ml.schema import feature_columns
from mlcicd_assets.ml.spec import PipelineSpec

if TYPE_CHECKING:
    import polars as pl

SAMPLE = 250


def future_seen(
    events: "pl.DataFrame",
    labels: "pl.DataFrame | None",
    features: "pl.DataFrame",
    spec: PipelineSpec,
) -> tuple[dict[str, int], int]:
    """Count, by feature, the past rows that change without the future, and all that were judged.

    The cut is noon of the last day but one. Judged are the newest rows before it, and of entities
    whose label became known later. All their past rows are taken: totals run from the first one.
    """
    import polars as pl

    time, label, key = pl.col(spec.time.column), spec.label.column, list(spec.key)
    days = events[spec.time.column].dt.truncate("1d").unique().sort()
    cut = days.tail(2)[0] + timedelta(hours=12)
    past = events.filter(time < cut).sort(spec.time.column, *key)
    if labels is None:
        is_late = time + timedelta(days=spec.label.matures_after_days) >= cut
        late = past.filter(is_late)
        past = past.with_columns(pl.when(~is_late).then(label).alias(label))
    else:
        is_late = pl.col(spec.label.known_at) >= cut
        late = past.join(labels.filter(is_late), on=key, how="semi")
        labels = labels.filter(~is_late)
    entities = sorted({windows.entity for windows in spec.features.windows})
    told = _sharing(past, late, entities).tail(SAMPLE)
    judged = pl.concat([past.tail(SAMPLE), told]).unique(key)
    source = _sharing(past, judged, entities or key).lazy()
    again = compute_features(source, None if labels is None else labels.lazy(), spec)
    known, later = (one.join(judged, on=key, how="semi").sort(key) for one in (again, features))
    names = [column.name for column in feature_columns(spec)]
    changed = {name: int(known[name].ne_missing(later[name]).sum()) for name in names}
    return {name: count for name, count in changed.items() if count}, judged.height


def _sharing(frame: "pl.DataFrame", others: "pl.DataFrame", names: list[str]) -> "pl.DataFrame":
    """Return the rows that have a value of one of these columns in common with the others."""
    import polars as pl

    shared = [pl.col(name).is_in(others[name].unique().implode()) for name in names]
    return frame.filter(pl.any_horizontal(pl.lit(False), *shared))
