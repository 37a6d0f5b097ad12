"""The bench: one home with a live champion, put back before each case, and the real steps."""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlcicd_assets.io import evaluation_run, feature_run, ingest, training_run
from mlcicd_assets.io.booking import book_verdicts
from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.endpoint import model_status, wait_until_live
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import CHAMPION, ensure_experiment, set_alias
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import write
from mlcicd_assets.ml.errors import (
    BundleError,
    GateBlocked,
    LedgerError,
    MlcicdError,
    ReleaseError,
)
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import (
    FeatureSet,
    ModelVersionRef,
    RawData,
    ReleaseRef,
    ReportRef,
    Verdict,
)
from mlcicd_assets.orchestration.raw_data import _summary
from mlcicd_assets_tests.processes import free_port, running_server
from mlcicd_assets_tests.selftest.world import DAYS, MODEL, World, spec_with

# What kills beside the gates: each is a column of the matrix, too.
LEDGER, DIGEST, DECISION = "ledger", "digest", "decision"
CRASHED = "crashed"
WAYS = (LEDGER, DIGEST, DECISION)
WEAK = {
    "training__estimator": "DecisionTreeClassifier",
    "training__parameters": {"max_depth": 1},
    "gates__floors": {"roc_auc": 0.5},
    "gates__calibration": None,
    "gates__slices": None,
    "gates__serving": None,
    "gates__fairness": None,
    "gates__poisoning": None,
    "gates__stability": None,
    "gates__golden_set": [],
}


@dataclass(frozen=True)
class Case:
    """A planted fault with the gate that must kill it, or a good candidate (`killer` None).

    `plant` acts before the data comes in, `tamper` between the last gate and the delivery.
    """

    name: str
    killer: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    plant: "Callable[[Bench, pytest.MonkeyPatch], object] | None" = None
    tamper: "Callable[[Bench, ReportRef], object] | None" = None
    spec: Callable[[Mapping[str, Any]], PipelineSpec] = spec_with


@dataclass(frozen=True)
class Result:
    """Who objected to a case, and how its run ended."""

    name: str
    killer: str | None
    objected: tuple[str, ...]
    outcome: str
    reason: str
    unchanged: bool
    seconds: float
    verdicts: tuple[str, ...]

    @property
    def killed(self) -> bool:
        return self.outcome != "released" and self.unchanged

    @property
    def fault(self) -> str:
        """What is wrong with this result; empty when the case ended as it must."""
        if self.outcome == CRASHED:
            return f"crashed: {self.reason}"
        if self.killer is None:
            good = self.outcome in {"released", "kept"} and not set(self.objected) - {DECISION}
            return "" if good else f"false kill: {self.reason}"
        if not self.killed:
            return f"survived: {self.outcome}"
        missed = self.killer not in self.objected
        return f"not killed by {self.killer}: {self.reason}" if missed else ""


