"""What one more day costs as a table grows: CPU seconds of pinning the tables and of the features.

A day of 100,000 payments is added to 30 and to 300 days; each step is a process of its own. The
full recompute is the first one, from nothing.

    python benchmarks/growth.py [--days 30 300] [--again 3]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from features import A_DAY, cpu_seconds, write_day


def step(folder: Path) -> None:
    """Pin the tables and bring the features up to date, as two of the assets do."""
    import yaml

    from mlcicd_assets import defs
    from mlcicd_assets.io.delta import pin
    from mlcicd_assets.io.feature_inputs import clock_of
    from mlcicd_assets.io.feature_run import make_features
    from mlcicd_assets.io.ledger_tables import LedgerDatabase
    from mlcicd_assets.io.settings import Settings
    from mlcicd_assets.ml.spec import PipelineSpec
    from mlcicd_assets.ml.values import RawData

    text = (Path(defs.__file__).parent / "card_fraud" / "defs.yaml").read_text()
    spec = PipelineSpec.model_validate(yaml.safe_load(text)["attributes"])
    settings = Settings.from_env({"MLCICD_HOME": str(folder)})
    memory = LedgerDatabase(settings.ledger_url)
    start = cpu_seconds()
    raw, labels = (
        pin(str(folder / own), clock=clock_of(spec, own), memory=memory)
        for own in ("raw", "labels")
    )
    pinned = cpu_seconds()
    made = make_features(settings, spec, RawData(raw, labels), run_id="b", memory=memory)
    print(f"told {raw.rows} {made.days_made} {pinned - start} {cpu_seconds() - pinned}")


def measure(folder: Path) -> tuple[int, int, float, float]:
    """Rows, days that were made, and CPU seconds of pinning and of the features."""
    words = [sys.executable, __file__, "--inner", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{words} failed:\n{done.stdout}\n{done.stderr[-4000:]}")
    rows, days, pinning, making = done.stdout.rpartition("told ")[2].split()
    return int(rows), int(days), float(pinning), float(making)


def measure_days(numbers: list[int], again: int) -> None:
    """One more day on tables of several lengths, and the longest one from nothing."""
    one_more: dict[int, float] = {}
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="mlcicd-growth-") as name:
            folder = Path(name)
            for day in range(number):
                write_day(folder, day)
            rows, _, pinning, making = measure(folder)
            print(f"{number} days from nothing: {pinning:.1f} + {making:.1f} CPU s", flush=True)
            found: list[float] = []
            for day in range(number, number + again):
                write_day(folder, day)
                found.append(sum(measure(folder)[2:]))
                print(f"one more day: {found[-1]:.2f} CPU s", flush=True)
        one_more[number] = statistics.median(found)
        print(f"figure one_more_day_cpu_seconds_{number} {one_more[number]:.2f} >= 0")
        print(f"figure fingerprint_rows_per_cpu_second_{number} {rows / pinning:.0f} >= 2000000")
        whole = pinning + making
    short, long = min(numbers), max(numbers)
    print(f"figure growth_ratio {one_more[long] / one_more[short]:.3f} <= 1.3")
    print(f"figure share_of_full_recompute {one_more[long] / whole:.4f} <= 0.05")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--again", type=int, default=3)
    parser.add_argument("--inner")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if asked.inner:
        return step(Path(asked.inner))
    print(f"{A_DAY} rows a day")
    measure_days(asked.days, asked.again)


if __name__ == "__main__":
    main()
