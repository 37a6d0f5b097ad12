import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcicd_assets.ml import gates as g
from mlcicd_assets.ml.metrics import Comparison
from mlcicd_assets.ml.spec import ChampionGate, FeatureGate, Gates

NAN = math.nan
POLICY = Gates(
    max_quarantined_share=0.01,
    features=FeatureGate(max_null_share=0.2, may_be_constant=("night",)),
    floors={"roc_auc": 0.8, "average_precision": 0.3},
    champion=ChampionGate(margin=0.02, min_positives=20),
)
DATA, MODEL, CHAMPION = "d" * 64, "b" * 64, "c" * 64
METRICS = {"roc_auc": 0.8, "average_precision": 0.3, "recall": 0.1}
EQUAL = Comparison("average_precision", 0.31, 0.3, 0.01, -0.015, 0.03, 5000, 20)


def contract(**changed):
    usual = {"rows": 1000, "quarantined": 10, "failures": [], "broken": {}}
    return g.contract_gate(**usual | changed, subject=DATA, gates=POLICY)


def features(*stats, rows=1000):
    return g.feature_sanity_gate(stats, rows=rows, subject=DATA, gates=POLICY)


def floors(metrics, rows=1000, gates=POLICY):
    return g.metric_floors_gate(metrics, rows=rows, subject=MODEL, gates=gates)


def champion(comparison, *, same_bundle=False, subject=MODEL, digest=CHAMPION, gates=POLICY):
    return g.champion_gate(
        comparison, same_bundle=same_bundle, gates=gates, subject=subject, champion_digest=digest
    )


def parity(difference=1e-12, *, flipped=0, rows=1000):
    return g.parity_gate(difference, flipped=flipped, rows=rows, subject=MODEL, gates=POLICY)


def all_passed(digest=CHAMPION):
    return {
        (verdict.gate, verdict.subject): verdict
        for verdict in (
            contract(),
            features(g.FeatureStats("amount", 0.0, 2)),
            floors(METRICS),
            champion(EQUAL if digest else None, digest=digest),
            parity(),
        )
    }


def refused(verdicts, **changed):
    usual = {"data_subject": DATA, "model_subject": MODEL, "champion_digest": CHAMPION}
    policy = {"policy": g.policy_digest(POLICY)}
    return g.refusals(verdicts=verdicts, **usual | policy | changed)


# policy


def test_the_policy_is_the_gates_section_whatever_its_order():
    turned = Gates.model_validate_json(
        json.dumps(dict(reversed(POLICY.model_dump(mode="json").items())))
    )
    flipped = POLICY.model_copy(update={"floors": dict(reversed(POLICY.floors.items()))})
    assert g.policy_digest(turned) == g.policy_digest(flipped) == g.policy_digest(POLICY)
    assert len(g.policy_digest(POLICY)) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {"max_quarantined_share": 0.02},
        {"features": FeatureGate(max_null_share=0.2)},
        {"floors": {"roc_auc": 0.8}},
        {"champion": ChampionGate(margin=0.03, min_positives=20)},
    ],
)
def test_every_part_of_the_policy_is_in_its_digest(changed):
    assert g.policy_digest(POLICY.model_copy(update=changed)) != g.policy_digest(POLICY)


@pytest.mark.parametrize("verdict", all_passed().values(), ids=lambda verdict: verdict.gate)
def test_a_verdict_names_what_it_is_bound_to(verdict):
    assert verdict.passed is True
    assert verdict.subject == (DATA if verdict.gate in g.DATA_GATES else MODEL)
    assert verdict.policy == g.policy_digest(POLICY)
    assert verdict.gate_version == g.GATE_VERSIONS[verdict.gate]
    assert verdict.sample_size in {1000, 5000}
    assert verdict.observed
    assert verdict.threshold


def test_every_gate_is_required_once():
    assert sorted(g.REQUIRED_GATES) == sorted(g.GATE_VERSIONS)


# contract


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"quarantined": 0}, True),
        ({"quarantined": 11}, False),
        ({"quarantined": -1}, False),
        ({"rows": 0, "quarantined": 0}, False),
        ({"rows": -1, "quarantined": 0}, False),
        ({"failures": [("key:unique", "3 rows", "0 rows")]}, False),
    ],
)
def test_contract(changed, passed):
    assert contract(**changed).passed is passed


