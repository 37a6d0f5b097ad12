"""Every planted case and every good candidate through the real pipeline, in worker processes."""

import argparse
import logging
import multiprocessing
import multiprocessing.util
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from mlcicd_assets.ml.gates import data_gates, model_gates
from mlcicd_assets_tests.selftest.bench import WAYS, Bench, Case, Result
from mlcicd_assets_tests.selftest.good import GOOD
from mlcicd_assets_tests.selftest.matrix import faults, kills_alone, matrix, summary
from mlcicd_assets_tests.selftest.planted_data import DATA
from mlcicd_assets_tests.selftest.planted_models import MODELS
from mlcicd_assets_tests.selftest.planted_targets import TARGETS
from mlcicd_assets_tests.selftest.planted_ways import WAYS_AROUND
from mlcicd_assets_tests.selftest.world import spec_with

CASES: dict[str, Case] = {
    case.name: case for case in (*DATA, *MODELS, *TARGETS, *WAYS_AROUND, *GOOD)
}
WORKERS = 2
T = TypeVar("T")
_own = ExitStack()  # of a worker process: its bench, open as long as the process lives
_bench: list[Bench] = []


def open_bench(folder: str, mlflow_database: str) -> None:
    """Start a worker: its home, its server, its champion."""
    for name in list(os.environ):
        if name.startswith(("MLCICD_", "MLFLOW_", "DAGSTER_")):
            del os.environ[name]
    os.environ["MLFLOW_LOGGING_LEVEL"] = "ERROR"
    logging.getLogger("mlcicd_assets").setLevel(logging.ERROR)
    bench = Bench(Path(tempfile.mkdtemp(dir=folder)), Path(mlflow_database))
    _bench.append(_own.enter_context(bench))
    multiprocessing.util.Finalize(None, _own.close, exitpriority=10)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A self-test that was killed leaves no server behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    _own.close()
    os._exit(1)


def run_case(name: str) -> Result:
    return _bench[0].run(CASES[name])


def in_workers(work: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
    """Do the work for each name in processes that have a bench; results come as they end."""
    with tempfile.TemporaryDirectory(prefix="mlcicd-selftest-") as folder:
        database = Path(folder) / "mlflow.db"
        upgrade = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{database}"]
        subprocess.run(upgrade, check=True, capture_output=True)
        with ProcessPoolExecutor(
            min(WORKERS, len(names)),
            multiprocessing.get_context("spawn"),
            open_bench,
            (folder, str(database)),
        ) as pool:
            try:
                for future in as_completed([pool.submit(work, name) for name in names]):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


def told(result: Result, number: int, of: int, *, aloud: bool) -> str:
    """One line a case; `aloud` with what each gate said."""
    who = ", ".join(result.objected) or "nobody"
    wrong = f"  WRONG: {result.fault}" if result.fault else ""
    wrong += "".join(f"\n      {verdict}" for verdict in result.verdicts) if aloud else ""
    head = f"{number:>3}/{of} {result.seconds:4.1f} s  {result.name}: {result.outcome}"
    return f"{head}, objected {who}{wrong}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="selftest", description=__doc__)
    parser.add_argument("--case", action="append", choices=sorted(CASES), metavar="NAME")
    wanted: list[str] | None = parser.parse_args(words).case
    names = [name for name in CASES if wanted is None or name in wanted]
    gates = spec_with({}).gates
    columns = [gate.name for gate in (*data_gates(gates), *model_gates(gates))] + list(WAYS)
    started = time.monotonic()
    results: list[Result] = []
    for result in in_workers(run_case, names):
        results.append(result)
        print(told(result, len(results), len(names), aloud=wanted is not None), flush=True)
    results.sort(key=lambda result: names.index(result.name))
    print("\n" + matrix(results, columns) + "\n\nwho kills what alone:")
    for name, alone in kills_alone(results, columns).items():
        print(f"  {name:<24} {', '.join(alone) or '-'}")
    wrong = faults(results, columns, complete=wanted is None)
    print("\n" + "".join(f"WRONG {fault}\n" for fault in wrong), end="")
    print(f"{time.monotonic() - started:.0f} s of wall time")
    print(summary(results))
    return int(bool(wrong))
