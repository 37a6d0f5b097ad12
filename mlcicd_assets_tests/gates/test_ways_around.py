"""The known ways around a Dagster asset check, each tried on a candidate that misses a floor.

Each must end with a failed run, nothing released, and the gate named; the same way with a
candidate that passes must release it. (The endpoint materialized alone, and verdicts of another
policy, are in orchestration/test_pipeline.py.)
"""

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from mlcicd_assets import definitions
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.orchestration import (
    deployed_endpoint,
    evaluation_report,
    raw_data,
    validated_features,
    wiring,
)
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.components.test_model_pipeline import plant
from mlcicd_assets_tests.small_model import MODEL, deliver_days, outcomes, small_spec

BAD = {"gates__floors": {"roc_auc": 0.999}}
GOOD = {"gates__floors": {"roc_auc": 0.5}}
ENDPOINT = dg.AssetKey([MODEL, "deployed_endpoint"])

Way = Callable[[pytest.MonkeyPatch, dict], dg.ExecuteInProcessResult]


def execute(definitions: dg.Definitions, job: dg.JobDefinition) -> dg.ExecuteInProcessResult:
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(instance=instance, raise_on_error=False)


def run_whole_job(changes: dict) -> dg.ExecuteInProcessResult:
    definitions = build_pipeline(small_spec(**changes))
    return execute(definitions, definitions.resolve_job_def(f"{MODEL}_cicd"))


def non_blocking(patch: pytest.MonkeyPatch, changes: dict) -> dg.ExecuteInProcessResult:
    honest = dg.AssetCheckSpec

    def lax(*words: object, **options: object) -> dg.AssetCheckSpec:
        return honest(*words, **{**options, "blocking": False})

    patch.setattr(wiring.dg, "AssetCheckSpec", lax)
    return run_whole_job(changes)


def warn_only(patch: pytest.MonkeyPatch, changes: dict) -> dg.ExecuteInProcessResult:
    honest = wiring.check_results

    def soft(*words: object) -> list[dg.AssetCheckResult]:
        return [result._replace(severity=dg.AssetCheckSeverity.WARN) for result in honest(*words)]

    patch.setattr(evaluation_report, "check_results", soft)
    return run_whole_job(changes)


def lying_check(patch: pytest.MonkeyPatch, changes: dict) -> dg.ExecuteInProcessResult:
    honest = wiring.check_results

    def lie(*words: object) -> list[dg.AssetCheckResult]:
        return [result._replace(passed=True) for result in honest(*words)]

    patch.setattr(evaluation_report, "check_results", lie)
    return run_whole_job(changes)


def silent_check(patch: pytest.MonkeyPatch, changes: dict) -> dg.ExecuteInProcessResult:
    """The gates are no checks at all any more, as when a check yields nothing."""
    honest = dg.asset

    def without(**options: object) -> object:
        return honest(**{**options, "check_specs": None})

    patch.setattr(wiring.dg, "asset", without)
    for module in (raw_data, validated_features, evaluation_report):
        patch.setattr(module, "check_results", lambda *_: [])
    patch.setattr(deployed_endpoint, "_no_override", lambda *_: None)
    honest_result = dg.MaterializeResult
    patch.setattr(
        deployed_endpoint.dg,
        "MaterializeResult",
        lambda **fields: honest_result(**{**fields, "check_results": []}),
    )
    return run_whole_job(changes)


def eager_automation(patch: pytest.MonkeyPatch, changes: dict) -> dg.ExecuteInProcessResult:
    """The run fails at its gate; automation then sees a new report and asks for the endpoint."""
    honest = dg.asset

    def eager(**options: object) -> object:
        if options["key"] == ENDPOINT:
            options["automation_condition"] = dg.AutomationCondition.eager()
        return honest(**options)

    patch.setattr(wiring.dg, "asset", eager)
    definitions = build_pipeline(small_spec(**changes))
    with dg.DagsterInstance.ephemeral() as instance:
        before = dg.evaluate_automation_conditions(definitions, instance)
        job = definitions.resolve_job_def(f"{MODEL}_cicd")
        upstream = job.asset_layer.executable_asset_keys - {ENDPOINT}
        job.execute_in_process(
            instance=instance, asset_selection=list(upstream), raise_on_error=False
        )
        asked = dg.evaluate_automation_conditions(definitions, instance, cursor=before.cursor)
        assert asked.get_requested_partitions(ENDPOINT) == {None}
        return job.execute_in_process(
            instance=instance, asset_selection=[ENDPOINT], raise_on_error=False
        )


WAYS: list[Way] = [non_blocking, warn_only, lying_check, silent_check, eager_automation]


# Dagster's own automation tester uses a beta parameter.
@pytest.mark.filterwarnings("ignore:.*include_sources.*")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_way_around_the_checks_ends_at_the_ledger(
    way: Way, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    with monkeypatch.context() as patch:
        refused = way(patch, BAD)
    assert not refused.success
    failures = [str(e.event_specific_data.error) for e in refused.all_events if e.is_step_failure]
    assert any("gate 'metric_floors' FAILED" in text for text in failures)
    assert model_status(server, MODEL, token=None) is None
    assert set(outcomes()) == {"blocked"}
    with monkeypatch.context() as patch:
        assert way(patch, GOOD).success
    assert outcomes()[-1] == "released"


def test_a_job_without_the_checks_cannot_be_defined(home: object) -> None:
    bare = dg.define_asset_job("bare", selection=dg.AssetSelection.groups(MODEL).without_checks())
    merged = dg.Definitions.merge(build_pipeline(small_spec()), dg.Definitions(jobs=[bare]))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="bare"):
        merged.resolve_job_def("bare")


def test_a_check_on_a_misspelt_asset_stops_the_definitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, MODEL)
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "checks.py").write_text(
        "import dagster as dg\n"
        "@dg.asset_check(asset=['card_fraud', 'evaluation_reprot'], blocking=True)\n"
        "def never_runs():\n"
        "    return dg.AssetCheckResult(passed=False)\n"
    )
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path))
    with pytest.raises(SpecError, match="'never_runs' on card_fraud/evaluation_reprot"):
        definitions.defs()