def test_more_quarantined_rows_than_rows_never_pass():
    lax = POLICY.model_copy(update={"max_quarantined_share": 1.0})
    for quarantined, passed in ((10, True), (11, False)):
        verdict = g.contract_gate(
            rows=10, quarantined=quarantined, failures=[], broken={}, subject=DATA, gates=lax
        )
        assert verdict.passed is passed


def test_contract_names_every_broken_rule():
    verdict = contract(
        quarantined=12,
        failures=[("rows:min", "12 rows", "100 rows")],
        broken={"b:max": 5, "a:min": 7},
    )
    assert verdict.observed == "1 failed rules, 12 of 1000 rows quarantined"
    assert verdict.threshold == "0 failed rules, quarantined share <= 0.01"
    assert verdict.detail == (
        "rows:min: 12 rows, allowed 100 rows; a:min quarantined 7 rows; b:max quarantined 5 rows"
    )


# feature_sanity


@pytest.mark.parametrize(
    ("name", "null_share", "distinct", "passed"),
    [
        ("amount", 0.2, 2, True),
        ("amount", 0.2000001, 2, False),
        ("amount", NAN, 2, False),
        ("amount", 0.0, 1, False),
        ("amount", 0.0, 0, False),
        ("night", 0.0, 1, True),
        ("night", 0.3, 1, False),
    ],
)
def test_feature_sanity(name, null_share, distinct, passed):
    good = g.FeatureStats("good", 0.0, 2)
    assert features(good, g.FeatureStats(name, null_share, distinct)).passed is passed


def test_feature_sanity_of_nothing_fails():
    assert not features().passed
    assert not features(g.FeatureStats("amount", 0.0, 2), rows=0).passed


def test_feature_sanity_names_all_offenders():
    verdict = features(
        g.FeatureStats("flat", 0.0, 1), g.FeatureStats("good", 0.1, 2), g.FeatureStats("gone", 1, 0)
    )
    assert verdict.detail == "flat is constant; gone is constant; gone is null in 1 of the rows"
    assert verdict.observed == "3 faults in 3 features of 1000 rows"


# metric_floors


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"roc_auc": 0.7999999}, False),
        ({"average_precision": 0.2999999}, False),
        ({"roc_auc": NAN}, False),
        ({"recall": NAN}, True),
    ],
)
def test_metric_floors(changed, passed):
    assert floors(METRICS | changed).passed is passed


def test_a_floor_on_an_unknown_metric_fails_and_says_what_there_is():
    verdict = floors({"recall": 0.9, "roc_auc": 0.9})
    assert not verdict.passed
    assert verdict.detail == "there is no metric average_precision, only recall, roc_auc"


def test_metric_floors_say_what_is_below():
    verdict = floors(METRICS | {"roc_auc": 0.5})
    assert verdict.observed == "roc_auc 0.5, average_precision 0.3"
    assert verdict.threshold == "roc_auc >= 0.8, average_precision >= 0.3"
    assert verdict.detail == "roc_auc is below its floor, or undefined"


def test_no_floors_or_no_rows_fail():
    assert not floors(METRICS, gates=POLICY.model_copy(update={"floors": {}})).passed
    assert not floors(METRICS, rows=0).passed


def test_an_undefined_floor_fails():
    assert not floors(METRICS, gates=POLICY.model_copy(update={"floors": {"roc_auc": NAN}})).passed


# not_worse_than_champion


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"upper_95": -0.02}, True),
        ({"upper_95": -0.0200001}, False),
        ({"positives": 19}, False),
        ({"upper_95": NAN}, False),
        ({"lower_90": NAN}, False),
        ({"candidate": NAN}, False),
        ({"upper_95": math.inf}, False),
        ({"metric": "roc_auc"}, False),
    ],
)
def test_champion(changed, passed):
    verdict = champion(replace(EQUAL, **changed))
    assert verdict.passed is passed
    assert bool(verdict.detail) is not passed


def test_champion_keeps_the_numbers_and_the_champion():
    verdict = champion(replace(EQUAL, upper_95=NAN))
    assert verdict.context["champion_digest"] == CHAMPION
    assert verdict.context["difference"] == 0.01
    assert verdict.context["upper_95"] is None
    json.dumps(asdict(verdict), allow_nan=False)


