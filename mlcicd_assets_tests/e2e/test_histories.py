"""Short forms of the campaigns of random histories, for .ci/run."""

import shutil
from pathlib import Path

import pytest

from mlcicd_assets_tests.campaigns.test_history_campaign import judge, live_through

pytestmark = pytest.mark.ci


@pytest.mark.parametrize("seed", range(1_000, 1_005))
def test_a_history_trains_exactly_its_distinct_frames(
    seed: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = live_through(home, seed, monkeypatch, commits=40)
    assert judge(works) == (0, 0, 0)
    ours = len(works.trained)
    print(f"\n{dict(works.plant.done)}\nruns {dict(works.runs)}, trainings {ours}")
    print(f"a naive sensor's {works.naive}")
    assert 0 < ours < works.naive
    shutil.rmtree(home / "lake")
