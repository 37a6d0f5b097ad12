"""Feature computation beside a plain Polars streaming plan: CPU seconds and peak memory.

Both read the same Delta table of payments (100,000 a day) and its labels, compute the windows of
card_fraud, and write all features to disk. Ours is the real step: day by day in chunks, each with
the rows that its windows reach back to. Contract, fingerprints and gates, which the plan does not
have, are told beside it. Each measurement is a process of its own; the two take turns.

    python benchmarks/features.py [--millions 10 30] [--pairs 2 1]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

A_DAY = 100_000
DAY_US = 86_400_000_000
START = 19_000 * DAY_US
WAYS = ("plain", "features", "step")


def write_day(folder: Path, day: int, rows: int = A_DAY) -> None:
    """One day of payments, and the labels that become known on it."""
    rng = np.random.default_rng(day)
    times = np.sort(rng.integers(0, DAY_US, rows)) + START + day * DAY_US
    limits = rng.choice([2_000.0, 5_000.0], rows)
    events = pl.DataFrame(
        {
            "transaction_id": np.arange(rows) + day * A_DAY,
            "tx_time": pl.Series(times).cast(pl.Datetime("us", "UTC")),
            "customer_id": rng.integers(0, rows // 2, rows),
            "terminal_id": rng.integers(0, rows // 5, rows),
            "amount": np.round(np.minimum(rng.lognormal(3, 1, rows), limits), 2),
            "channel": rng.choice(["chip", "contactless", "online"], rows),
            "card_limit": limits,
        }
    )
    events.write_delta(str(folder / "raw"), mode="append")
    known = day - 3
    keys = rng.choice(rows, rows // 100, replace=False) + known * A_DAY
    labels = pl.DataFrame(
        {
            "transaction_id": np.sort(keys),
            "is_fraud": np.ones(len(keys), dtype=np.int64),
            "known_at": pl.Series(times[: len(keys)]).cast(pl.Datetime("us", "UTC")),
        }
    )
    if known >= 0:
        labels.write_delta(str(folder / "labels"), mode="append")


def run_plain(folder: Path) -> None:
    """What one would write by hand."""
    events, labels = (pl.scan_delta(str(folder / name)) for name in ("raw", "labels"))
    told = labels.select("transaction_id", pl.col("is_fraud").cast(pl.Int8), "known_at")
    rows = events.join(told, on="transaction_id", how="left").sort("tx_time")
    due = pl.col("known_at") <= pl.col("tx_time") + pl.duration(days=7)
    rate = pl.when(due.fill_null(False)).then("is_fraud").cast(pl.Float64).fill_null(0).mean()
    amount, columns = pl.col("amount").mean(), {}
    for entity, delay, stats in (
        ("customer_id", 0, {"count": pl.len(), "mean_amount": amount}),
        ("terminal_id", 7, {"count": pl.len(), "label_rate": rate}),
    ):
        for days in (1, 7, 30):
            for name, stat in stats.items():
                windowed = stat.rolling("tx_time", period=f"{days}d", offset=f"-{days + delay}d")
                columns[f"{entity}_{name}_{days}d"] = windowed.over(entity).cast(pl.Float64)
    moment = pl.col("tx_time").dt
    columns |= {
        "hour": moment.hour().cast(pl.Float64),
        "weekend": (moment.weekday() >= 6).cast(pl.Float64),
        "night": (moment.hour() <= 6).cast(pl.Float64),
    }
    kept = ["transaction_id", "tx_time", "customer_id", "terminal_id", "amount", "channel"]
    made = rows.select(*kept, "is_fraud", "known_at", **columns)
    made.sink_delta(folder / "plain", mode="overwrite", engine="streaming")


def run_ours(folder: Path, *, only_features: bool) -> None:
    """The feature step on the pinned tables, from nothing; or its features alone."""
    import yaml

    from mlcicd_assets import defs
    from mlcicd_assets.io import feature_table
    from mlcicd_assets.io.delta import open_table
    from mlcicd_assets.io.feature_inputs import Inputs
    from mlcicd_assets.io.feature_run import make_features
    from mlcicd_assets.io.feature_state import chunks, replace_days, tables_of
    from mlcicd_assets.io.ledger_tables import LedgerDatabase
    from mlcicd_assets.io.settings import Settings
    from mlcicd_assets.ml.contract import DAY
    from mlcicd_assets.ml.features import make_rows
    from mlcicd_assets.ml.spec import PipelineSpec
    from mlcicd_assets.ml.values import RawData, TableVersion
    from mlcicd_assets.ml.windows import reach_days

    text = (Path(defs.__file__).parent / "card_fraud" / "defs.yaml").read_text()
    spec = PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])
    home = Path(tempfile.mkdtemp(dir=folder))
    settings = Settings.from_env({"MLCICD_HOME": str(home)})
    memory = LedgerDatabase(f"sqlite:///{folder}/memory.db")
    pinned = []
    for name in ("raw", "labels"):
        table = open_table(str(folder / name))
        found = (str(table.metadata().id), table.version())
        pinned.append(TableVersion(str(folder / name), *found, "", 0))
    inputs, tables = Inputs(spec, RawData(*pinned), memory), tables_of(settings, spec)
    _ = inputs.events, inputs.labels  # remembered since the tables were pinned
    before = cpu_seconds()
    if not only_features:
        make_features(settings, spec, RawData(*pinned), run_id="b", memory=memory)
    else:
        days = inputs.events.days
        for part in chunks(days, days, days):
            near = range(part.start - reach_days(spec), part.stop)
            looked_at = feature_table.look_back(inputs, tables, part)
            rows = make_rows(inputs.events_of(part), looked_at, inputs.labels_of(near), spec)
            dated = rows.with_columns(pl.col("tx_time").dt.date().alias(DAY))
            replace_days(tables.features, dated, part, metadata={})
    print("cpu", cpu_seconds() - before)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(way: str, folder: Path) -> tuple[float, float]:
    """CPU seconds and peak GiB of one way in a process of its own."""
    words = [sys.executable, __file__, "--inner", way, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words} failed:\n{done.stdout}\n{done.stderr[-4000:]}")
    told = dict(line.split() for line in done.stdout.splitlines() if line.count(" ") == 1)
    return float(told["cpu"]), float(told["peak"])


def inner(way: str, folder: Path) -> None:
    if way == "plain":
        before = cpu_seconds()
        run_plain(folder)
        print("cpu", cpu_seconds() - before)
    else:
        run_ours(folder, only_features=way == "features")
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--pairs", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--inner", nargs=2)
    asked = parser.parse_args()
    if asked.inner:
        return inner(asked.inner[0], Path(asked.inner[1]))
    os.environ["OMP_NUM_THREADS"] = "1"
    for millions, pairs in zip(asked.millions, asked.pairs, strict=True):
        with tempfile.TemporaryDirectory(prefix="mlcicd-features-") as name:
            folder, started = Path(name), time.monotonic()
            for day in range(millions * 1_000_000 // A_DAY):
                write_day(folder, day)
            measure("features", folder)  # fills the memory of what is in the raw files
            print(f"{millions} million rows after {time.monotonic() - started:.0f} s", flush=True)
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(pairs):
                for way in WAYS:
                    found[way].append(measure(way, folder))
                    print(f"{way:<10}{found[way][-1][0]:>8.1f} CPU s {found[way][-1][1]:.2f} GiB")
        cpu = {way: statistics.median(one[0] for one in found[way]) for way in WAYS}
        peak = {way: max(one[1] for one in found[way]) for way in WAYS}
        print(f"figure plain_cpu_seconds_{millions}m {cpu['plain']:.1f} >= 0")
        print(f"figure features_cpu_ratio_{millions}m {cpu['features'] / cpu['plain']:.3f} <= 1.1")
        print(f"figure whole_step_cpu_ratio_{millions}m {cpu['step'] / cpu['plain']:.3f} >= 0")
        print(f"figure features_peak_gib_{millions}m {peak['features']:.2f} <= 4")
        print(f"figure whole_step_peak_gib_{millions}m {peak['step']:.2f} <= 4")


if __name__ == "__main__":
    main()
