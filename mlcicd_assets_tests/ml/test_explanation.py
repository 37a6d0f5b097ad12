"""Importance finds what a model decides by; flips count what changes, and where."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from mlcicd_assets.ml.explanation import explain, permutation_importance
from mlcicd_assets.ml.scored import Scored
from mlcicd_assets.ml.scoring import Scorer
from mlcicd_assets_tests.ml.scoreds import DAY, HOLDOUT, ROWS, part, scored


def champion_of(candidate: Scored, alerts: np.ndarray, **split: object) -> Scored:
    return replace(candidate, decisions=alerts, split=replace(candidate.split, **split))


def test_importance_is_the_loss_of_auc_and_nothing_for_an_unused_input() -> None:
    model = scored()
    found = permutation_importance(model)
    auc = roc_auc_score(model.labels, model.scores)
    assert found["shop"] == 0
    assert found["x"] == pytest.approx(auc - 0.5, abs=0.05)
    assert permutation_importance(model) == found


def test_importance_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = scored(), list[int]()
    honest = model.scorer.score

    def count(inputs: dict[str, np.ndarray]) -> np.ndarray:
        seen.append(len(inputs["x"]))
        return honest(inputs)

    monkeypatch.setattr(model.scorer, "score", count)
    permutation_importance(model)
    positives = int(model.labels.sum())
    assert seen == [1_000 + min(positives, 400)] * 3
    assert positives < 400 < ROWS - positives


def test_importance_of_one_class_is_undefined() -> None:
    model = scored()
    found = permutation_importance(replace(model, labels=np.zeros_like(model.labels)))
    assert list(found) == ["x", "shop"]
    assert all(np.isnan(value) for value in found.values())


def test_without_a_champion_there_is_nothing_that_flipped() -> None:
    found = explain(scored(), None)
    assert list(found.importance) == ["x", "shop"], "the most important one first"
    assert all(theirs is None for _, theirs in found.importance.values())
    assert (found.flips, found.champion_metrics) == ((), {})


def test_inputs_of_only_one_of_the_models_are_told_apart() -> None:
    model = scored()
    meta = {"format": 1, "kind": "linear", "numbers": ["x"], "categories": [], "intercept": -3.0}
    ones, zeros = np.ones(1), np.zeros(1)
    arrays = {"fill": zeros, "mean": zeros, "scale": ones, "coefficient": ones}
    only = {"columns": (model.columns[0],), "scorer": Scorer(meta, arrays)}
    gone = explain(replace(model, **only), model).importance
    assert (gone["shop"], list(gone)) == ((None, 0.0), ["x", "shop"])
    new = explain(model, replace(model, **only)).importance
    assert new["shop"] == (0.0, None)
    assert new["x"][0] == new["x"][1]


@pytest.mark.parametrize("alert", [True, False])
def test_flips_are_counted_by_direction_and_by_who_is_right(alert: bool) -> None:
    model = scored()
    shop = (model.split.holdout["shop"] == "b").to_numpy()
    was = np.where(shop, not alert, model.decisions)
    now = np.where(shop, alert, model.decisions)
    positive = model.labels == 1
    found = explain(replace(model, decisions=now), champion_of(model, was)).flips
    count, right = int(shop.sum()), int((shop & (positive == alert)).sum())
    flipped = (count, right, 0, 0) if alert else (0, 0, count, right)
    assert found[0] == ("all rows", ROWS, *flipped)
    assert found[1] == ("shop b", count, *flipped)
    assert [one[0] for one in found[2:]].count("shop a") == 0, "no decision changed there"
    assert sum(one[1] for one in found[2:]) == ROWS, "the thirds of the most important number"
    assert {one[0].split(" ")[0] for one in found[2:]} == {"x"}


def test_slices_are_ranked_by_their_share_and_small_ones_are_left_out() -> None:
    holdout = part(ROWS, HOLDOUT)
    shops = np.array(["tiny"] * 29 + ["half"] * 40 + ["whole"] * 30 + ["none"] * (ROWS - 99))
    shops = pl.Series("shop", shops).replace("whole", None)
    model = scored(holdout=holdout.with_columns(shops))
    flips = np.zeros(ROWS, dtype=bool)
    flips[:29] = flips[29:49] = flips[69:99] = True
    found = explain(model, champion_of(model, model.decisions ^ flips)).flips
    assert [one[:2] for one in found[:3]] == [
        ("all rows", ROWS),
        ("shop (null)", 30),
        ("shop half", 40),
    ]
    assert "tiny" not in str(found)


def test_rows_without_the_number_are_a_slice_of_their_own() -> None:
    numbers = pl.when(pl.int_range(pl.len()) < 100).then(None).otherwise("x").alias("x")
    model = scored(holdout=part(ROWS, HOLDOUT).with_columns(numbers))
    flips = np.arange(ROWS) < 100
    found = explain(model, champion_of(model, model.decisions ^ flips)).flips
    assert found[1][:2] == ("x (null)", 100)


def test_what_the_champion_was_trained_on_does_not_count() -> None:
    model = scored()
    half = HOLDOUT + 15 * DAY
    assert model.split.holdout["at"][ROWS // 2] == half
    theirs = model.labels.astype(float)
    theirs[ROWS // 2 :] = 0.5  # it knows by heart what it was trained on, and nothing else
    champion = replace(champion_of(model, theirs > 0.4, train_until=half), scores=theirs)
    found = explain(model, champion)
    assert found.flips[0][1] == found.champion_metrics["rows"] == ROWS / 2
    assert found.champion_metrics["roc_auc"] == 0.5
    late = champion_of(model, model.decisions, train_until=HOLDOUT + timedelta(days=99))
    nothing = explain(model, late)
    assert nothing.flips == (("all rows", 0, 0, 0, 0, 0),)
    assert np.isnan(nothing.importance["x"][1] or 0.0)
