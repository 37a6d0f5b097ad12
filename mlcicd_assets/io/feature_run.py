"""Make the feature table of pinned raw data: contract, quarantine, features, data gates."""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from mlcicd_assets.io.delta import open_table, pin, scan
from mlcicd_assets.io.delta_faults import readable
from mlcicd_assets.io.feature_inputs import LAST_DAY, Inputs, read_labels
from mlcicd_assets.io.feature_state import FeatureTables, tables_of, to_number
from mlcicd_assets.io.feature_table import update_table
from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.io.locks import one_at_a_time
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.contract import DAY, batch_failures
from mlcicd_assets.ml.data_gates import (
    contract_gate,
    feature_sanity_gate,
    history_gates,
    point_in_time_gate,
)
from mlcicd_assets.ml.days import BROKEN, broken_rules, feature_stats
from mlcicd_assets.ml.features import as_of, join_labels
from mlcicd_assets.ml.history import ROWS, History, last_share, make_history
from mlcicd_assets.ml.point_in_time import future_seen, judged_range
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import FeatureSet, RawData, Verdict

if TYPE_CHECKING:
    import polars as pl

USUAL_DAYS: Final = 28  # whose times of day tell how much of a day is done
SAMPLE_ROWS: Final = 5
SAMPLE_TEXT: Final = 60  # characters of a value


@dataclass(frozen=True)
class MadeFeatures:
    """The pinned feature set, its verdicts, how many days were made again, what was quarantined."""

    data: FeatureSet
    verdicts: tuple[Verdict, ...]
    days_made: int
    quarantined_rows: int
    quarantined_by_rule: dict[str, int]
    quarantine_sample: tuple[dict[str, str], ...]
    quarantine_uri: str
    columns: tuple[tuple[str, str], ...]


