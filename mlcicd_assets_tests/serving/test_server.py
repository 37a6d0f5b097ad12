"""A real server process: swaps under load, damage, raw sockets, a clean end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.endpoint import model_status, wait_until_live
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.ml.errors import ReleaseError, SettingsError
from mlcicd_assets.serving.server import DRAIN, RESUME, run
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.processes import running_server
from mlcicd_assets_tests.serving.driving import serving

ROW = {"amount": 250.5, "channel": "online", "rate": None}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Bundle]]:
    root = tmp_path_factory.mktemp("store") / "releases"
    made = [tiny.bundle(root, intercept) for intercept in (0.0, 1.0, 2.0)]
    tiny.release(root, made[0].digest, version=1)
    return root, made


@pytest.fixture(scope="module")
def server(bundles: tuple[Path, list[Bundle]]) -> Iterator[running_server]:
    with serving(bundles[0]) as found:
        yield found


class Load:
    """Clients on kept connections that score until told to stop."""

    def __init__(self, url: str, clients: int) -> None:
        self._url, self._stop = url, threading.Event()
        self.failures: list[str] = []
        self.seen: set[tuple[int, float]] = set()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url) as client:
            while not self._stop.is_set():
                try:
                    reply = client.post("/predict", json={"row": ROW})
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if reply.status_code != 200:
                    self.failures.append(reply.text)
                else:
                    self.seen.add((reply.json()["version"], reply.json()["score"]))

    def wait_for(self, version: int) -> None:
        """Return when a client has met the version."""
        deadline = time.monotonic() + 20
        while version not in {seen for seen, _ in self.seen.copy()}:
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.01)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_swaps_under_load_drop_nothing_and_mix_nothing(
    server: running_server, bundles: tuple[Path, list[Bundle]]
) -> None:
    root, made = bundles
    with Load(server.url, clients=4) as load:
        for version in range(2, 12):
            bundle = made[(version + 1) % 2]
            tiny.release(root, bundle.digest, version=version)
            wait_until_live(server.url, tiny.MODEL, bundle.digest, token=None)
            load.wait_for(version)
    assert load.failures == []
    scores = [bundle.golden_scores[1] for bundle in made]
    assert all(score == scores[(version + 1) % 2] for version, score in load.seen)


def test_a_damaged_bundle_is_reported_and_the_old_one_keeps_answering(
    server: running_server, bundles: tuple[Path, list[Bundle]]
) -> None:
    root, made = bundles
    tiny.release(root, made[0].digest, version=20)
    wait_until_live(server.url, tiny.MODEL, made[0].digest, token=None)
    path = bundle_folder(root, tiny.MODEL, made[2].digest) / "model.json"
    path.write_bytes(path.read_bytes() + b" ")
    with Load(server.url, clients=2) as load:
        tiny.release(root, made[2].digest, version=21)
        with pytest.raises(ReleaseError, match="not what its digest says"):
            wait_until_live(server.url, tiny.MODEL, made[2].digest, token=None)
    assert load.failures == []
    status = model_status(server.url, tiny.MODEL, token=None)
    assert status is not None
    assert (status.digest, status.failed_digest) == (made[0].digest, made[2].digest)
    tiny.release(root, made[0].digest, version=22)
    wait_until_live(server.url, tiny.MODEL, made[0].digest, token=None)


RAW = {
    "no http": b"\x00\xff\x16\x03\x01 hello\r\n\r\n",
    "bytes in the path": b"GET /v2/models/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped bytes": b"GET /v2/models/%ff%fe/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "escaped dots": b"GET /v2/models/%2e%2e%2f%2e%2e/ready HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "huge length": b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
    "bad chunk": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"zz\r\n\r\n",
    "websocket": b"GET /predict HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: aaaaaaaaaaaaaaaaaaaaaa==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n",
    "large chunks": b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"40000\r\n%s\r\n" % (b" " * 0x40000) * 5,
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_raw_requests_get_4xx_or_a_closed_connection(server: running_server, raw: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    answer = b""
    with (
        socket.create_connection((host, int(port)), timeout=10) as connection,
        suppress(OSError),  # it may hang up on us in the middle of too large a body
    ):
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").readline()
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert httpx.post(f"{server.url}/predict", json={"row": ROW}).status_code == 200
    log = server.log.read_text()
    assert "Traceback" not in log
    assert "could not be answered" not in log


def test_sigterm_answers_what_is_in_flight_and_exits_with_0(
    bundles: tuple[Path, list[Bundle]],
) -> None:
    n = 5_000
    columns = {"rate": [None] * n, "amount": [5] * n}
    inputs = [
        {"name": name, "datatype": "FP64", "shape": [n], "data": data}
        for name, data in columns.items()
    ]
    inputs.append({"name": "channel", "datatype": "BYTES", "shape": [n], "data": ["chip"] * n})
    replies: list[int] = []
    with serving(bundles[0]) as server:
        body = httpx.Request("POST", "http://x", json={"inputs": inputs}).content
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = "POST /v2/models/card_fraud/infer HTTP/1.1\r\nHost: x\r\nContent-Length: "
            connection.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body[:-1])
            assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
            os.kill(server.process.pid, signal.SIGTERM)
            connection.sendall(body[-1:])
            replies.append(int(connection.makefile("rb").readline().split()[1]))
        server.process.join(20)
        assert server.process.exitcode == 0
        assert "Traceback" not in server.log.read_text()
    assert replies == [200]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104
def test_others_may_reach_it_only_with_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="MLCICD_TOKEN"):
        run(tmp_path, host=host, port=1, token=None)


def test_a_port_in_use_ends_the_process_with_an_error(
    server: running_server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLCICD_ENDPOINTS", server.url)
    monkeypatch.setenv("MLCICD_RELEASES", str(tmp_path))
    command = [sys.executable, "-m", "mlcicd_assets.cli.main", "serve"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "address already in use" in done.stderr


def test_while_it_drains_kept_connections_end_with_their_next_answer(
    bundles: tuple[Path, list[Bundle]],
) -> None:
    with serving(bundles[0]) as server, httpx.Client(base_url=server.url) as client:
        for number, told in ((DRAIN, "close"), (RESUME, None)):
            os.kill(server.process.pid, number)
            deadline = time.monotonic() + 5
            while (reply := client.post("/predict", json={"row": ROW})).headers.get(
                "connection"
            ) != told:
                assert time.monotonic() < deadline
            assert reply.status_code == 200
