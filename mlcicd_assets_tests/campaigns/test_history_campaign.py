"""Random histories of a foreign table, and what they train: exactly the distinct training frames.

Another team writes, rewrites, tidies and recreates its table. Between bursts of commits the real
sensor is ticked, its run requests are carried out by the steps themselves, and an oracle that
shares no code with them reads, sorts and hashes what a training may see.
"""

import hashlib
import multiprocessing
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import dagster as dg
import mlflow
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dagster import DagsterInstance, build_sensor_context
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io.feature_run import make_features
from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import ensure_experiment
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import find_or_train
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration import new_data
from mlcicd_assets.orchestration.new_data import new_data_sensor
from mlcicd_assets_tests.conftest import ROOT

pytestmark = pytest.mark.prove
HISTORIES, COMMITS, DAYS, HOLDOUT_DAYS = 100, 100, 8, 3
MODEL, START = "parts", datetime(2026, 1, 1, tzinfo=UTC)
USED = ["id", "at", "size", "kind", "bad"]
TIMES = pa.timestamp("us", "UTC")


def parts_spec(columns: list[str]) -> PipelineSpec:
    """The model for a table of these columns; all that is beyond the first six is unused."""
    contract: dict[str, Any] = {
        "id": {"type": "integer"},
        "at": {"type": "timestamp"},
        "size": {"type": "number"},
        "kind": {"type": "string", "categories": ["a", "b"]},
        "bad": {"type": "integer"},
        "note": {"type": "integer"},
    }
    contract |= {name: {"type": "integer", "nullable": True} for name in columns[len(contract) :]}
    return PipelineSpec.model_validate(
        {
            "name": MODEL,
            "description": "Is a part bad?",
            "owners": ["team:parts"],
            "source": {"table": "plant/parts"},
            "key": ["id"],
            "time": {"column": "at"},
            "label": {"column": "bad"},
            "contract": {"columns": contract},
            "features": {"columns": ["size", "kind"]},
            "split": {"holdout_days": HOLDOUT_DAYS},
            "training": {"estimator": "LogisticRegression"},
            "gates": {"floors": {"roc_auc": 0.5}},
        }
    )


class Plant:
    """The other team: its table, and everything that it does to it."""

    def __init__(self, path: Path, rng: np.random.Generator) -> None:
        self.path, self.rng, self.next_id = str(path), rng, 0
        self.done = Counter[str]()
        write_deltalake(self.path, self.rows(400))

    @property
    def table(self) -> DeltaTable:
        return DeltaTable(self.path)

    def rows(self, count: int) -> pa.Table:
        """New rows on any day, with every column that the table has by now."""
        rng, ids = self.rng, np.arange(count) + self.next_id
        self.next_id += count
        size = rng.normal(5, 1, count).round(3)
        seconds = rng.integers(0, DAYS * 86_400, count)
        made = {
            "id": pa.array(ids),
            "at": pa.array([START + timedelta(seconds=int(one)) for one in seconds], TIMES),
            "size": pa.array(size),
            "kind": pa.array(rng.choice(["a", "b"], count)),
            "bad": pa.array((size + rng.normal(0, 1, count) > 5.5).astype(int)),
            "note": pa.array(rng.integers(0, 9, count)),
        }
        if Path(self.path).is_dir():
            others = [field.name for field in self.table.schema().fields if field.name not in made]
            made |= {name: pa.array(rng.integers(0, 9, count)) for name in others}
        return pa.table(made)

    def some(self) -> str:
        return f"id % 37 = {self.rng.integers(37)}"

    def commit(self) -> None:
        """One random operation; what cannot be done now is replaced by another."""
        while True:
            name = str(self.rng.choice(list(OPERATIONS)))
            before = self.table.version(), self.table.metadata().id
            try:
                OPERATIONS[name](self)
            except Exception as error:  # a version that was vacuumed cannot be restored
                if name != "restore":
                    raise AssertionError(name) from error
                continue
            if (self.table.version(), self.table.metadata().id) != before:
                self.done[name] += 1
                return

    def overwrite(self) -> None:
        """The same rows, or some fewer."""
        rows = self.table.to_pyarrow_table()
        rows = rows.filter(pa.array(self.rng.random(rows.num_rows) < self.rng.choice([0.97, 1])))
        write_deltalake(self.path, rows, mode="overwrite")

    def merge(self) -> None:
        """Correct some rows and add some, or find that all is as it should be."""
        rows = self.table.to_pyarrow_table()
        rows = rows.take(self.rng.integers(rows.num_rows, size=1))
        if self.rng.random() < 0.5:
            rows = rows.set_column(2, "size", pa.array([float(self.rng.normal(5, 1))]))
        new = self.rows(3).select(rows.column_names)
        source = pa.concat_tables([rows, new], promote_options="permissive")
        merging = self.table.merge(source, "s.id = t.id", "s", "t").when_matched_update_all()
        merging.when_not_matched_insert_all().execute()

    def recreate(self) -> None:
        rows = self.table.to_pyarrow_table()
        if self.rng.random() < 0.5:
            rows = rows.slice(0, rows.num_rows - 2)
        shutil.rmtree(self.path)
        write_deltalake(self.path, rows)

    def evolve(self) -> None:
        from deltalake import Field
        from deltalake.schema import PrimitiveType

        name = f"extra_{len(self.table.schema().fields)}"
        self.table.alter.add_columns(Field(name, PrimitiveType("long")))


