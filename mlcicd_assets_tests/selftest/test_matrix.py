"""When the self-test turns red, and what its last line says."""

from typing import Any

import pytest

from mlcicd_assets_tests.selftest.bench import CRASHED, DECISION, Result
from mlcicd_assets_tests.selftest.matrix import faults, kills_alone, matrix, summary

GATES = ("leakage", "slices")


def result(name: str, killer: str | None, *objected: str, **changes: Any) -> Result:
    outcome = "blocked" if objected else "released"
    plain = {"reason": "", "unchanged": bool(objected), "seconds": 1.0, "verdicts": ()}
    return Result(
        name=name, killer=killer, objected=objected, **{"outcome": outcome, **plain, **changes}
    )


FINE = (
    result("leak", "leakage", "leakage"),
    result("slice", "slices", "slices"),
    result("good", None),
    result("not_better", None, DECISION, outcome="kept"),
)


def test_a_complete_and_clean_run_is_green() -> None:
    assert faults(FINE, GATES, complete=True) == []
    assert kills_alone(FINE, GATES) == {"leakage": ["leak"], "slices": ["slice"]}
    assert summary(FINE) == "selftest: planted 2, killed 2, survivors 0, good 2, false kills 0"
    assert matrix(FINE, GATES).splitlines()[3].split() == ["leak", "X", ".", "blocked"]


@pytest.mark.parametrize(
    ("bad", "told", "sum_"),
    [
        (result("bad", "leakage"), "survived", "killed 2, survivors 1"),
        (
            result("bad", "leakage", "leakage", unchanged=False),
            "survived",
            "killed 2, survivors 1",
        ),
        (result("bad", "leakage", "slices"), "not killed by leakage", "killed 3, survivors 0"),
        (result("bad", "leakage", "leakage", outcome=CRASHED), "crashed", "survivors 0"),
        (result("bad", None, "slices"), "false kill", "false kills 1"),
        (result("bad", None, "slices", outcome="released"), "false kill", "false kills 1"),
        (result("bad", None, outcome="blocked"), "false kill", "false kills 1"),
        (result("bad", None, outcome=CRASHED), "crashed", "false kills 1"),
    ],
)
def test_what_turns_it_red(bad: Result, told: str, sum_: str) -> None:
    (fault,) = faults((*FINE, bad), GATES, complete=True)
    assert fault.startswith(f"bad: {told}")
    assert sum_ in summary((*FINE, bad))


def test_a_gate_that_never_kills_alone_turns_a_complete_run_red() -> None:
    shared = (result("leak", "leakage", "leakage", "slices"), *FINE[1:])
    (fault,) = faults(shared, GATES, complete=True)
    assert fault.startswith("leakage is never the only killer")
    assert faults(shared, GATES, complete=False) == []
    got_live = result("leak", "leakage", "leakage", unchanged=False)
    assert kills_alone((got_live,), GATES)["leakage"] == []
