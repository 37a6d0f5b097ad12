"""Our endpoint beside its JSON echo, `mlflow models serve` and FastAPI + pandas.

One boosting of 300 trees on 25 columns, one row a request, one worker on core 0, the client on
core 1; the servers not being measured are stopped. Every answer must be 200, and every score (the
echo has none) scikit-learn's to 1e-12. A ratio is the median of the rounds' ratios.

    python benchmarks/serving.py [--seconds 3] [--rounds 3]
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

BIN, MODEL = Path(sys.executable).parent, "served"
COLUMNS = [f"x{place}" for place in range(25)]
ROWS, CONCURRENCY = 64, (1, 16, 64)  # different rows, so that nobody answers from a memory
# What our rate is of theirs; of the echo, which scores nothing, only the figure.
TARGETS = {"echo": 0, "mlflow": 5, "fastapi": 5}
SERVERS = ("ours", *TARGETS)


class Caller(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered, until the end."""

    def __init__(self, requests: list[bytes], row: int, *, counts_from: float, end: float) -> None:
        self.requests, self.row, self.counts_from, self.end = requests, row, counts_from, end
        self.waits: list[float] = []
        self.answers: set[tuple[int, bytes]] = set()
        self.buffer, self.done = b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.row, self.asked = (self.row + 1) % ROWS, time.perf_counter()
        self.transport.write(self.requests[self.row])

    def data_received(self, data: bytes) -> None:
        self.buffer, now = self.buffer + data, time.perf_counter()
        head, whole, body = self.buffer.partition(b"\r\n\r\n")
        if not whole or len(body) < int(head.partition(b"content-length: ")[2].split(b"\r")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            return self.transport.close()  # not done: connection_lost tells what came
        self.buffer = b""
        self.answers.add((self.row, body))
        if self.counts_from <= now < self.end:
            self.waits.append(now - self.asked)
        if now < self.end:
            return self._ask()
        self.done.set_result(None)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError(f"no 200: {self.buffer[:300]!r}"))


