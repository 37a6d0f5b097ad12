"""Evaluation of real candidates: money, provisional metrics, and a model that is not its spec's."""

from dataclasses import replace

import pytest

from mlcicd_assets.io.bundle import load_bundle, write_bundle
from mlcicd_assets.io.evaluation_run import Evaluation, evaluate
from mlcicd_assets.io.registry import load_pipeline
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.export import export_model
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    ledger,
    metadata,
    run_job,
    small_spec,
    stored_value,
)

MONEY = {
    "gates__costs": {"false_positive": 20, "false_negative": "amount"},
    "gates__champion": {"metric": "saving", "min_positives": 5, "margin": 0.02},
    "gates__floors": {"roc_auc": 0.1},
    "gates__serving": {"requests": 20},
    "gates__golden_set": [{"name": "calm", "row": {"channel": "chip"}, "at_most": 1}],
    "gates__slices": {"columns": ["channel"], "min_roc_auc": 0},
    "gates__calibration": None,
}


def evaluated(spec: PipelineSpec) -> Evaluation:
    candidate = stored_value(MODEL, "trained_model", ModelVersionRef)
    return evaluate(Settings.from_env(), spec, candidate, live=ledger().live(spec.name))


@pytest.fixture
def live(server: str) -> PipelineSpec:
    """A poor model is live."""
    deliver_days()
    spec = small_spec(features={"columns": ["channel"]}, **MONEY)
    released = run_job(spec)
    assert metadata(released, "deployed_endpoint")["outcome"] == "released"
    return spec


@pytest.mark.ci
def test_models_are_compared_by_money_each_at_its_own_threshold(live: PipelineSpec) -> None:
    first = evaluated(live)
    assert first.champion is None
    assert first.metrics["alert_rate"] == 0
    assert "precision" not in first.metrics  # undefined without an alert, and no JSON number
    low, high = first.intervals["saving"]
    assert low <= first.metrics["saving"] <= high
    better = small_spec(**MONEY)
    result = run_job(better)
    assert (
        "better than the live model: saving 0." in metadata(result, "deployed_endpoint")["reason"]
    )
    # The second is live now, so that the first is a candidate again.
    assert run_job(live, only="trained_model").success
    worse = evaluated(live)
    assert worse.comparison is not None
    assert worse.champion is not None
    assert worse.champion.columns != worse.scored.columns
    assert worse.champion.threshold != worse.scored.threshold
    pair = worse.comparison
    assert (pair.metric, pair.candidate) == ("saving", first.metrics["saving"])
    assert pair.champion == pytest.approx(evaluated_saving(worse))
    assert pair.upper_95 < -0.02
    (verdict,) = (v for v in worse.verdicts if v.gate == "not_worse_than_champion")
    assert verdict.passed is False


def evaluated_saving(made: Evaluation) -> float:
    """The champion's saving, reckoned by hand."""
    assert made.champion is not None
    rows, alerts = made.champion.split.holdout, made.champion.decisions
    amount, fraud = rows["amount"].to_numpy(), rows["label"].to_numpy() == 1
    cost = 20 * (alerts & ~fraud).sum() + amount[fraud & ~alerts].sum()
    return 1 - cost / min(20 * (~fraud).sum(), amount[fraud].sum())


def test_provisional_metrics_are_of_rows_after_the_holdout_and_never_judged(
    live: PipelineSpec,
) -> None:
    made = evaluated(live)
    assert made.metrics["provisional_rows"] > 1_000
    assert 0 < made.metrics["provisional_roc_auc"] < 1
    assert made.metrics["provisional_roc_auc"] != made.metrics["roc_auc"]
    floors = live.gates.model_copy(update={"floors": {"provisional_roc_auc": 0.0}})
    judged = evaluated(live.model_copy(update={"gates": floors}))
    assert "there is no metric provisional_roc_auc" in judged.verdicts[0].detail
    assert judged.verdicts[0].passed is False


def test_a_model_of_another_training_is_no_candidate_of_this_spec(live: PipelineSpec) -> None:
    other = small_spec(features={"columns": ["channel"]}, training__seed=99, **MONEY)
    faults = [verdict for verdict in evaluated(other).verdicts if not verdict.passed]
    assert ["not trained on these rows" in verdict.detail for verdict in faults] == [True]
    assert all(verdict.passed for verdict in evaluated(live).verdicts)


def test_a_champion_of_the_first_release_is_compared(live: PipelineSpec) -> None:
    """Its label definition knows nothing of targets and classes."""
    settings, now = Settings.from_env(), ledger().live(MODEL)
    assert now is not None
    made = load_bundle(settings.releases, MODEL, now.digest)
    label = {k: v for k, v in made.definitions["label"].items() if k not in {"target", "classes"}}
    pipeline = load_pipeline(settings, MODEL, now.version)
    old = write_bundle(
        settings.releases,
        model=MODEL,
        exported=export_model(pipeline, made.columns),
        columns=made.columns,
        threshold=made.threshold,
        definitions={**made.definitions, "label": label},
        train_until=made.train_until,
        golden=made.golden_columns,
    )
    assert (old.digest == made.digest, old.classes) == (False, ())
    candidate = stored_value(MODEL, "trained_model", ModelVersionRef)
    again = evaluate(settings, live, candidate, live=replace(now, digest=old.digest))
    assert again.comparison is not None
    assert (again.comparison.difference, again.comparison.upper_95) == (0, 0)