class Bench:
    """A home of its own with a real server; `run` starts each case from the same state."""

    def __init__(self, folder: Path, mlflow_database: Path) -> None:
        self.home, self.template = folder / "home", folder / "template"
        self.home.mkdir(parents=True)
        shutil.copy(mlflow_database, self.home / "mlflow.db")
        os.environ["MLCICD_HOME"] = str(self.home)
        os.environ["MLCICD_ENDPOINTS"] = f"http://127.0.0.1:{free_port()}"
        self.settings = Settings.from_env()
        self.url = self.settings.endpoints[0]
        self.world = World()
        self.server = running_server(self.url, folder)
        self.objected: list[str] = []
        self.verdicts: list[Verdict] = []
        self.before: tuple[Any, Any] = (None, None)

    def __enter__(self) -> "Bench":
        with ExitStack() as stack:
            stack.enter_context(self.server)
            self._make_template()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _make_template(self) -> None:
        """A weak champion is live, and the candidate that should follow it is trained."""
        self.world.land(self.settings.landing, range(1, DAYS + 1))
        report = self.judge(spec_with(WEAK))
        self.deliver(report, spec_with(WEAK))
        self.train(spec_with({}), report.candidate.data)
        shutil.copytree(self.home, self.template)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger_url)

    def restore(self) -> None:
        """Put the template back without a moment in which the server sees no pointer."""
        for path in self.home.iterdir():
            if path.is_dir() and path.name != "releases":
                shutil.rmtree(path)
        for folder in (self.home / "releases").iterdir():
            shutil.rmtree(folder if folder.name != MODEL else folder / "bundles")
        shutil.copytree(self.template, self.home, dirs_exist_ok=True, ignore=_pointers)
        kept = self.template / "releases" / MODEL / "pointer.json"
        write(self.home / "releases" / MODEL / "pointer.json", kept.read_bytes())
        live = self.ledger.live(MODEL)
        assert live is not None
        wait_until_live(self.url, MODEL, live.digest, token=None)

    def run(self, case: Case) -> Result:
        """Send one case through every step and gate, and see what is live afterwards."""
        started = time.monotonic()
        self.restore()
        self.objected, self.verdicts = [], []
        spec = case.spec(case.changes)
        self.before = self.live(spec.name)
        with pytest.MonkeyPatch.context() as patch:
            try:
                if case.plant:
                    case.plant(self, patch)
                report = self.judge(spec)
                if case.tamper:
                    case.tamper(self, report)
                done = self.deliver(report, spec)
                outcome, reason = str(done.outcome), done.reason
            except MlcicdError as error:
                blocked = isinstance(error, GateBlocked)
                outcome, reason = "blocked" if blocked else type(error).__name__, str(error)
                self.objected += _objector(error, self.objected)
            except Exception as error:  # a step that breaks is a result of this case, too
                outcome, reason = CRASHED, f"{type(error).__name__}: {error}"
        if outcome == "kept" and "already live" not in reason:
            self.objected.append(DECISION)
        return Result(
            name=case.name,
            killer=case.killer,
            objected=tuple(dict.fromkeys(self.objected)),
            outcome=outcome,
            reason=reason,
            unchanged=self.live(spec.name) == self.before,
            seconds=time.monotonic() - started,
            verdicts=tuple(map(str, self.verdicts)),
        )

    def judge(self, spec: PipelineSpec) -> ReportRef:
        """Everything before the delivery; a failed gate stops nothing here.

        Raises:
            GateBlocked: a landing file was refused; the assets stop there, and so must we.
        """
        taken = ingest.ingest(self.settings, self.ledger, spec, run_id="run")
        self.book(spec, [_summary(taken, spec)], spec.name, raw=None)
        made = feature_run.make_features(self.settings, spec, taken.raw, run_id="run")
        self.book(spec, made.verdicts, spec.name, raw=taken.raw)
        candidate = self.train(spec, made.data)
        judged = evaluation_run.evaluate(
            self.settings, spec, candidate, live=self.ledger.live(spec.name)
        )
        self.book(spec, judged.verdicts, candidate, raw=taken.raw)
        if taken.refused:
            raise GateBlocked(str(taken.refused[0][1]))
        policy = policy_digest(spec.gates)
        return ReportRef(candidate, judged.champion_digest, policy, judged.metrics)

    def train(self, spec: PipelineSpec, data: FeatureSet) -> ModelVersionRef:
        import mlflow

        def open_tracking() -> Any:
            ensure_experiment(self.settings, spec.name)
            mlflow.set_experiment(spec.name)
            mlflow.start_run()
            return mlflow

        how = {"run_id": "run", "open_tracking": open_tracking, "tell": lambda _: None}
        made = training_run.find_or_train(self.settings, self.ledger, spec, data, **how)
        mlflow.end_run()
        return made.model

    def book(
        self,
        spec: PipelineSpec,
        verdicts: Sequence[Verdict],
        model: ModelVersionRef | str,
        raw: RawData | None,
    ) -> None:
        self.verdicts += verdicts
        self.objected += [verdict.gate for verdict in verdicts if not verdict.passed]
        how = {"raw": raw, "model": model, "gates": spec.gates, "run_id": "run"}
        book_verdicts(self.settings, self.ledger, verdicts, **how)

    def deliver(self, report: ReportRef, spec: PipelineSpec) -> ReleaseRef:
        def mark(model: str, version: int) -> None:
            set_alias(self.settings, model, CHAMPION, version)

        return Delivery(self.settings, self.ledger, "run", mark).deliver(report, gates=spec.gates)

    def live(self, model: str) -> tuple[Any, Any]:
        """What the server answers with, and what the pointer says."""
        status = model_status(self.url, model, token=None)
        pointer = read_pointer(self.settings.releases, model)
        return status and status.digest, pointer and pointer.digest


def _pointers(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "pointer.json"]


def _objector(error: MlcicdError, already: list[str]) -> list[str]:
    """Who refused when no gate's verdict did."""
    if isinstance(error, LedgerError) or (isinstance(error, GateBlocked) and not already):
        return [LEDGER]
    return [DIGEST] if isinstance(error, BundleError | ReleaseError) else []
