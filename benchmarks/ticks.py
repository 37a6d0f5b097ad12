"""What looking for new data costs: CPU of a sensor tick with nothing new, and of a round of many.

The body is the sensor's own function on a real instance, real tables and a folder of many files.
What Dagster's daemon adds to a tick, whatever the body does, is not in it.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from mlcicd_assets.ml.spec import PipelineSpec

MODELS, FILES, FEW, MANY = 300, 10_000, 10, 10_000


def cpu_ms(act: Callable[[], object], repeats: int) -> float:
    """Median CPU milliseconds of this process over five parts."""
    parts = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(repeats):
            act()
        parts.append((time.process_time() - started) / repeats * 1000)
    return sorted(parts)[2]


def write_log(table: Path, commits: int) -> None:
    """Grow a table's log to so many commits, each an addition, with a checkpoint at the end."""
    from deltalake import DeltaTable

    log = table / "_delta_log"
    first = json.loads(
        next(line for line in (log / f"{1:020d}.json").read_text().splitlines() if '"add"' in line)
    )
    for version in range(2, commits):
        lines = [json.dumps({"commitInfo": {"operation": "WRITE"}}), json.dumps(first)]
        (log / f"{version:020d}.json").write_text("\n".join(lines))
    DeltaTable(table).create_checkpoint()


def main() -> None:
    """Measure and print figures."""
    home = Path(tempfile.mkdtemp(prefix="ticks-"))
    os.environ["MLCICD_HOME"] = str(home)
    try:
        measure(home)
    finally:
        shutil.rmtree(home)


def measure(home: Path) -> None:
    """Tick two foreign tables with short and long logs, and one model with a full folder."""
    from dagster import DagsterInstance

    from mlcicd_assets.io.settings import Settings
    from mlcicd_assets_tests.small_model import deliver_days, small_spec

    (home / "dagster").mkdir()
    instance = DagsterInstance.local_temp(str(home / "dagster"))
    deliver_days(20)
    spec = small_spec()
    landing = idle_tick(spec, instance, taken_in(spec))
    folder = Settings.from_env().landing / "card_transactions"
    for number in range(FILES):
        shutil.copy(folder / "transactions-2026-01-01.parquet", folder / f"_aside-{number}")
    lake = home / "lake"
    bodies = {"landing": landing}
    for commits in (FEW, MANY):
        for own in ("raw", "labels"):
            shutil.copytree(lake / "card_fraud" / own, lake / f"bank{commits}" / own)
            write_log(lake / f"bank{commits}" / own, commits)
        tables = {"source": {"table": f"bank{commits}/raw"}}
        tables |= {"label__source": {"table": f"bank{commits}/labels"}}
        spec = small_spec(name=f"m{commits}", **tables)
        versions = taken_in(spec)
        bodies[str(commits)] = idle_tick(spec, instance, versions)
    many = [
        idle_tick(small_spec(name=f"n{number}", **tables), instance, versions)
        for number in range(MODELS)
    ]
    started = time.process_time()
    for body in many:
        body()
    print(f"figure round_{MODELS}_models_cpu_s {time.process_time() - started:.2f} <= 5")
    figures = {name: cpu_ms(body, 100) for name, body in bodies.items()}
    print({name: round(figure, 3) for name, figure in figures.items()})
    print(f"figure idle_tick_cpu_ms {max(figures.values()):.2f} <= 2")
    ratio = figures[str(MANY)] / figures[str(FEW)]
    print(f"figure idle_tick_{MANY}_over_{FEW}_commits {ratio:.2f} <= 1.5")


def taken_in(spec: "PipelineSpec") -> dict[str, tuple[str, int]]:
    """Take in what is there, as a run does; models of the same tables share the versions."""
    from mlcicd_assets.io.ingest import ingest
    from mlcicd_assets.io.settings import Settings
    from mlcicd_assets_tests.small_model import ledger

    return ingest(Settings.from_env(), ledger(), spec, run_id="r").raw.versions()


def idle_tick(
    spec: "PipelineSpec", instance: "DagsterInstance", versions: dict[str, tuple[str, int]]
) -> Callable[[], object]:
    """Decide on these versions; return the body of the sensor's tick after that."""
    from dagster import SkipReason, build_sensor_context

    from mlcicd_assets.orchestration.new_data import new_data_sensor
    from mlcicd_assets_tests.small_model import ledger

    ledger().record_outcome(spec.name, "kept", reason="r", data=versions, run_id="r")
    sensor, context = new_data_sensor(spec), build_sensor_context(instance=instance)

    def body() -> object:
        answer = sensor(context)
        if not isinstance(answer, SkipReason):
            raise TypeError(f"not idle: {answer}")
        return answer

    body()
    return body


if __name__ == "__main__":
    main()
