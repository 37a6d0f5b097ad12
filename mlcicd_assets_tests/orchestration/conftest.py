"""Fixtures of the sensor's tests."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlcicd_assets.orchestration import new_data
from mlcicd_assets_tests import small_model
from mlcicd_assets_tests.orchestration.ticker import (
    DELIVERED,
    FOREIGN,
    Ticker,
    decide,
    deliver,
    take_in,
)
from mlcicd_assets_tests.small_model import (
    WORLD,
    deliver_days,
)


@pytest.fixture(scope="session")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Landing files, and the tables of another model made from them, once for all tests."""
    folder = tmp_path_factory.mktemp("delivered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCICD_HOME", str(folder))
        patch.setattr(small_model, "WORLD", replace(WORLD, customers=120))
        deliver_days(20)
        take_in(name="bank")
    DELIVERED[:] = [folder]


@pytest.fixture
def ticker(home: Path, delivered: None, monkeypatch: pytest.MonkeyPatch) -> Ticker:
    made = Ticker()
    monkeypatch.setattr(new_data, "time", made)
    return made


@pytest.fixture
def foreign(ticker: Ticker) -> Ticker:
    """The tables belong to another model, and what is in them has been decided on."""
    deliver("lake/bank")
    ticker.redefine(**FOREIGN)
    assert ticker.starts().tags["mlcicd/why"].count("without an outcome") == 2
    decide(take_in(**FOREIGN))
    ticker.skips("nothing new")
    return ticker
