"""Serve a bundle on trial: the real server, a clean process, serving dependencies only."""

import http.client
import math
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from mlcicd_assets.io.bundle import GOLDEN_TOLERANCE, Bundle
from mlcicd_assets.io.endpoint import is_alive, score_rows, wait_until_live
from mlcicd_assets.io.releases import Pointer, bundle_folder, swap_pointer
from mlcicd_assets.io.store import Place, listing, place_files, read
from mlcicd_assets.ml.errors import ReleaseError
from mlcicd_assets.ml.policy import ServingGate
from mlcicd_assets.ml.scored import Finding
from mlcicd_assets.ml.scoring import SERVING_LACKS, largest_difference

PATIENCE_SECONDS: Final = 60.0
# It ends when its standard input does, so that it never outlives a run that was killed.
SERVER: Final = f"""
import os, sys, threading
from pathlib import Path
sys.modules.update(dict.fromkeys({SERVING_LACKS!r}))
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from mlcicd_assets.serving.server import run
run(Path(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), token=None)
"""


def try_serving(
    releases: Place, bundle: Bundle, rows: Mapping[str, np.ndarray], rule: ServingGate
) -> Finding:
    """Score golden rows, then single `rows` (in the Scorer's form), and measure; see `ServingGate`.

    Whatever goes wrong is a fault, in the server's own words.
    """
    latencies, memory, faults = np.array([]), math.nan, list[str]()
    with tempfile.TemporaryDirectory(prefix="mlcicd-trial-") as folder:
        log = Path(folder) / "server.log"
        try:
            with _serving(releases, bundle, log) as (url, pid):
                served = score_rows(url, bundle.model, bundle.golden_columns, token=None)
                if not largest_difference(served, bundle.golden_scores) <= GOLDEN_TOLERANCE:
                    faults.append("golden rows score otherwise over HTTP")
                latencies = _latencies(url, bundle, rows, rule)
                memory = _memory_mb(pid)
        # Whatever broke, the trial has failed; the run goes on to its other gates.
        except Exception as error:
            faults.append(f"{type(error).__name__}: {error}")
            if log.is_file():
                faults += log.read_text(errors="replace").splitlines()[-1:]
    wrong = int(np.isnan(latencies).sum())
    p99 = float(np.quantile(latencies, 0.99)) * 1_000 if len(latencies) else math.nan
    if wrong:
        faults.append(f"{wrong} requests failed, or gave another score than the model offline")
    elif not (p99 <= rule.max_p99_ms and memory <= rule.max_memory_mb):
        faults.append("too slow, or too much memory")
    return Finding(
        f"p99 {p99:.1f} ms, {memory:.0f} MB, {wrong} of {len(latencies)} requests wrong",
        f"p99 <= {rule.max_p99_ms:g} ms of {rule.concurrency} callers at once, "
        f"memory <= {rule.max_memory_mb:g} MB, 0 wrong",
        len(latencies),
        faults,
    )


@contextmanager
def _serving(releases: Place, bundle: Bundle, log: Path) -> Generator[tuple[str, int]]:
    """Release the bundle in a store beside the log, serve it on a free port, stop at the end."""
    model, digest, store = bundle.model, bundle.digest, log.parent / "releases"
    source = bundle_folder(releases, model, digest)
    copied = {name: read(source / name) or b"" for name in listing(source)}
    place_files(bundle_folder(store, model, digest), copied)
    swap_pointer(store, Pointer(model, 1, digest, 0, "", None, None), expected_digest=None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-c", SERVER, str(store), str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_SECONDS
    try:
        while not is_alive(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ReleaseError("the server did not start with the serving dependencies only")
            time.sleep(0.02)
        wait_until_live(url, model, digest, token=None)
        yield url, process.pid
    finally:
        process.kill()  # nothing is lost: nobody else knows this server
        process.communicate()


def _memory_mb(pid: int) -> float:
    """Return the highest memory so far; where the system does not keep it, that of now."""
    status = Path(f"/proc/{pid}/status")
    if status.is_file():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    words = ["/bin/ps", "-o", "rss=", "-p", str(pid)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)  # noqa: S603
    return int(answer.stdout) / 1024


def _latencies(
    url: str, bundle: Bundle, rows: Mapping[str, np.ndarray], rule: ServingGate
) -> np.ndarray:
    """Seconds that each of `rule.requests` single rows took; NaN where its answer was wrong."""
    count = len(next(iter(rows.values())))
    chosen = np.linspace(0, count - 1, rule.requests).astype(int)
    few = {name: values[chosen] for name, values in rows.items()}
    expected = bundle.scorer.score(few)
    plain = zip(*(values.tolist() for values in few.values()), strict=True)
    bodies = [msgspec.json.encode({"row": dict(zip(few, row, strict=True))}) for row in plain]

    def call(mine: Sequence[int]) -> list[float]:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.connect()
        taken: list[float] = []
        for n in mine:
            started = time.perf_counter()
            connection.request("POST", "/predict", bodies[n])
            content = connection.getresponse().read()
            seconds = time.perf_counter() - started
            score = msgspec.json.decode(content).get("score", math.nan)
            got = np.array(list(score.values()) if isinstance(score, dict) else score, dtype=float)
            good = largest_difference(got, expected[n]) <= GOLDEN_TOLERANCE
            taken.append(seconds if good else math.nan)
        connection.close()
        return taken

    with ThreadPoolExecutor(rule.concurrency) as callers:
        parts = [range(first, rule.requests, rule.concurrency) for first in range(rule.concurrency)]
        return np.array([second for part in callers.map(call, parts) for second in part])
