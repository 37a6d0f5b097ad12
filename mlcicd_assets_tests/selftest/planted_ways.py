"""Planted ways around: the candidate, its verdicts or the truth tampered with before delivery."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from mlcicd_assets.io import ledger as ledger_module
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import CHAMPION, set_alias
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.ml.values import ReportRef, Verdict
from mlcicd_assets_tests.selftest.bench import DIGEST, LEDGER, Bench, Case
from mlcicd_assets_tests.selftest.world import MODEL, spec_with

TOO_HIGH = {"gates__floors": {"roc_auc": 0.999}}


def verdict_of(bench: Bench, gate: str) -> Verdict:
    bodies = [entry.body for entry in bench.ledger.entries(model=MODEL, kinds=("verdict",))]
    return Verdict(**[body for body in bodies if body["gate"] == gate][-1])


def book_again(gate: str, **changes: Any) -> Callable[[Bench, ReportRef], None]:
    """Write a verdict by hand: the newest of a gate, changed."""

    def tamper(bench: Bench, _: ReportRef) -> None:
        forged = replace(verdict_of(bench, gate), **changes)
        bench.ledger.record_verdict(MODEL, forged, run_id="forged")

    return tamper


def compared_with_another(bench: Bench, report: ReportRef) -> None:
    """Numbers of a comparison that was made elsewhere, with another champion."""
    honest = verdict_of(bench, "not_worse_than_champion").context
    other = {**honest, "champion_digest": "0" * 64, "lower_90": 0.2, "upper_95": 0.3}
    book_again("not_worse_than_champion", context=other)(bench, report)


def edit_the_failed_verdict(bench: Bench, _: ReportRef) -> None:
    with sa.create_engine(bench.settings.ledger_url).begin() as connection:
        names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        connection.exec_driver_sql(
            """UPDATE ledger_entries SET body = replace(body, '"passed":false', '"passed":true')"""
        )


def tamper_with_the_bundle(bench: Bench, report: ReportRef) -> None:
    folder = bundle_folder(bench.settings.releases, MODEL, report.candidate.digest)
    file = folder / "model.json"
    file.write_bytes(file.read_bytes().replace(b'"threshold":', b'"threshold": '))


def deliver_under_another_policy(bench: Bench, report: ReportRef) -> None:
    bench.deliver(report, spec_with({"gates__floors": {"roc_auc": 0.71}}))


def deliver_another_bundle(bench: Bench, report: ReportRef) -> None:
    """Judged was one model, delivered is the next one, as with `saved_models[0]`."""
    spec = spec_with({"training__seed": 2})
    other = bench.train(spec, report.candidate.data)
    bench.deliver(replace(report, candidate=other), spec_with({}))


def move_the_alias(bench: Bench, report: ReportRef) -> None:
    set_alias(bench.settings, MODEL, CHAMPION, report.candidate.version)


def fail_with_the_clock_set_back(bench: Bench, report: ReportRef) -> None:
    """The newest verdict is the last one booked, whatever the clock says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_module, "utc_now", lambda: "2001-01-01T00:00:00+00:00")
        failed = replace(verdict_of(bench, "metric_floors"), passed=False)
        bench.book(spec_with({}), [failed], report.candidate, raw=None)


def let_another_run_release_first(bench: Bench, _: ReportRef) -> None:
    spec = spec_with({"training__seed": 3})
    assert bench.deliver(bench.judge(spec), spec).outcome == "released"
    bench.before = bench.live(MODEL)


def lose_a_verdict(bench: Bench, patch: pytest.MonkeyPatch) -> None:
    honest = Ledger.record_verdict

    def forgetful(self: Ledger, model: str, verdict: Verdict, *, run_id: str) -> object:
        if verdict.gate != "metric_floors":
            return honest(self, model, verdict, run_id=run_id)
        return None

    patch.setattr(Ledger, "record_verdict", forgetful)


WAYS_AROUND = (
    Case("bundle_file_tampered", DIGEST, tamper=tamper_with_the_bundle),
    Case("another_bundle_delivered", LEDGER, tamper=deliver_another_bundle),
    Case("verdict_missing", LEDGER, plant=lose_a_verdict),
    Case("verdict_edited_in_the_ledger", LEDGER, TOO_HIGH, tamper=edit_the_failed_verdict),
    Case("verdict_of_another_policy", LEDGER, tamper=deliver_under_another_policy),
    Case("verdict_of_an_older_gate", LEDGER, tamper=book_again("metric_floors", gate_version=0)),
    Case("numbers_of_another_holdout", LEDGER, tamper=compared_with_another),
    Case("alias_moved_by_hand", "metric_floors", TOO_HIGH, tamper=move_the_alias),
    Case("clock_set_back", "metric_floors", tamper=fail_with_the_clock_set_back),
    Case("two_runs_interleaved", LEDGER, tamper=let_another_run_release_first),
)