OPERATIONS: dict[str, Callable[[Plant], object]] = {
    "append": lambda p: write_deltalake(p.path, p.rows(p.rng.integers(1, 9)), mode="append"),
    "overwrite": Plant.overwrite,
    "delete": lambda p: p.table.delete(f"{p.some()} AND id % 5 = 0"),
    "merge": Plant.merge,
    "update": lambda p: p.table.update({"size": "size + 0.5"}, predicate=p.some()),
    "update of what is unused": lambda p: p.table.update({"note": "note + 1"}, predicate=p.some()),
    "update to the same": lambda p: p.table.update({"size": "size"}, predicate=p.some()),
    "compact": lambda p: p.table.optimize.compact(),
    "z-order": lambda p: p.table.optimize.z_order(["kind"]),
    "vacuum": lambda p: p.table.vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False
    ),
    "checkpoint": lambda p: (p.table.create_checkpoint(), OPERATIONS["append"](p)),
    "restore": lambda p: p.table.restore(max(0, p.table.version() - int(p.rng.integers(1, 5)))),
    "recreate": Plant.recreate,
    "evolve": Plant.evolve,
}


def oracle(path: str) -> str:
    """Hash what a training may see now: the used columns before the held-out days, in order."""
    frame = DeltaTable(path).to_pandas()[USED]
    end = frame["at"].max().normalize() + pd.Timedelta(days=1 - HOLDOUT_DAYS)
    frame = frame[frame["at"] < end].sort_values(["at", "id"])
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


class Works:
    """Our side: sensor, runs and ledger, with daemons that forget and runs that crash."""

    def __init__(self, plant: Plant, rng: np.random.Generator) -> None:
        self.plant, self.rng = plant, rng
        self.settings = Settings.from_env()
        self.instance = DagsterInstance.ephemeral()
        self.cursors: list[str | None] = [None, None]
        self.hours = 0.0
        self.trained: list[str] = []
        self.decided: list[str] = []
        self.runs = Counter[str]()
        self.naive, self.naive_seen = 0, ("", -1)

    def time(self) -> float:
        return time.time() + 3600 * self.hours

    def look(self) -> None:
        """Tick until nothing is due; each request is carried out once, as by Dagster."""
        table = self.plant.table
        seen = (str(table.metadata().id), table.version())
        self.naive, self.naive_seen = self.naive + (seen != self.naive_seen), seen
        self.spec = parts_spec([field.name for field in table.schema().fields])
        while True:
            self.hours += 1
            if self.rng.random() < 0.1:
                self.cursors[0] = self.rng.choice([None, "garbage", "{}"])
            daemons = [0, 1] if self.rng.random() < 0.2 else [0]
            requests = [request for daemon in daemons for request in self.tick(daemon)]
            if not requests:
                return
            for key in dict.fromkeys(request.run_key for request in requests):
                self.run(next(r for r in requests if r.run_key == key))

    def tick(self, daemon: int) -> list[dg.RunRequest]:
        context = build_sensor_context(instance=self.instance, cursor=self.cursors[daemon])
        answer = new_data_sensor(self.spec)(context)
        self.cursors[daemon] = context.cursor
        if isinstance(answer, dg.SkipReason):
            assert answer.skip_message == "nothing new"
            return []
        assert isinstance(answer, dg.RunRequest)
        return [answer]

    def run(self, request: dg.RunRequest) -> None:
        """Carry a request out by the steps themselves; one in ten crashes before its outcome."""
        run_id = str(uuid.uuid4())
        ended = dg.DagsterRunStatus.SUCCESS
        if self.rng.random() < 0.1:
            ended = dg.DagsterRunStatus.FAILURE
        ledger = Ledger(self.settings.ledger_url, definition=self.spec.definition)
        raw = ingest(self.settings, ledger, self.spec, run_id=run_id).raw
        made = make_features(self.settings, self.spec, raw, run_id=run_id, memory=ledger)
        how = {"open_tracking": self.open_tracking, "tell": lambda _: None, "run_id": run_id}
        model = find_or_train(self.settings, ledger, self.spec, made.data, **how)
        mlflow.end_run()
        frame = oracle(self.plant.path)
        self.trained += [frame] if model.trained_now else []
        if ended is dg.DagsterRunStatus.SUCCESS:
            ledger.record_outcome(
                MODEL, "kept", reason="campaign", data=raw.versions(), run_id=run_id
            )
            self.decided.append(frame)
        self.runs[ended.value] += 1
        self.instance.add_run(
            dg.DagsterRun(
                job_name=f"{MODEL}_cicd", run_id=run_id, status=ended, tags=dict(request.tags)
            )
        )

    def open_tracking(self) -> Any:
        ensure_experiment(self.settings, MODEL)
        mlflow.set_experiment(MODEL)
        mlflow.start_run()
        return mlflow


