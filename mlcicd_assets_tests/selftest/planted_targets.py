"""Several classes, and a number: a good model of each, and bad ones that only they can be."""

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
import pytest

from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.selftest.bench import Bench, Case
from mlcicd_assets_tests.selftest.planted_models import shuffled, trained_on
from mlcicd_assets_tests.target_models import CLASSES, COLUMNS, land, machine_spec, world

CODES = {
    "multiclass": pl.col("state").replace_strict(CLASSES, [2.0, 0.0, 1.0]),
    "regression": pl.col("hours") * -2 + pl.col("heat"),
}
FLOORS = {"floors": {"rows": 1}, "serving": None}
LEAK = {
    "contract": {"columns": {**COLUMNS, "code": {"type": "number"}}},
    "features": {"columns": ["load", "heat", "shop", "code"]},
    "gates": FLOORS,
}
WORSE = {"features": {"columns": ["shop"]}, "gates": {**FLOORS, "slices": None}}


def machine(
    target: str,
    what: str,
    killer: str | None = None,
    plant: Callable[[Bench, pytest.MonkeyPatch], object] = lambda *_: None,
    **changes: Any,
) -> Case:
    name = f"{target}_{what}"  # its own, or the server would still answer with another's

    def spec(words: Mapping[str, Any]) -> PipelineSpec:
        return machine_spec(target, name=name, **words)

    def land_and_plant(bench: Bench, patch: pytest.MonkeyPatch) -> None:
        rows = world()
        land(rows.with_columns(code=CODES[target]) if changes == LEAK else rows)
        plant(bench, patch)

    def champion_first(bench: Bench, patch: pytest.MonkeyPatch) -> None:
        land_and_plant(bench, patch)
        bench.deliver(bench.judge(spec({})), spec({}))
        bench.before, bench.objected, bench.verdicts = bench.live(name), [], []

    planted = champion_first if changes == WORSE else land_and_plant
    return Case(name, killer, changes, planted, spec=spec)


TARGETS = tuple(
    case
    for target in CODES
    for case in (
        machine(target, "honest"),
        machine(target, "leaked", "leakage", **LEAK),
        machine(target, "shuffled", "metric_floors", trained_on(shuffled)),
        machine(target, "worse", "not_worse_than_champion", **WORSE),
    )
)