async def press(port: int, requests: list[bytes], callers: int, seconds: float) -> list[Caller]:
    """Keep so many connections busy for a second of warm-up and the seconds that count."""
    loop, start = asyncio.get_running_loop(), time.perf_counter() + 1
    span = {"counts_from": start, "end": start + seconds}
    made = [Caller(requests, place * ROWS // callers, **span) for place in range(callers)]
    for caller in made:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", port)
    await asyncio.wait_for(asyncio.gather(*(caller.done for caller in made)), seconds + 60)
    return made


def prepare(folder: Path) -> tuple[list[dict[str, float]], list[float]]:
    """Fit the model and write its three forms; return rows to ask for, and their scores."""
    import joblib
    import mlflow
    import numpy as np
    import polars as pl

    from mlcicd_assets.io import bundle, registry, releases
    from mlcicd_assets.ml import estimator, export, schema, spec

    rng = np.random.default_rng(5)
    x = rng.normal(size=(20_000, len(COLUMNS)))
    chance = 1 / (1 + np.exp(2 - x[:, 0] * x[:, 1] - np.sin(3 * x[:, 2]) - x[:, 3:].mean(axis=1)))
    frame = pl.DataFrame(x, schema=COLUMNS)
    columns = tuple(schema.FeatureColumn(name, "number") for name in COLUMNS)
    kind, parameters = "HistGradientBoostingClassifier", {"max_iter": 300, "early_stopping": False}
    training = spec.Training(estimator=kind, parameters=parameters)
    pipeline = estimator.make_pipeline(training, columns)
    pipeline.fit(estimator.model_frame(frame, columns), (rng.random(len(x)) < chance).astype(int))
    asked, store = frame.head(ROWS), folder / "releases"
    more: dict[str, Any] = {"model": MODEL, "threshold": 0.5, "definitions": {}, "train_until": ""}
    more |= {"exported": export.export_model(pipeline, columns), "columns": columns}
    golden = estimator.column_arrays(asked, columns)
    digest = bundle.write_bundle(store, golden=golden, **more).digest
    live = releases.Pointer(MODEL, 1, digest, 0, "", None, None)
    releases.swap_pointer(store, live, expected_digest=None)
    joblib.dump(pipeline, folder / "pipeline.joblib")
    more = {"serialization_format": "skops", "skops_trusted_types": list(registry.TRUSTED_TYPES)}
    more |= {"pip_requirements": ["scikit-learn"], "pyfunc_predict_fn": "predict_proba"}
    mlflow.sklearn.save_model(pipeline, folder / "mlflow", **more)
    scores = pipeline.predict_proba(estimator.model_frame(asked, columns))[:, 1]
    return asked.to_dicts(), scores.tolist()


async def echo(_: Any, receive: Any, send: Any) -> None:
    """Read and answer the same JSON as our endpoint, and do nothing between."""
    import msgspec

    from mlcicd_assets.serving.protocol import PredictRequest

    row = msgspec.json.decode((await receive())["body"], type=PredictRequest).row
    answer = {"model": MODEL, "version": 1, "score": row["x0"], "decision": False, "threshold": 0.5}
    body = msgspec.json.encode(answer)
    headers = (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fastapi() -> Any:
    """What a tutorial shows: a pydantic model, a data frame, predict_proba."""
    import joblib
    import pandas as pd
    from fastapi import FastAPI
    from pydantic import create_model

    pipeline, app = joblib.load(Path(os.environ["MLCICD_HOME"]) / "pipeline.joblib"), FastAPI()
    row_type: Any = create_model("Row", **dict.fromkeys(COLUMNS, (float, ...)))

    # Not `def`: a thread for each request would only cost, on one core.
    async def predict(row: row_type) -> dict[str, float]:
        return {"score": pipeline.predict_proba(pd.DataFrame([row.model_dump()]))[0, 1]}

    app.post("/predict")(predict)
    return app


def command(name: str, folder: Path, port: int) -> list[str]:
    """Return how a server is started on core 0: the peers in the shape of serving/server.py."""
    how = [str(BIN / "uvicorn"), "--app-dir", str(Path(__file__).parent), f"serving:{name}"]
    how += "--http httptools --loop uvloop --ws none --lifespan off --no-access-log".split()
    how += ["--no-server-header", *(["--factory"] if name == "fastapi" else [])]
    if name == "ours":
        how = [str(BIN / "mlcicd"), "serve"]
    elif name == "mlflow":
        how = [str(BIN / name), "models", "serve", "-m", str(folder / name)]
        how += ["--env-manager", "local", "--workers", "1"]
    return ["taskset", "-c", "0", *how, "--host", "127.0.0.1", "--port", str(port)]


def request(name: str, row: dict[str, float]) -> bytes:
    """Return the bytes that ask for the score of one row."""
    path, content = "predict", row if name == "fastapi" else {"row": row}
    if name == "mlflow":
        path = "invocations"
        content = {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}
    body = json.dumps(content)
    head = f"POST /{path} HTTP/1.1\nhost: a\ncontent-type: application/json\ncontent-length: "
    return f"{head}{len(body)}\n\n{body}".replace("\n", "\r\n").encode()


@contextmanager
def server(name: str, folder: Path) -> Generator[tuple[int, int]]:
    """Start a server and stop it once it listens; yields its port and process group."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {key: value for key, value in os.environ.items() if not key.startswith("MLCICD_")}
    env |= {"MLCICD_HOME": str(folder), "PATH": f"{BIN}:{env['PATH']}"}  # mlflow calls uvicorn
    words, late = command(name, folder, port), time.monotonic() + 90
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, process_group=0)
    try:
        while process.poll() is None and time.monotonic() < late:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        else:
            sys.exit(f"{name} does not listen, see above")
        os.killpg(process.pid, signal.SIGSTOP)
        yield port, process.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def others() -> float:
    """Return the share of the machine that was busy for a second (our servers are stopped)."""
    idle: list[float] = []
    for pause in (1, 0):
        idle.append(float(Path("/proc/uptime").read_text().split()[1]))
        time.sleep(pause)
    return max(0.0, 1 - (idle[1] - idle[0]) / (os.cpu_count() or 1))


def check(name: str, callers: list[Caller], scores: list[float]) -> list[float]:
    """Return the waits in ms, sorted, if every answer scores as scikit-learn does."""
    for row, body in set().union(*(one.answers for one in callers)) if name != "echo" else ():
        answer = json.loads(body)
        score = answer["predictions"][0][1] if name == "mlflow" else answer["score"]
        if not abs(score - scores[row]) <= 1e-12:
            sys.exit(f"{name}: row {row} scores {score} instead of {scores[row]}")
    return sorted(wait * 1000 for one in callers for wait in one.waits)


def report(cells: dict[tuple[int, str], list[list[float]]], seconds: float) -> None:
    """Print the table, then a line for each ratio and its target."""
    print(f"{'at once':>7}  {'server':<8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'ours is':>9}")
    figures: list[str] = []
    for (callers, name), rounds in cells.items():
        rate = median(len(waits) for waits in rounds) / seconds
        p50, p99 = (median(w[int(share * len(w))] for w in rounds) for share in (0.5, 0.99))
        ratio = median(len(a) / len(b) for a, b in zip(cells[callers, "ours"], rounds, strict=True))
        print(f"{callers:>7}  {name:<8}{rate:>9.0f}{p50:>9.2f}{p99:>9.2f}{ratio:>9.2f}")
        if name in TARGETS:
            figures.append(f"figure serving_c{callers}_vs_{name} {ratio:.2f} >= {TARGETS[name]}")
    print("\n".join(figures))


def main() -> None:
    """Measure in turns, print one table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if shutil.which("taskset") is None or not {0, 1} <= os.sched_getaffinity(0):
        return print("skipped: it needs taskset (util-linux) and the cores 0 and 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    os.environ["OMP_NUM_THREADS"] = "1"
    cells: dict[tuple[int, str], list[list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="mlcicd-serving-") as place, ExitStack() as stack:
        rows, scores = prepare(Path(place))
        up = {name: stack.enter_context(server(name, Path(place))) for name in SERVERS}
        os.sched_setaffinity(0, {1})
        for _ in range(asked.rounds):
            print(f"others use {others():.0%} of the machine: beyond 10 % the rates are too low")
            for callers, name in itertools.product(CONCURRENCY, SERVERS):
                (port, group), requests = up[name], [request(name, row) for row in rows]
                os.killpg(group, signal.SIGCONT)
                made = uvloop.run(press(port, requests, callers, asked.seconds))
                os.killpg(group, signal.SIGSTOP)
                cells.setdefault((callers, name), []).append(check(name, made, scores))
    report(cells, asked.seconds)


if __name__ == "__main__":
    main()
