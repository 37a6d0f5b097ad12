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
GOOD = g.FeatureStats("good", 0.0, 2)


def contract(*, rows=1000, quarantined=10, failures=(), broken=None):
    return g.contract_gate(
        rows=rows,
        quarantined=quarantined,
        failures=failures,
        broken=broken or {},
        subject=DATA,
        gates=POLICY,
    )


def features(*stats, rows=1000):
    return g.feature_sanity_gate(stats, rows=rows, subject=DATA, gates=POLICY)


def floors(metrics, *, rows=1000):
    return g.metric_floors_gate(metrics, rows=rows, subject=MODEL, gates=POLICY)


def champion(comparison, *, subject=MODEL, digest=CHAMPION):
    return g.champion_gate(comparison, gates=POLICY, subject=subject, champion_digest=digest)


def parity(difference=1e-12, *, flipped=0, rows=1000):
    return g.parity_gate(difference, flipped=flipped, rows=rows, subject=MODEL, gates=POLICY)


def all_passed(digest=CHAMPION):
    compared = champion(EQUAL if digest else None, digest=digest)
    verdicts = (contract(), features(GOOD), floors(METRICS), compared, parity())
    return {(verdict.gate, verdict.subject): verdict for verdict in verdicts}


def refused(verdicts, **changed):
    usual = {"data_subject": DATA, "model_subject": MODEL, "champion_digest": CHAMPION}
    policy = {"policy": g.policy_digest(POLICY)}
    return g.refusals(verdicts=verdicts, **usual | policy | changed)


def test_the_policy_is_the_gates_section_whatever_its_order():
    turned = Gates.model_validate(dict(reversed(POLICY.model_dump().items())))
    flipped = POLICY.model_copy(update={"floors": dict(reversed(POLICY.floors.items()))})
    assert g.policy_digest(turned) == g.policy_digest(flipped) == g.policy_digest(POLICY)


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


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [
        (contract(quarantined=10), True),
        (contract(quarantined=11), False),
        (contract(rows=0, quarantined=0), False),
        (contract(failures=[("key:unique", "3 rows", "0 rows")]), False),
        (features(GOOD, g.FeatureStats("amount", 0.2, 2)), True),
        (features(GOOD, g.FeatureStats("amount", 0.2000001, 2)), False),
        (features(GOOD, g.FeatureStats("amount", NAN, 2)), False),
        (features(GOOD, g.FeatureStats("amount", 0.0, 1)), False),
        (features(GOOD, g.FeatureStats("night", 0.0, 1)), True),
        (features(GOOD, g.FeatureStats("night", 0.3, 1)), False),
        (features(GOOD, rows=0), False),
        (features(), False),
        (floors(METRICS), True),
        (floors(METRICS | {"roc_auc": 0.7999999}), False),
        (floors(METRICS | {"average_precision": 0.2999999}), False),
        (floors(METRICS | {"roc_auc": NAN}), False),
        (floors(METRICS | {"recall": NAN}), True),
        (floors(METRICS, rows=0), False),
        (champion(EQUAL), True),
        (champion(replace(EQUAL, upper_95=-0.02)), True),
        (champion(replace(EQUAL, upper_95=-0.0200001)), False),
        (champion(replace(EQUAL, positives=19)), False),
        (champion(replace(EQUAL, upper_95=NAN)), False),
        (champion(replace(EQUAL, lower_90=NAN)), False),
        (champion(replace(EQUAL, upper_95=math.inf)), False),
        (parity(0.0), True),
        (parity(1e-12), True),
        (parity(1.01e-12), False),
        (parity(NAN), False),
        (parity(0.0, flipped=1), False),
        (parity(0.0, rows=0), False),
    ],
)
def test_each_gate_at_its_edges(verdict, passed):
    assert verdict.passed is passed


