"""The scene that most tests of this folder play in."""

import pytest

from mlcicd_assets_tests.io.scene import Scene


@pytest.fixture
def scene(server: str) -> Scene:
    return Scene(server)
