"""How often do all default gates together block an honest retrain? Day after day, four worlds.

The model is small and has few positives, so some retrains are really worse than what is live.
"""

from dataclasses import replace

import pytest

from mlcicd_assets_tests import small_model
from mlcicd_assets_tests.small_model import deliver_days, ledger, outcomes, run_job, small_spec

pytestmark = pytest.mark.prove
SEEDS, FIRST_DAY, LAST_DAY = (11, 12, 13, 14), 36, 60


@pytest.mark.parametrize("seed", SEEDS)
def test_honest_retrains_day_after_day(
    seed: int, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_model, "WORLD", replace(small_model.WORLD, seed=seed))
    spec = small_spec(gates__floors={"roc_auc": 0.5})
    for day in range(FIRST_DAY, LAST_DAY + 1):
        deliver_days(day)
        run_job(spec)
    ended = outcomes()
    assert len(ended) == LAST_DAY - FIRST_DAY + 1
    for entry in ledger().entries(kinds=("outcome",)):
        if entry.body["outcome"] == "blocked":
            print(f"blocked: {entry.body['reason']}")
    print(f"world {seed}: {[(word, ended.count(word)) for word in sorted(set(ended))]}")
    print(f"figure false_blocks_of_{len(ended)}_runs_in_world_{seed} {ended.count('blocked')} <= 1")
