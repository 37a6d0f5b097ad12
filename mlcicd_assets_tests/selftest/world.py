"""The world of the self-test: card payments with a few more columns, and the spec that judges."""

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.simulation.cards import simulate
from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets_tests.small_model import attributes

MODEL = "card_fraud"
DAYS = 46  # in the template; a case lands the days after it
START = date(2026, 1, 1)
KNOBS = {"customers": 500, "terminals": 1_000, "compromise_rate": 0.0005, "leak_rate": 0.006}
LABELS = "card_labels"
COLUMNS = ["amount", "channel", "region", "segment"]

REGIONS = {0: "north", 1: "north", 2: "south", 3: "south", 4: "west"}
MORE_COLUMNS: dict[str, dict[str, Any]] = {
    **{key: {"type": "string"} for key in ("region", "segment", "acquirer")},
    **{key: {"type": "number"} for key in ("risk_code", "meter", "fee")},
    "device_age": {"type": "number", "nullable": True},
}
COFFEE = {"amount": 3.5, "channel": "chip", "region": "north", "hour": 12}
SERVING = {"max_p99_ms": 250, "max_memory_mb": 150, "requests": 20, "concurrency": 2}
CHANGES: dict[str, Any] = {
    **{f"contract__columns__{name}": rule for name, rule in MORE_COLUMNS.items()},
    "features__columns": COLUMNS,
    "training__parameters": {"max_iter": 60, "learning_rate": 0.1, "min_samples_leaf": 50},
    "contract__rows": {"min": 100, "max": 20_000},
    "gates__slices": {"columns": ["region"], "min_roc_auc": 0.65},
    "gates__serving": SERVING,
    "gates__floors": {"roc_auc": 0.7, "average_precision": 0.15},
    "gates__costs": {"false_positive": 5, "false_negative": "amount"},
    "gates__golden_set": [{"name": "a_coffee", "row": COFFEE, "at_most": 0.3}],
    "gates__fairness": {"group": "segment", "min_ratio": 0.6},
    "gates__poisoning": {"source": "acquirer"},
    "gates__stability": {"noise": 0.01, "max_flipped": 0.25},
}


def spec_with(changes: Mapping[str, Any]) -> PipelineSpec:
    """The spec of the self-test, every optional gate on; `section__field` changes a field."""
    plain = attributes()
    for dotted, value in {**CHANGES, **changes}.items():
        *sections, field = dotted.split("__")
        place = plain
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return PipelineSpec.model_validate(plain)


class World:
    """Payments and chargebacks by day, as a bank's systems deliver them."""

    def __init__(self, seed: int = 3, days: int = 66, scale: float = 1) -> None:
        knobs = {**KNOBS, **{name: int(KNOBS[name] * scale) for name in ("customers", "terminals")}}
        simulated = simulate(CardSimulation(seed=seed, **knobs), days)  # type: ignore[arg-type]
        self.labels = simulated.labels
        self.events = _more_columns(simulated.transactions, simulated.labels)

    def day(self, number: int) -> pl.DataFrame:
        """The payments of one day, counted from 1."""
        return self.events.filter(pl.col("tx_time").dt.date() == day_of(number))

    def labels_of(self, number: int) -> pl.DataFrame:
        """The chargebacks that became known on a day."""
        return self.labels.filter(pl.col("known_at").dt.date() == day_of(number))

    def land(
        self,
        landing: Path,
        days: range,
        change: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
        *,
        prefix: str = "card",
    ) -> None:
        """Write the files of some days, the payments changed on the way."""
        for number in days:
            name = f"{day_of(number)}.parquet"
            write(change(self.day(number)), landing / f"{prefix}_transactions" / name)
            if (labels := self.labels_of(number)).height:
                write(labels, landing / f"{prefix}_labels" / name)


def day_of(number: int) -> date:
    return START + timedelta(days=number - 1)


def write(frame: pl.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path)


def _more_columns(events: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """No honest feature uses the last three.

    `risk_code` leaks the label, `fee` is never filled, and what `meter` tells is small beside
    its outliers.
    """
    rng = np.random.default_rng(7)
    fraud = events["transaction_id"].is_in(labels["transaction_id"].implode()).to_numpy()
    age = rng.gamma(2, 50, events.height)
    missing = pl.Series(rng.random(events.height) < 0.1)
    outliers = np.where(rng.random(events.height) < 0.002, 20_000, 0)
    return events.with_columns(
        region=pl.col("customer_id").mod(5).replace_strict(REGIONS),
        segment=pl.when(pl.col("customer_id") % 2 == 0).then(pl.lit("a")).otherwise(pl.lit("b")),
        acquirer=pl.format("bank {}", pl.col("terminal_id") % 5),
        device_age=pl.Series(age).set(missing, None),
        fee=pl.lit(0.0),
        risk_code=pl.Series(np.round(fraud * 2 + rng.normal(size=events.height), 3)),
        meter=pl.Series(np.round(fraud * 1.2 + rng.normal(size=events.height) + outliers, 3)),
    )
