"""The client against a real server process, and against what is not one."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlcicd_assets.io.endpoint import (
    is_alive,
    model_status,
    predict_row,
    score_rows,
    wait_until_live,
)
from mlcicd_assets.io.releases import pointer_path
from mlcicd_assets.ml.errors import EndpointUnreachable, ReleaseError
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.processes import free_port
from mlcicd_assets_tests.serving.driving import serving

TOKEN = "a secret"  # noqa: S105


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "releases"


@pytest.fixture(scope="module")
def url(releases: Path) -> Iterator[str]:
    with serving(releases, token=TOKEN) as server:
        yield server.url


def test_from_no_model_to_a_live_one(url: str, releases: Path) -> None:
    assert is_alive(url)
    assert model_status(url, tiny.MODEL, token=TOKEN) is None
    bundle = tiny.bundle(releases)
    with pytest.raises(ReleaseError, match="not live"):
        score_rows(url, tiny.MODEL, tiny.ROWS, token=TOKEN)
    with pytest.raises(ReleaseError, match="MLCICD_RELEASES"):
        wait_until_live(url, tiny.MODEL, bundle.digest, token=TOKEN, timeout_s=0.3)
    tiny.release(releases, bundle.digest, version=4)
    status = wait_until_live(url, tiny.MODEL, bundle.digest, token=TOKEN)
    assert (status.version, status.digest, status.load_error) == (4, bundle.digest, None)
    assert status == model_status(url, tiny.MODEL, token=TOKEN)

    many = {name: np.resize(values, 1_201) for name, values in tiny.ROWS.items()}
    scores = score_rows(url, tiny.MODEL, many, token=TOKEN)
    np.testing.assert_array_equal(scores, bundle.scorer.score(many))
    row = {"amount": 1.0, "channel": "chip", "rate": float("nan")}
    assert predict_row(url, tiny.MODEL, row, token=TOKEN)["version"] == 4

    with pytest.raises(ReleaseError, match="'amount': must be at most"):
        score_rows(url, tiny.MODEL, {**tiny.ROWS, "amount": np.full(3, 9e9)}, token=TOKEN)
    with pytest.raises(ReleaseError, match="missing column"):
        predict_row(url, tiny.MODEL, {"amount": 1.0}, token=TOKEN)
    for token in (None, "wrong"):
        with pytest.raises(ReleaseError, match="MLCICD_TOKEN"):
            model_status(url, tiny.MODEL, token=token)


def test_a_first_release_that_cannot_be_loaded_says_why(url: str, releases: Path) -> None:
    pointer_path(releases, tiny.MODEL).unlink(missing_ok=True)
    tiny.release(releases, "0" * 64)
    with pytest.raises(ReleaseError, match="there is no bundle"):
        wait_until_live(url, tiny.MODEL, "0" * 64, token=TOKEN)


def test_nobody_there_says_how_to_start_one() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert not is_alive(url)
    with pytest.raises(EndpointUnreachable, match="mlcicd serve"):
        model_status(url, tiny.MODEL, token=None)


class Stranger(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"name": "m", "versions": [], "outputs": [{"data": [0.5]}]}')

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        return


def test_another_kind_of_server_is_not_mistaken_for_ours() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever).start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        assert not is_alive(url)
        with pytest.raises(ReleaseError, match="not a server of ours"):
            model_status(url, "m", token=None)
        with pytest.raises(ReleaseError, match="one score a row"):
            score_rows(url, "m", tiny.ROWS, token=None)
        stranger.shutdown()
