import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlcicd_assets.ml.gate import Gate, judge, policy_digest
from mlcicd_assets.ml.gates import GATES, data_gates, model_gates, refusals
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.policy import ChampionGate, FeatureGate, Gates

POLICY = Gates(
    max_quarantined_share=0.01,
    features=FeatureGate(max_null_share=0.2, may_be_constant=("night",)),
    floors={"roc_auc": 0.8, "average_precision": 0.3},
    champion=ChampionGate(margin=0.02, min_positives=20),
)
DATA, MODEL, CHAMPION = "d" * 64, "b" * 64, "c" * 64
DATA_NAMES = [gate.name for gate in data_gates(POLICY)]
MODEL_NAMES = [gate.name for gate in model_gates(POLICY)]
REQUIRED = DATA_NAMES + MODEL_NAMES


def passed(gate: Gate, *, champion: str | None = CHAMPION, word: object = True):
    is_data = gate.name in DATA_NAMES
    return judge(
        gate,
        subject=DATA if is_data else MODEL,
        gates=POLICY,
        passed=word,
        observed="1",
        threshold="1",
        sample_size=1,
        context={"champion_digest": champion} if gate is NOT_WORSE else None,
    )


def all_passed(champion: str | None = CHAMPION):
    verdicts = [passed(GATES[name], champion=champion) for name in REQUIRED]
    return {(verdict.gate, verdict.subject): verdict for verdict in verdicts}


def refused(verdicts, **changed):
    usual = {"data_subject": DATA, "model_subject": MODEL, "champion_digest": CHAMPION}
    return refusals(verdicts=verdicts, **{**usual, "gates": POLICY, **changed})


def test_every_required_gate_passed_is_a_release():
    assert refused(all_passed()) == []


def test_the_policy_digest_does_not_depend_on_order_or_spelling():
    plain = POLICY.model_dump(mode="json")
    turned = Gates.model_validate(dict(reversed(plain.items())))
    floors = {"average_precision": 0.3, "roc_auc": 0.80}
    assert policy_digest(turned) == policy_digest(POLICY)
    assert policy_digest(POLICY.model_copy(update={"floors": floors})) == policy_digest(POLICY)
    assert json.loads(json.dumps(asdict(passed(NOT_WORSE))))["policy"] == policy_digest(POLICY)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_quarantined_share": 0.02},
        {"features": FeatureGate(max_null_share=0.2)},
        {"floors": {"roc_auc": 0.8}},
        {"champion": ChampionGate(margin=0.03, min_positives=20)},
        {"calibration": None},
    ],
)
def test_any_other_policy_has_another_digest_and_its_verdicts_do_not_count(changed):
    other = POLICY.model_copy(update=changed)
    assert policy_digest(other) != policy_digest(POLICY)
    required = len(data_gates(other)) + len(model_gates(other))
    assert len(refused(all_passed(), gates=other)) == required


@pytest.mark.parametrize("word", [1, "yes", 1.0, float("nan"), None])
def test_only_true_passes(word):
    assert passed(NOT_WORSE, word=word).passed is False


@given(st.sets(st.sampled_from(REQUIRED)), st.sets(st.sampled_from(REQUIRED)))
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


@given(st.sets(st.sampled_from(REQUIRED)), st.sets(st.sampled_from(REQUIRED)))
def test_an_override_lets_a_failed_verdict_pass_and_no_missing_one(missing, overridden):
    verdicts = {
        key: replace(verdict, passed=False)
        for key, verdict in all_passed().items()
        if verdict.gate not in missing
    }
    keys = {(name, DATA if name in DATA_NAMES else MODEL) for name in overridden}
    reasons = refused(verdicts, overridden=keys)
    assert len(reasons) == len(REQUIRED) - len(overridden - missing)


def test_an_override_for_another_subject_does_not_count():
    verdicts = {key: replace(v, passed=False) for key, v in all_passed().items()}
    elsewhere = [(name, "e" * 64) for name in REQUIRED]
    assert len(refused(verdicts, overridden=elsewhere)) == len(REQUIRED)


def test_only_the_champion_itself_needs_no_comparison():
    verdicts = {key: v for key, v in all_passed().items() if v.gate != NOT_WORSE.name}
    assert refused(verdicts, champion_digest=MODEL) == []
    assert len(refused(verdicts, champion_digest=None)) == 1


@pytest.mark.parametrize("gate", REQUIRED)
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gate_version": 99}, "is of version 99"),
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
    assert len(refused(all_passed(), data_subject="e" * 64)) == len(DATA_NAMES)
    assert len(refused(all_passed(), model_subject="e" * 64)) == len(MODEL_NAMES)


@pytest.mark.parametrize("judged_against", [CHAMPION, None])
@pytest.mark.parametrize("now", ["e" * 64, CHAMPION, None])
def test_a_comparison_counts_only_against_the_champion_of_now(judged_against, now):
    reasons = refused(all_passed(champion=judged_against), champion_digest=now)
    assert len(reasons) == (judged_against != now)
    assert all("not the one it compared with" in reason for reason in reasons)


@pytest.mark.parametrize("now", [CHAMPION, None])
def test_a_comparison_that_names_no_champion_counts_never(now):
    verdicts = all_passed()
    key = (NOT_WORSE.name, MODEL)
    verdicts[key] = replace(verdicts[key], context={})
    assert len(refused(verdicts, champion_digest=now)) == 1
