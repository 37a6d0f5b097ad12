"""The whole stack from nothing to a release by the sensor; then again, its daemon killed midway.

Run by .ci/docker_test.sh beside an engine: `make prove ROW=stack`.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any, Final

import docker
import pytest

from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.docker.conftest import PIPELINE, REGISTRY, SERVING
from mlcicd_assets_tests.docker.stack import POSTGRES, wait

pytestmark = pytest.mark.prove

STACK: Final = "mlcicd-proof"
FIRST, SECOND = 45, 75  # days: the second model is clearly better
LOOK = """
import json, sys
import polars as pl
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.registry import client
from mlcicd_assets.io.settings import Settings
settings = Settings.from_env()
ledger = Ledger(settings.ledger_url)
raw = pl.read_delta(f"{settings.lake}/card_fraud/raw")["transaction_id"]
landed = pl.scan_parquet(settings.landing / "card_transactions" / "*.parquet")
versions = client(settings).search_model_versions("name='card_fraud'")
print(json.dumps({
    "outcomes": [one.body["outcome"] for one in ledger.entries(kinds=("outcome",))],
    "rows": raw.len(), "different": raw.n_unique(),
    "landed": landed.select(pl.len()).collect().item(),
    "keys": len({one.tags["training_key"] for one in versions}), "versions": len(versions),
    "problems": ledger.verify_chain(),
}))
"""


@pytest.fixture
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


def stack(*words: str) -> str:
    """Call deploy/stack.sh as `make stack` does."""
    images = {"PIPELINE_IMAGE": PIPELINE, "SERVING_IMAGE": SERVING}
    images |= {"POSTGRES_IMAGE": POSTGRES, "REGISTRY_IMAGE": REGISTRY, "STACK": STACK}
    done = subprocess.run(
        [ROOT / "deploy" / "stack.sh", *words],
        env={**os.environ, **images},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def look() -> dict[str, Any]:
    told = stack("compose", "exec", "-T", "code", "python", "-c", LOOK)
    return json.loads(told.splitlines()[-1])


def everything(engine: docker.DockerClient) -> set[str]:
    names = [one.name for one in (*engine.containers.list(all=True), *engine.volumes.list())]
    images = [tag for image in engine.images.list() for tag in image.tags]
    return {*names, *images, *(one.name for one in engine.networks.list())}


def service(engine: docker.DockerClient, name: str) -> Any:
    labels = [f"com.docker.compose.project={STACK}", f"com.docker.compose.service={name}"]
    (found,) = engine.containers.list(all=True, filters={"label": labels})
    return found


def under_way(engine: docker.DockerClient) -> bool:
    return bool(engine.containers.list(filters={"label": "io.mlcicd.container=run"}))


def test_from_nothing_to_a_release_and_again_without_its_daemon(
    engine: docker.DockerClient,
) -> None:
    before, began = everything(engine), time.monotonic()
    try:
        stack("up", str(FIRST))
        first = look()
        print(f"\nfigure stack_first_release_seconds {time.monotonic() - began:.0f} >= 0")
        stack("up", str(FIRST))  # again: there is nothing to do, and nothing to wait for
        assert look() == first
        stack("compose", "exec", "-T", "code", "mlcicd", "simulate", "--days", str(SECOND))
        wait(lambda: under_way(engine), "a run of the sensor", seconds=200)
        time.sleep(5)
        # Not `docker kill`: the engine would leave it so.
        os.kill(service(engine, "daemon").attrs["State"]["Pid"], signal.SIGKILL)
        killed = time.monotonic()
        wait(lambda: len(look()["outcomes"]) > len(first["outcomes"]), "a decision", seconds=500)
        print(f"figure stack_decided_after_kill_seconds {time.monotonic() - killed:.0f} >= 0")
        wait(lambda: not under_way(engine), "the end of the run")
        time.sleep(70)  # two more ticks, which have nothing to do
        found = look()
        assert service(engine, "daemon").attrs["RestartCount"] == 1
    finally:
        stack("down")
    print(found)
    print(f"figure stack_released {found['outcomes'].count('released')} == 2")
    print(f"figure stack_decisions {len(found['outcomes'])} == 2")
    print(f"figure stack_rows_lost {found['landed'] - found['different']} == 0")
    print(f"figure stack_rows_doubled {found['rows'] - found['different']} == 0")
    print(f"figure stack_versions_doubled {found['versions'] - found['keys']} == 0")
    print(f"figure stack_chain_problems {len(found['problems'])} == 0")
    left = everything(engine) - before
    print(f"figure stack_left_behind {len(left)} == 0")
    assert found["outcomes"] == ["released", "released"]
    assert left == set()