def live_through(
    home: Path, seed: int, monkeypatch: pytest.MonkeyPatch, *, commits: int = COMMITS
) -> Works:
    """One history from its first commit to its last, looked at between bursts."""
    rng = np.random.default_rng(seed)
    plant = Plant(home / "lake/plant/parts", rng)
    works = Works(plant, rng)
    monkeypatch.setattr(new_data, "time", works)
    works.look()
    while plant.done.total() < commits:
        burst = 1 if rng.random() < 0.35 else rng.integers(2, 9)
        for _ in range(min(burst, commits - plant.done.total())):
            plant.commit()
        works.look()
    return works


def judge(works: Works) -> tuple[int, int, int]:
    """Count frames lost, trainings doubled, and how far trainings are from the oracle's count."""
    lost = int(works.decided[-1] != oracle(works.plant.path))
    doubled = len(works.trained) - len({*works.trained})
    return lost, doubled, abs(len(works.trained) - len({*works.decided, *works.trained}))


@dataclass(frozen=True)
class Lived:
    """What one history came to."""

    seed: int
    judged: tuple[int, int, int]
    trainings: int
    naive: int
    runs: dict[str, int]
    done: dict[str, int]


def kept_results() -> Path:
    """Where the results for exactly this code are: run the campaign again to resume it."""
    sources = sorted([*(ROOT / "mlcicd_assets").rglob("*.py"), Path(__file__)])
    text = b"".join(path.read_bytes() for path in sources)
    folder = Path(gettempdir()) / f"mlcicd-histories-{hashlib.sha256(text).hexdigest()[:16]}"
    folder.mkdir(exist_ok=True)
    return folder


def live_alone(seed: int, folder: Path, database: Path, results: Path) -> Lived:
    """Live through one history in this process, unless that was done before."""
    result = results / f"{seed}.json"
    if result.exists():
        return msgspec.json.decode(result.read_bytes(), type=Lived)
    # One for all: MLflow goes on writing to the first that a process has used.
    own = folder / f"mlflow-{os.getpid()}.db"
    if not own.exists():
        shutil.copy(database, own)
    home = folder / f"history-{seed}"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own}")
        patch.setenv("MLCICD_HOME", str(home))
        works = live_through(home, seed, patch)
        counted = len(works.trained), works.naive, dict(works.runs), dict(works.plant.done)
        lived = Lived(seed, judge(works), *counted)
    shutil.rmtree(home)
    result.write_bytes(msgspec.json.encode(lived))
    return lived


def test_histories(home: Path) -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        words = (home, home / "mlflow.db", kept_results())
        begun = [pool.submit(live_alone, seed, *words) for seed in range(HISTORIES)]
        lived = [future.result() for future in begun]
    for one in lived:
        if any(one.judged):
            print(f"history {one.seed}: lost, doubled, off {one.judged}")
    lost, doubled, off = (
        sum(counts) for counts in zip(*(one.judged for one in lived), strict=True)
    )
    trainings, naive = sum(one.trainings for one in lived), sum(one.naive for one in lived)
    done = sum((Counter(one.done) for one in lived), Counter[str]())
    runs = sum((Counter(one.runs) for one in lived), Counter[str]())
    print(f"\n{dict(done)}\nruns {dict(runs)}, trainings {trainings}, a naive sensor's {naive}")
    print(f"figure history_commits {done.total()} >= {HISTORIES * COMMITS}")
    print(f"figure histories_trainings_not_as_the_oracle {off} == 0")
    print(f"figure histories_lost {lost} == 0")
    print(f"figure histories_doubled {doubled} == 0")
    print(f"figure histories_naive_trainings_over_ours {naive / trainings:.2f} >= 1")
    assert not any((lost, doubled, off))
