"""Short form of the campaign of kills, for .ci/run."""

from pathlib import Path

import pytest

from mlcicd_assets_tests.campaigns.test_kill_campaign import campaign

pytestmark = pytest.mark.ci


def test_what_three_kills_leave_converges(
    server: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [("worker", "trained_model"), ("daemon", "starting"), ("tree", "deployed_endpoint")]
    campaign(home, points, monkeypatch)