def test_contract_names_every_broken_rule():
    verdict = contract(
        quarantined=12,
        failures=[("rows:min", "12 rows", "100 rows")],
        broken={"b:max": 5, "a:min": 7},
    )
    assert str(verdict) == (
        "gate 'contract' FAILED: observed 1 failed rules, 12 of 1000 rows quarantined, threshold "
        "0 failed rules, quarantined share <= 0.01 (rows:min: 12 rows, allowed 100 rows; "
        "a:min quarantined 7 rows; b:max quarantined 5 rows)"
    )


def test_feature_sanity_names_all_faults():
    verdict = features(g.FeatureStats("flat", 0.0, 1), GOOD, g.FeatureStats("gone", 1, 0))
    assert verdict.detail == "flat is constant; gone is constant; gone is null in 1 of the rows"
    assert verdict.observed == "3 faults in 3 features of 1000 rows"


def test_metric_floors_say_what_is_below_and_which_metrics_there_are():
    verdict = floors({"recall": 0.9, "roc_auc": 0.5})
    assert verdict.observed == "roc_auc 0.5, average_precision nan"
    assert verdict.threshold == "roc_auc >= 0.8, average_precision >= 0.3"
    assert verdict.detail == (
        "roc_auc is below its floor, or undefined; "
        "there is no metric average_precision, only recall, roc_auc"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"upper_95": -0.1}, "worse than the champion beyond doubt and margin"),
        ({"upper_95": NAN}, "undefined"),
        ({"positives": 19}, "19 positives are too few"),
    ],
)
def test_a_lost_comparison_says_why_and_keeps_its_numbers_as_json(changed, words):
    verdict = champion(replace(EQUAL, **changed))
    assert words in verdict.detail
    assert verdict.context["champion_digest"] == CHAMPION
    assert verdict.context["difference"] == 0.01
    json.dumps(asdict(verdict), allow_nan=False)


@pytest.mark.parametrize(
    ("subject", "digest", "passed", "words"),
    [
        (MODEL, None, True, "no champion yet"),
        (CHAMPION, CHAMPION, True, "champion itself"),
        (MODEL, CHAMPION, False, "was not compared"),
    ],
)
def test_champion_without_a_comparison(subject, digest, passed, words):
    verdict = champion(None, subject=subject, digest=digest)
    assert verdict.passed is passed
    assert words in str(verdict)
    assert verdict.context == {"champion_digest": digest}


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


def test_only_the_champion_itself_needs_no_comparison():
    verdicts = {key: v for key, v in all_passed().items() if v.gate != g.NOT_WORSE}
    assert refused(verdicts, champion_digest=MODEL) == []
    assert len(refused(verdicts, champion_digest=None)) == 1


@pytest.mark.parametrize("gate", g.REQUIRED_GATES)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gate_version": 2}, "is of version 2"),
        ({"policy": "q" * 64}, "no verdict"),
        ({"passed": "true"}, "passed"),
    ],
)
def test_a_verdict_of_another_kind_is_a_reason(gate, changed, words):
    verdicts = {
        key: replace(verdict, **changed) if verdict.gate == gate else verdict
        for key, verdict in all_passed().items()
    }
    (reason,) = refused(verdicts)
    assert words in reason


def test_verdicts_on_other_subjects_do_not_count():
    assert len(refused(all_passed(), data_subject="e" * 64)) == len(g.DATA_GATES)
    assert len(refused(all_passed(), model_subject="e" * 64)) == len(g.MODEL_GATES)


@pytest.mark.parametrize("judged_against", [CHAMPION, None])
@pytest.mark.parametrize("now", ["e" * 64, CHAMPION, None])
def test_a_comparison_counts_only_against_the_champion_of_now(judged_against, now):
    reasons = refused(all_passed(digest=judged_against), champion_digest=now)
    assert len(reasons) == (judged_against != now)
    assert all("not the one it compared with" in reason for reason in reasons)


@pytest.mark.parametrize("now", [CHAMPION, None])
def test_a_comparison_that_names_no_champion_counts_never(now):
    verdicts = all_passed()
    verdicts[g.NOT_WORSE, MODEL] = replace(verdicts[g.NOT_WORSE, MODEL], context={})
    assert len(refused(verdicts, champion_digest=now)) == 1