@pytest.mark.parametrize(
    ("same_bundle", "subject", "digest", "passed", "words"),
    [
        (False, MODEL, None, True, "no champion yet"),
        (True, CHAMPION, CHAMPION, True, "champion itself"),
        (False, MODEL, CHAMPION, False, "was not compared"),
        (True, MODEL, CHAMPION, False, "said in two ways"),
        (True, MODEL, None, False, "said in two ways"),
        (False, CHAMPION, CHAMPION, False, "said in two ways"),
    ],
)
def test_champion_without_a_comparison(same_bundle, subject, digest, passed, words):
    verdict = champion(None, same_bundle=same_bundle, subject=subject, digest=digest)
    assert verdict.passed is passed
    assert words in verdict.detail
    assert verdict.context == {"champion_digest": digest}


def test_a_comparison_must_say_with_whom_and_with_what():
    assert not champion(EQUAL, digest=None).passed
    assert not champion(EQUAL, same_bundle=True).passed


# scorer_parity


@pytest.mark.parametrize(
    ("difference", "changed", "passed"),
    [
        (0.0, {}, True),
        (1e-12, {}, True),
        (1.01e-12, {}, False),
        (-1e-13, {}, False),
        (NAN, {}, False),
        (0.0, {"flipped": 1}, False),
        (0.0, {"flipped": -1}, False),
        (0.0, {"rows": 0}, False),
    ],
)
def test_parity(difference, changed, passed):
    assert parity(difference, **changed).passed is passed


# refusals


def test_all_passed_allows_a_release():
    assert refused(all_passed()) == []
    assert refused(all_passed(digest=None), champion_digest=None) == []


def test_nothing_required_allows_nothing():
    assert len(refused(all_passed(), required=())) == 1


@given(st.sets(st.sampled_from(g.REQUIRED_GATES)), st.sets(st.sampled_from(g.REQUIRED_GATES)))
def test_every_missing_or_failed_gate_is_a_reason(missing, failed):
    verdicts = {
        key: replace(verdict, passed=verdict.gate not in failed)
        for key, verdict in all_passed().items()
        if verdict.gate not in missing
    }
    reasons = refused(verdicts)
    assert len(reasons) == len(missing | failed)
    for gate in missing | failed:
        word = "has no verdict" if gate in missing else "FAILED"
        assert sum(f"'{gate}' {word}" in reason for reason in reasons) == 1


@pytest.mark.parametrize("gate", g.REQUIRED_GATES)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gate_version": 2}, "is of version 2, not 1"),
        ({"policy": "q" * 64}, "under another policy"),
        ({"subject": "e" * 64}, "on eeeeeeeeeeee"),
        ({"gate": "no_gate"}, "one of 'no_gate'"),
        ({"passed": 1}, "passed"),
        ({"passed": "true"}, "passed"),
    ],
)
def test_a_verdict_about_anything_else_is_a_reason(gate, changed, words):
    verdicts = {
        key: replace(verdict, **changed) if verdict.gate == gate else verdict
        for key, verdict in all_passed().items()
    }
    reasons = refused(verdicts)
    assert len(reasons) == 1
    assert words in reasons[0]


def test_verdicts_on_other_subjects_do_not_count():
    assert len(refused(all_passed(), data_subject="e" * 64)) == len(g.DATA_GATES)
    assert len(refused(all_passed(), model_subject="e" * 64)) == len(g.MODEL_GATES)
    assert len(refused(all_passed(), policy="q" * 64)) == len(g.REQUIRED_GATES)


@pytest.mark.parametrize("judged_against", [CHAMPION, None])
@pytest.mark.parametrize("now", ["e" * 64, CHAMPION, None])
def test_a_comparison_counts_only_against_the_champion_of_now(judged_against, now):
    reasons = refused(all_passed(digest=judged_against), champion_digest=now)
    assert len(reasons) == (judged_against != now)
    assert all("against champion" in reason for reason in reasons)


def test_a_comparison_that_names_no_champion_counts_never():
    verdicts = all_passed()
    key = (g.NOT_WORSE, MODEL)
    verdicts[key] = replace(verdicts[key], context={})
    assert len(refused(verdicts, champion_digest=None)) == 1
    assert len(refused(verdicts)) == 1


def test_an_unknown_gate_can_be_required_but_not_passed():
    verdict = replace(contract(), gate="invented", gate_version=None, subject=MODEL)
    reasons = refused({("invented", MODEL): verdict}, required=["invented"])
    assert len(reasons) == 1
