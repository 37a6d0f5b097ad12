"""Recall: what was made from bad rows leaves the endpoint, and never comes back."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from mlcicd_assets.io import carrier, interventions, recall
from mlcicd_assets.io.decisions import withdrawals
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.readings import alarms, case_of, history, in_words, live_at
from mlcicd_assets.io.recall import Suspect
from mlcicd_assets.io.verify import verify
from mlcicd_assets.ml.errors import GateBlocked, NotAllowed, ReleaseError
from mlcicd_assets.ml.values import ReportRef
from mlcicd_assets_tests.io.days import DAY_2, Days, rows_of_day
from mlcicd_assets_tests.io.scene import (
    ASKS,
    Crash,
    crash,
    offline,
    pass_every_gate,
    roll_back,
)
from mlcicd_assets_tests.io.tiny import MODEL


@pytest.fixture
def scene(server: str) -> Days:
    return Days(server)


def test_the_endpoint_goes_to_the_newest_good_release(three: Days) -> None:
    first = three.bundles[1]
    three.recall(DAY_2)
    assert three.served() == 1
    assert three.aliases == [1, 2, 3, 1]
    assert three.ledger.live(MODEL).digest == first.digest
    (entry,) = three.ledger.entries(kinds=("recall",))
    assert entry.body["reason"] == "terminal 7 sent nonsense"
    assert sorted(entry.body["models"].values()) == entry.body["released"] == [2, 3]
    assert three.outcomes() == ["released"] * 3 + ["rolled_back"]
    gone = {three.bundles[2].digest, three.bundles[3].digest}
    assert set(withdrawals(three.ledger, MODEL)) == gone
    (problem,), _ = verify(three.settings, three.ledger)
    assert "MLflow's alias" in problem, "the scene has none; all else agrees"
    entries = three.ledger.entries(model=MODEL)
    assert [in_words(e).split("  ")[2] for e in history(entries)][-3:] == [
        "recall of v2, v3",
        "recall begun v1",
        "rolled back v1",
    ]
    assert live_at(entries, datetime.now(UTC))[1].body["version"] == 1
    assert entry in case_of(entries, 2).said
    assert alarms(entries) == []


def test_where_a_good_one_is_live_it_stays(three: Days) -> None:
    roll_back(three, to=1)
    before = three.ledger.live(MODEL)
    three.recall(DAY_2)
    assert three.ledger.live(MODEL) == before
    assert three.outcomes()[-1] == "rolled_back"
    with pytest.raises(ReleaseError, match="it has: none"):
        roll_back(three)


def test_offline_the_note_beside_the_bundle_refuses(three: Days) -> None:
    """v1 good, v2 and v3 bad, v4 good again: the pointer itself still names v3."""
    three.raw.delete("k >= 200 and k < 300")
    three.release(4)
    three.recall(DAY_2)
    assert three.served() == 4
    with pytest.raises(ReleaseError, match=r"the store has: v1$"):
        offline(three)
    assert offline(three, 1)[0] == 1
    with pytest.raises(ReleaseError, match="name the version"):
        offline(three, 3)


def test_without_a_good_release_the_bad_one_stays_until_a_safe_one_comes(scene: Days) -> None:
    scene.land(2)
    scene.release(1)
    scene.recall(DAY_2)
    assert scene.served() == 1
    entries = scene.ledger.entries(model=MODEL)
    assert [entry.kind for entry in alarms(entries)] == ["recall"]
    scene.land(3)
    with pytest.raises(GateBlocked, match=r"holds, or may hold, rows that .* recalled at entry"):
        scene.deliver(scene.made(2))
    assert scene.served() == 1
    scene.raw.delete("k >= 200 and k < 300")
    made = not_shown_to_be_better(scene, 3)
    assert scene.deliver(made) == "released"
    assert scene.ledger.last_outcome(MODEL).body["reason"] == (
        "what is live was made from recalled rows"
    )
    assert scene.served() == 3
    assert alarms(scene.ledger.entries(model=MODEL)) == []


def not_shown_to_be_better(scene: Days, version: int) -> ReportRef:
    made = scene.made(version)
    verdicts = scene.ledger.entries(kinds=("verdict",))
    (newest,) = [e for e in verdicts if e.body["gate"] == "not_worse_than_champion"][-1:]
    context = {**newest.body["context"], "lower_90": -0.1}
    scene.ledger.append(
        kind="verdict", model=MODEL, body={**newest.body, "context": context}, run_id="r"
    )
    return made


def test_data_that_still_holds_the_rows_is_blocked_until_they_are_deleted(three: Days) -> None:
    three.recall(DAY_2)
    three.land(4)
    with pytest.raises(GateBlocked, match="delete the rows where k >= 200 and k < 300; then run"):
        three.deliver(three.made(4))
    assert three.outcomes()[-1] == "blocked"
    assert three.served() == 1
    three.raw.delete("k >= 200 and k < 300")
    assert three.deliver(three.made(5)) == "released"


def test_no_data_no_release(three: Days) -> None:
    """Whether a version that is gone held the rows, nobody can say."""
    three.recall(Suspect(where="k % 1000 >= 200 and k % 1000 < 300"))
    three.raw.delete("k >= 200 and k < 300")
    three.land(4)
    made = three.made(4)
    three.raw.optimize.compact()
    three.raw.vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(GateBlocked, match="or may hold, rows"):
        three.deliver(made)


def test_rows_of_a_commit_are_known_after_their_files_were_vacuumed(three: Days) -> None:
    """And in a table that was dropped and made anew from the same landing files."""
    three.recall(Suspect(file="day-2.csv"))
    three.raw.optimize.compact()
    three.raw.vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(
        GateBlocked,
        match=r"rows that version 1 of .*/raw added \(with the landing files day-2.csv\); then",
    ):
        three.deliver(three.made(4))
    three.raw.delete("k >= 200 and k < 300")
    assert three.deliver(three.made(5)) == "released"
    rows = pl.concat(rows_of_day(day) for day in (1, 2))
    write_deltalake(three.uri, rows.to_arrow(), mode="overwrite")
    with pytest.raises(GateBlocked, match="recalled"):
        three.deliver(three.made(6))


def test_an_awaiting_candidate_is_void(three: Days) -> None:
    three.land(4)
    made = three.made(4)
    pass_every_gate(three.ledger, made, gates=ASKS)
    assert three.deliver(made, gates=ASKS) == "awaiting"
    told = {"reason": "fine", "days": 1, "how": "command line"}
    interventions.approve(three.settings, three.ledger, MODEL, 4, **told)
    assert [e.body.get("outcome") for e in alarms(three.ledger.entries(model=MODEL))] == [
        "awaiting"
    ]
    three.recall(Suspect(where="k >= 400"))
    assert alarms(three.ledger.entries(model=MODEL)) == []
    with pytest.raises(ReleaseError, match="does not await approval"):
        interventions.approve(three.settings, three.ledger, MODEL, 4, **told)
    with pytest.raises(GateBlocked, match="recalled"):
        three.deliver(made, gates=ASKS)
    three.raw.delete("k >= 400")
    clean = three.made(4, of=three.bundle(4))
    pass_every_gate(three.ledger, clean, gates=ASKS)
    assert three.deliver(clean, gates=ASKS) == "kept"
    assert "this very model was recalled by" in three.ledger.last_outcome(MODEL).body["reason"]
    assert three.served() == 3


# --- crashes, races, rights


@pytest.mark.ci
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (recall, "carry_out_recalls"),
        (recall, "write"),
        (recall, "move_back"),
        (carrier.Carrier, "_point_at"),
        (carrier, "smoke_test"),
        (carrier.Carrier, "_mark"),
    ],
    ids=["entry", "note", "intent", "pointer", "smoke", "alias"],
)
def test_a_recall_that_crashed_is_finished_by_the_next_run(
    owner: object, step: str, three: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crash)
        with pytest.raises(Crash):
            three.recall(DAY_2)
    with pytest.raises(GateBlocked, match="recalled"):
        three.deliver(three.made(4))
    assert three.served() == 1
    assert three.outcomes() == ["released"] * 3 + ["rolled_back", "blocked"]
    with pytest.raises(ReleaseError):
        offline(three, 3)


def test_what_was_decided_meanwhile_is_looked_at_too(
    three: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release of the same rows comes between the search and the entry."""
    honest, others = recall.find, [4]

    def slow(*words: Any) -> Any:
        found = honest(*words)
        if others:
            three.release(others.pop())
        return found

    monkeypatch.setattr(recall, "find", slow)
    three.recall(DAY_2)
    (entry,) = three.ledger.entries(kinds=("recall",))
    assert sorted(entry.body["models"].values()) == [2, 3, 4]
    assert three.served() == 1


def test_only_an_operator_recalls(three: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(three.settings, operators={"ann": "0" * 64})
    with pytest.raises(NotAllowed):
        recall.recall(
            settings, three.ledger, MODEL, DAY_2, reason="bad", mark_champion=lambda *_: None
        )
    assert three.ledger.entries(kinds=("recall",)) == []


def test_a_second_recall_adds_to_the_first(three: Days) -> None:
    three.recall(Suspect(where="k >= 300"))
    assert three.served() == 2
    three.recall(DAY_2)
    assert three.served() == 1
    assert Ledger(three.settings.ledger_url).verify_chain() == []
