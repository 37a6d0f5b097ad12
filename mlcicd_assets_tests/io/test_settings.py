"""Addresses by model, and the serving image: only by digest."""

import pytest

from mlcicd_assets.io.settings import DEFAULT_ENDPOINT, Settings
from mlcicd_assets.ml.errors import SettingsError

IMAGE = f"127.0.0.1:5000/mlcicd-serving@sha256:{'a' * 64}"


def test_a_model_may_have_addresses_of_its_own() -> None:
    told = "http://a:1, fraud=http://b:2/,fraud=https://c"
    settings = Settings.from_env({"MLCICD_ENDPOINTS": told})
    assert settings.endpoints_of("fraud") == ("http://b:2", "https://c")
    assert settings.endpoints_of("bank") == ("http://a:1",)
    assert Settings.from_env({}).endpoints_of("bank") == (DEFAULT_ENDPOINT,)


def test_a_model_without_an_address_is_named() -> None:
    settings = Settings.from_env({"MLCICD_ENDPOINTS": "fraud=http://b:2"})
    with pytest.raises(SettingsError, match="no server for 'bank': add bank=http"):
        settings.endpoints_of("bank")


@pytest.mark.parametrize("wrong", ["fraud=", "fraud=b:2", " , ", "=x"])
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsError, match="MLCICD_ENDPOINTS"):
        Settings.from_env({"MLCICD_ENDPOINTS": wrong})


def test_the_serving_image_is_named_by_digest() -> None:
    assert Settings.from_env({"MLCICD_SERVING_IMAGE": IMAGE}).serving_image == IMAGE
    for wrong in ("mlcicd-serving:latest", IMAGE[:-1], IMAGE.replace("sha256", "md5")):
        with pytest.raises(SettingsError, match="a tag could be moved"):
            Settings.from_env({"MLCICD_SERVING_IMAGE": wrong})
