"""Small tables that are not ours, in every form that `mlcicd new` looks at."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

FORMS = ("csv", "parquet", "delta")
KINDS = ("binary", "multiclass", "regression")


def machines(kind: str = "binary", rows: int = 3_000) -> pl.DataFrame:
    """Readings of 60 days; the label depends on `heat` and `mode`, and on what is not there."""
    rng = np.random.default_rng(11)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    heat, mode = rng.normal(50, 10, rows).round(3), rng.choice(["eco", "full", "no"], rows)
    pull = (heat - 50) / 10 + (mode == "full") + rng.normal(0, 1, rows)
    label = {
        "binary": np.where(pull > 1.5, "yes", "no"),
        "multiclass": np.select([pull < 0, pull < 1], ["low", "mid"], "high"),
        "regression": (3 * pull).round(4),
    }[kind]
    return pl.DataFrame(
        {
            "reading_id": np.arange(rows) + 7,
            "read_at": [start + timedelta(days=60) * n / rows for n in range(rows)],
            "machine_id": rng.integers(1, 40, rows),
            "heat": heat,
            "load": np.where(rng.random(rows) < 0.1, np.nan, rng.random(rows).round(4)),
            "starts": rng.integers(0, 9, rows),
            "is_new": rng.random(rows) < 0.3,
            "mode": mode,
            "note": [f"text {n}" for n in range(rows)],
            "site": ["x"] * rows,
            "outcome": label,
            "outcome_reason": rng.integers(0, 4, rows),
        }
    ).with_columns(pl.col("load").fill_nan(None), pl.col("read_at").dt.truncate("1s"))


def store(frame: pl.DataFrame, folder: Path, form: str) -> str:
    """Write it as others do, and say where."""
    path = folder / f"readings.{form}"
    folder.mkdir(parents=True, exist_ok=True)
    if form == "csv":
        frame.write_csv(path, datetime_format="%Y-%m-%d %H:%M:%S")
    elif form == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_delta(path)
    return str(path)