def make_features(
    settings: Settings,
    spec: PipelineSpec,
    raw: RawData,
    *,
    run_id: str,
    memory: LedgerDatabase | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> MadeFeatures:
    """Validate the pinned events, bring features and quarantine up to date, judge the data.

    Args:
        settings: this environment.
        spec: the model.
        raw: the pinned events and labels.
        run_id: written into every commit.
        memory: remembers what is in the files of a table; default: all files are read.
        tell: progress for people.

    Raises:
        DataError: a table is gone, is not the one that was pinned, or has another schema.
    """
    import polars as pl

    inputs, tables = Inputs(spec, raw, memory), tables_of(settings, spec)
    metadata = {"mlcicd.model": spec.name, "mlcicd.run_id": run_id}
    with one_at_a_time(settings, f"features-{tables.name}"):
        days, made = update_table(inputs, tables, metadata=metadata, tell=tell)
        features = pin(tables.features, memory=memory)
    rows = scan(features)
    told = (
        inputs.labels_of(range(max(inputs.labels.days, default=0), LAST_DAY))
        if inputs.labels
        else None
    )
    last = days.filter(pl.col(ROWS) > 0)[DAY].max()
    moment = as_of(rows.filter(pl.col(DAY) == last), told, spec)
    data = FeatureSet(features, raw, moment.isoformat())
    return MadeFeatures(
        data=data,
        verdicts=_judge(inputs, data, days, moment),
        days_made=made,
        quarantined_rows=int(days["quarantined"].sum()),
        quarantined_by_rule=broken_rules(days),
        quarantine_sample=_sample(tables, spec),
        quarantine_uri=tables.quarantine,
        columns=_columns(rows, inputs),
    )


def load_features(data: FeatureSet, spec: PipelineSpec) -> "pl.DataFrame":
    """Read a pinned feature table, by (time, key), with the label of each row beside it."""
    rows = scan(data.features).drop(DAY, strict=False).sort(spec.time.column, *spec.key)
    with readable(*filter(None, (data.features, data.raw.labels))):
        labels = read_labels(spec, data.raw) if spec.label.source is not None else None
        return join_labels(rows.collect(engine="streaming"), labels, spec)


def _judge(
    inputs: Inputs, data: FeatureSet, days: "pl.DataFrame", moment: datetime
) -> tuple[Verdict, ...]:
    """Judge by what is known of each day; rows are read where days do not tell."""
    import polars as pl

    spec, gates, subject = inputs.spec, inputs.spec.gates, data.fingerprint
    total, broken = inputs.events.rows, broken_rules(days)
    failures = [
        astuple(failure)
        for failure in batch_failures(broken, total, spec)
        # The bounds are for one batch: landing files were counted one by one.
        if not (failure.rule == "rows" and spec.source.landing)
    ]
    contract = contract_gate(
        rows=total,
        quarantined=int(days["quarantined"].sum()),
        failures=failures,
        broken=broken,
        subject=subject,
        gates=gates,
    )
    filled = days.filter(pl.col(ROWS) > 0)
    rows = int(filled[ROWS].sum())
    sanity = feature_sanity_gate(feature_stats(days, spec), rows=rows, subject=subject, gates=gates)
    changed, judged = _future_seen(inputs, data, filled) if rows else ({}, 0)
    in_time = point_in_time_gate(changed, rows=judged, subject=subject, gates=gates)
    history = _history(inputs, data, filled, moment)
    return (contract, sanity, in_time, *history_gates(history, subject=subject, gates=gates))


def _future_seen(
    inputs: Inputs, data: FeatureSet, filled: "pl.DataFrame"
) -> tuple[dict[str, int], int]:
    import polars as pl

    judged = judged_range(filled.select(DAY, ROWS).rows(), inputs.spec)
    rows = scan(data.features).filter(pl.col(DAY).is_between(judged[0], judged[2]))
    labels = inputs.labels_of(range(to_number(judged[0]), LAST_DAY))
    return future_seen(rows, labels, judged, inputs.spec)


def _history(inputs: Inputs, data: FeatureSet, filled: "pl.DataFrame", moment: datetime) -> History:
    import polars as pl

    spec, rows = inputs.spec, scan(data.features)
    last: datetime = filled["newest"].max() or moment  # pyright: ignore[reportAssignmentType]

    def done() -> float:
        usual = filled[DAY].head(-spec.gates.history.newest_days).tail(USUAL_DAYS)
        times = rows.filter(pl.col(DAY).is_in(usual.implode())).select(spec.time.column)
        return last_share(times.collect(engine="streaming").to_series(), last)

    def orphans() -> float:
        since = moment - timedelta(days=1)
        labels = inputs.labels_of(range(to_number(since.date()), LAST_DAY))
        if labels is None:
            return 0.0
        told = labels.filter(pl.col(spec.label.known_at) > since).collect()
        arrived = rows.select(spec.key).join(told.lazy(), on=spec.key, how="semi").unique()
        found = told.join(arrived.collect(engine="streaming"), on=spec.key, how="semi")
        return 1 - found.height / told.height

    return make_history(filled, spec, as_of=moment, last=last, done=done, orphans=orphans)


def _sample(tables: FeatureTables, spec: PipelineSpec) -> tuple[dict[str, str], ...]:
    """Return the oldest quarantined rows, the broken rules first."""
    import polars as pl

    rows = pl.scan_delta(open_table(tables.quarantine)).drop(DAY)
    oldest = rows.sort(spec.time.column, *spec.key, nulls_last=True).head(SAMPLE_ROWS).collect()
    return tuple(
        {name: str(value)[:SAMPLE_TEXT] for name, value in row.items()}
        for row in oldest.select(BROKEN, pl.exclude(BROKEN)).iter_rows(named=True)
    )


def _columns(rows: "pl.LazyFrame", inputs: Inputs) -> tuple[tuple[str, str], ...]:
    """Name the columns that the training will see, with their types."""
    labels = inputs.labels_of(range(0))
    empty = rows.drop(DAY).clear().collect()
    schema = join_labels(empty, labels, inputs.spec).schema
    return tuple((name, str(kind)) for name, kind in schema.items())
