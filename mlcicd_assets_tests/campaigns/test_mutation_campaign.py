"""Is a broken gate noticed? Each is broken in every way below, and the self-test must turn red.

A mutant lives in the process that sends the cases: each gate's verdict inverted, its threshold
ignored, and the wrong rows judged; then the ledger's refusals and the decision weakened.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlcicd_assets.io import evaluation_run, ledger, serving_trial
from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.ml import (
    contract,
    days,
    gate,
    gates,
    groups,
    history,
    leakage,
    point_in_time,
    promotion,
    robustness,
    target,
)
from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.promotion import Decision
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets_tests.selftest.bench import CRASHED, DECISION, LEDGER
from mlcicd_assets_tests.selftest.run import in_workers, run_case
from mlcicd_assets_tests.selftest.world import MODEL, spec_with

pytestmark = pytest.mark.prove
GOOD = "as_it_is"
# By gate, a case that it alone kills.
WITNESS = {
    "contract": "old_ids_used_again",
    "feature_sanity": "feature_never_filled",
    "point_in_time": "window_sees_the_future",
    "volume": "truncated_batch",
    "freshness": "stale_data",
    "column_history": "newly_constant",
    "duplicates": "batch_twice",
    "metric_floors": "memorised",
    "not_worse_than_champion": "worse_than_the_champion",
    "scorer_parity": "exporter_forgets_float32",
    "serving_trial": "too_much_memory",
    "leakage": "leaked_feature",
    "label_maturity": "labels_of_the_future",
    "calibration": "badly_calibrated",
    "slices": "one_bad_slice",
    "golden_set": "golden_case_missed",
    "fairness": "unfair_to_a_group",
    "poisoning": "labels_flipped_in_one_source",
    "stability": "noisy_model",
}


@dataclass(frozen=True)
class Mutant:
    """`function` does as `other` says, which gets the honest one; `case` must tell."""

    function: Callable[..., Any]
    other: Callable[..., Any]
    case: str


def judging(name: str, passed: Callable[[bool], bool]) -> Callable[..., Any]:
    def judge(honest: Callable[..., Any], which: gate.Gate, **said: Any) -> Any:
        if which.name == name:
            said["passed"] = passed(said["passed"])
        return honest(which, **said)

    return judge


def with_holdout(scored: Scored, rows: pl.DataFrame) -> Scored:
    scores = scored.scorer.score(column_arrays(rows, scored.columns))
    labels, alerts = rows["label"].to_numpy(), scores >= scored.threshold
    split = replace(scored.split, holdout=rows)
    return replace(scored, split=split, labels=labels, scores=scores, decisions=alerts)


def with_train(scored: Scored, rows: pl.DataFrame) -> Scored:
    return replace(scored, split=replace(scored.split, train=rows))


def holdout_as(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[..., Any]:
    """The gate looks at the holdout after a change."""
    return lambda honest, scored, *rest: honest(
        with_holdout(scored, change(scored.split.holdout)), *rest
    )


def train_as(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[..., Any]:
    return lambda honest, scored, *rest: honest(
        with_train(scored, change(scored.split.train)), *rest
    )


def one_week_ago(honest: Callable[..., Any], *words: Any, **how: Any) -> Any:
    made = honest(*words, **how)
    earlier, newest = made.earlier.head(-7), made.earlier.tail(7)
    return replace(made, newest=newest, earlier=earlier, as_of=made.last)


def richer(rows: pl.DataFrame) -> pl.DataFrame:
    """A sixth of these rows is positive."""
    positives = rows.filter(pl.col("label") == 1)
    return pl.concat([rows.head(5 * positives.height), positives])


def shuffled(column: str) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda rows: rows.with_columns(pl.col(column).shuffle(seed=1))


def only_good_rows(honest: Callable[..., Any], *words: Any) -> Any:
    report = honest(*words)
    return replace(report, failures=(), broken={}, quarantined=report.quarantined.head(0), rows=1)


def other_groups(honest: Callable[..., Any], scored: Scored, rule: Any) -> Any:
    """The decisions stay with the rows, the groups do not."""
    split = replace(scored.split, holdout=shuffled("segment")(scored.split.holdout))
    return honest(replace(scored, split=split), rule)


def the_live_bundle(honest: Callable[..., Any], releases: Any, _: Any, *rest: Any) -> Any:
    pointer = read_pointer(releases, MODEL)
    assert pointer is not None
    return honest(releases, load_bundle(releases, MODEL, pointer.digest), *rest)


def no_edit_is_seen(_: Callable[..., Any], row: Any) -> ledger.Entry:
    return ledger.Entry(**{**row, "body": ledger.json.loads(row["body"])})


WRONG_ROWS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "contract": (contract.check_batch, only_good_rows),
    "feature_sanity": (days.feature_stats, lambda honest, *words: honest(*words)[:1]),
    "point_in_time": (
        point_in_time.future_seen,
        lambda honest, *words: ({}, honest(*words)[1]),
    ),
    **dict.fromkeys(
        ("volume", "freshness", "column_history", "duplicates"),
        (history.make_history, one_week_ago),
    ),
    "metric_floors": (
        evaluation_run._metrics,
        lambda honest, scored: honest(with_holdout(scored, scored.split.train)),
    ),
    "not_worse_than_champion": (
        target.compare_paired,
        lambda honest, kind, y, *words, **how: honest(kind, np.roll(y, 7), *words, **how),
    ),
    "scorer_parity": (
        evaluation_run._parity,
        lambda honest, scored, *rest: honest(
            with_holdout(scored, scored.split.holdout.head(3)), *rest
        ),
    ),
    "serving_trial": (serving_trial.try_serving, the_live_bundle),
    "leakage": (leakage._auc, lambda honest, values, y: honest(values, np.roll(y, 7))),
    "label_maturity": (leakage.find_early_labels, train_as(lambda rows: rows.head(500))),
    "calibration": (robustness.find_miscalibration, holdout_as(richer)),
    "slices": (
        groups.find_weak_slices,
        holdout_as(lambda rows: rows.filter(pl.col("region") != "west")),
    ),
    "golden_set": (
        robustness.find_wrong_cases,
        lambda honest, scored, _: honest(scored, spec_with({}).gates.golden_set),
    ),
    "fairness": (groups.find_unfairness, other_groups),
    "poisoning": (groups.find_poisoned_sources, train_as(shuffled("acquirer"))),
    "stability": (
        robustness.find_instability,
        holdout_as(lambda rows: rows.filter(pl.col("meter").abs() < 10)),
    ),
}


def mutants() -> Iterator[tuple[str, Mutant]]:
    for name, witness in WITNESS.items():
        inverted = judging(name, lambda passed: not passed)
        yield f"{name}: inverted", Mutant(gate.judge, inverted, GOOD)
        always = judging(name, lambda _: True)
        yield f"{name}: threshold ignored", Mutant(gate.judge, always, witness)
        yield f"{name}: wrong rows", Mutant(*WRONG_ROWS[name], witness)
    for what, (says, witness) in REFUSALS.items():
        yield f"ledger: {what}", Mutant(gates.refusals, says, witness)
    yield (
        f"{LEDGER}: edits unseen",
        Mutant(ledger._entry, no_edit_is_seen, "verdict_edited_in_the_ledger"),
    )
    yield (
        f"{DECISION}: always released",
        Mutant(promotion.decide, lambda *_, **__: Decision("released", ""), "compared_with_itself"),
    )


def dropping(word: str) -> Callable[..., Any]:
    """Refuse nothing for a reason with this word."""
    return lambda honest, **said: [reason for reason in honest(**said) if word not in reason]


REFUSALS = {
    "refuses nothing": (lambda _, **__: [], "two_runs_interleaved"),
    "failed verdicts pass": (dropping("FAILED"), "below_its_floor"),
    "missing verdicts pass": (dropping("has no verdict"), "verdict_missing"),
    "other policies pass": (dropping("this policy"), "verdict_of_another_policy"),
    "other bundles pass": (dropping("has no verdict on"), "another_bundle_delivered"),
    "old gates pass": (dropping("is of version"), "verdict_of_an_older_gate"),
    "any champion passes": (dropping("the live model is not"), "numbers_of_another_holdout"),
}
MUTANTS = dict(mutants())


def break_it(patch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """Put the mutant wherever the honest function is known, by its name or in a table."""
    honest = mutant.function

    def broken(*words: Any, **options: Any) -> Any:
        return mutant.other(honest, *words, **options)

    modules = [module for name, module in sys.modules.items() if name.startswith("mlcicd_assets.")]
    for table in map(vars, modules):
        for known in (table, *(value for value in table.values() if isinstance(value, dict))):
            for word in [word for word, value in known.items() if value is honest]:
                patch.setitem(known, word, broken)


def is_noticed(name: str) -> tuple[str, str]:
    """Run a mutant's case; return how the self-test turned red, or "". A crash shows nothing."""
    with pytest.MonkeyPatch.context() as patch:
        break_it(patch, MUTANTS[name])
        result = run_case(MUTANTS[name].case)
    return name, "" if result.outcome == CRASHED else result.fault


def is_green(case: str) -> tuple[str, str]:
    return case, run_case(case).fault


def test_no_broken_gate_stays_unnoticed() -> None:
    policy = spec_with({}).gates
    asked = {one.name for one in (*gates.data_gates(policy), *gates.model_gates(policy))}
    assert asked == set(WITNESS), "give the new gate a witness and wrong rows"
    needed = sorted({mutant.case for mutant in MUTANTS.values()})
    assert [fault for fault in in_workers(is_green, needed) if fault[1]] == []
    survivors: list[str] = []
    started = time.monotonic()
    for number, (name, how) in enumerate(in_workers(is_noticed, list(MUTANTS)), 1):
        print(f"{number:>3}/{len(MUTANTS)} {name}: {how[:150] or 'SURVIVED'}", flush=True)
        survivors += [] if how else [name]
    print(f"{time.monotonic() - started:.0f} s of wall time; survivors: {survivors}")
    print(f"figure gate_mutants {len(MUTANTS)} >= 30")
    print(f"figure gate_mutants_survived {len(survivors)} == 0")
    assert survivors == []
