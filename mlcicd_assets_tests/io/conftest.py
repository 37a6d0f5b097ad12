"""The scene that most tests of this folder play in."""

from pathlib import Path

import pytest

from mlcicd_assets_tests.io.days import Days, three_days
from mlcicd_assets_tests.io.scene import Scene


@pytest.fixture
def scene(home: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """With the releases in a folder, or on object storage where a test asks for both."""
    if getattr(request, "param", "folder") != "folder":
        monkeypatch.setenv("MLCICD_RELEASES", request.getfixturevalue("s3"))
    return Scene(request.getfixturevalue("server"))


@pytest.fixture
def three(server: str) -> Days:
    """Three releases, each of one day more."""
    return three_days(server)
