"""A home with server and ledger, candidates that passed every gate, and what is done to them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import polars as pl
from deltalake import DeltaTable

from mlcicd_assets.io import offline as offline_store
from mlcicd_assets.io import rollback
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.delivery import Delivery
from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.gates import data_gates, model_gates
from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.policy import Approval, Gates
from mlcicd_assets.ml.values import (
    FeatureSet,
    ModelVersionRef,
    RawData,
    ReportRef,
    TableVersion,
    Verdict,
)
from mlcicd_assets_tests.io.tiny import MODEL
from mlcicd_assets_tests.io.tiny import bundle as tiny_bundle

GATES = Gates(floors={"roc_auc": 0.5})
ASKS = Gates(floors={"roc_auc": 0.5}, approval=Approval(authenticated=False))
POLICY = policy_digest(GATES)
REQUIRED = sorted(gate.name for gate in (*data_gates(GATES), *model_gates(GATES)))
BETTER = Comparison("average_precision", 0.5, 0.4, 0.1, 0.05, 0.15, 100, 50)


class Crash(BaseException):
    """What kill -9 looks like from inside: nothing after it runs, no handler catches it."""


def crash(*_: object, **__: object) -> None:
    raise Crash


def table() -> TableVersion:
    """What every candidate here was made from: a real table, since `verify` looks at its files."""
    uri = f"{Settings.from_env().lake}/scene"
    if not DeltaTable.is_deltatable(uri):
        pl.DataFrame({"k": [1, 2]}).write_delta(uri)
    return pin(uri)


def report(bundle: Bundle, version: int, champion: Bundle | None = None) -> ReportRef:
    data = FeatureSet(table(), RawData(table(), None), "2026-01-01T00:00:00+00:00")
    ref = ModelVersionRef(MODEL, version, bundle.digest, f"key{version}", "run", data)
    return ReportRef(ref, champion.digest if champion else None, POLICY, {})


def pass_every_gate(
    ledger: Ledger, made: ReportRef, *, leave_out: str = "", fails: str = "", gates: Gates = GATES
) -> None:
    for gate in (*data_gates(gates), *model_gates(gates)):
        if gate.name == leave_out:
            continue
        is_model = gate in model_gates(gates)
        context: dict[str, Any] = {}
        if gate is NOT_WORSE:
            context = {"champion_digest": made.champion_digest}
            context |= asdict(BETTER) if made.champion_digest else {}
        verdict = Verdict(
            gate=gate.name,
            gate_version=gate.version,
            subject=made.candidate.digest if is_model else made.candidate.data.fingerprint,
            policy=policy_digest(gates),
            passed=gate.name != fails,
            observed="1",
            threshold="1",
            sample_size=1,
            context=context,
        )
        ledger.record_verdict(MODEL, verdict, run_id="r")


class Scene:
    """A home with a server, a ledger and a way to deliver candidates."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = Settings.from_env()
        self.ledger = Ledger(self.settings.ledger_url)
        self.aliases: list[int] = []

    def bundle(self, seed: int) -> Bundle:
        return tiny_bundle(self.settings.releases, float(seed))

    def deliver(
        self,
        made: ReportRef,
        mark: Callable[[str, int], None] | None = None,
        gates: Gates = GATES,
    ) -> str:
        def remember(_: str, version: int) -> None:
            self.aliases.append(version)

        carrier = Delivery(self.settings, self.ledger, "run", mark or remember)
        return carrier.deliver(made, gates=gates).outcome

    def released(self, seed: int, version: int, champion: Bundle | None = None) -> Bundle:
        bundle = self.bundle(seed)
        made = report(bundle, version, champion)
        pass_every_gate(self.ledger, made)
        assert self.deliver(made) == "released"
        return bundle

    def served(self) -> int | None:
        status = model_status(self.url, MODEL, token=None)
        return status.version if status else None

    def outcomes(self) -> list[str]:
        return [entry.body["outcome"] for entry in self.ledger.entries(kinds=("outcome",))]


def roll_back(scene: Scene, to: int | None = None) -> tuple[int, str]:
    def mark(_: str, version: int) -> None:
        scene.aliases.append(version)

    return rollback.rollback(
        scene.settings, scene.ledger, MODEL, to=to, reason="it alerts on everything",
        mark_champion=mark,
    )  # fmt: skip


def offline(scene: Scene, to: int | None = None) -> tuple[int, str]:
    return offline_store.rollback_offline(scene.settings, MODEL, to=to, reason="ledger is down")
