"""One job, three ways to run it: in one process, as a container, and with a container per step.

Then a run container is killed, an engine is gone, and an image cannot be had.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import docker
import polars as pl
import pytest
import sqlalchemy as sa
from dagster import DagsterInstance

from mlcicd_assets.io.ledger_tables import trained
from mlcicd_assets.orchestration.reconcile import PROCESS_TAG, SENSOR_TAG
from mlcicd_assets_tests.docker.conftest import PIPELINE
from mlcicd_assets_tests.docker.stack import JOB, RUN_LABEL, Stack, events, wait
from mlcicd_assets_tests.small_model import DAYS, MODEL, deliver_days

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def stack(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path
) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("stack")
    shutil.copy(mlflow_database, home / "mlflow.db")
    deliver(home, DAYS)
    made = Stack(engine, home)
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def instance(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterInstance]:
    """Dagster's storage, seen from outside."""
    storage = {"storage": {"postgres": {"postgres_url": stack.dagster_url}}}
    folder = str(tmp_path_factory.mktemp("instance"))
    with DagsterInstance.local_temp(folder, overrides=storage) as seen:
        yield seen


def deliver(home: Path, days: int) -> int:
    """Put landing files of so many days there; gives how many transactions they hold."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCICD_HOME", str(home))
        return deliver_days(days).transactions.height


def verdicts(stack: Stack, run_id: str) -> dict[str, dict[str, Any]]:
    """What the gates of a run said, by gate."""
    bodies = [e.body for e in stack.ledger().entries(kinds=("verdict",)) if e.run_id == run_id]
    names = ["subject", "policy", "passed", "observed", "threshold", "sample_size"]
    told = {body["gate"]: {name: body[name] for name in names} for body in bodies}
    told["serving_trial"].pop("observed")  # milliseconds
    return told


def trainings(stack: Stack) -> list[Any]:
    with sa.create_engine(stack.ledger_url, poolclass=sa.NullPool).connect() as connection:
        return list(connection.execute(sa.select(trained.c.training_key, trained.c.digest)))


def test_in_process_as_a_run_and_as_steps_it_is_the_same(
    stack: Stack, instance: DagsterInstance
) -> None:
    began = [time.monotonic()]
    words = ["dagster", "job", "execute", "-m", "mlcicd_assets.definitions", "-j", JOB]
    code = stack.pipeline("in-process", *words).wait(timeout=300)["StatusCode"]
    assert code == 0, stack.said("in-process")
    began.append(time.monotonic())
    stack.start_daemon()
    as_run = stack.launch()
    as_steps = stack.launch(execution={"config": {"docker": {}}})
    for run_id in (as_run, as_steps):
        ended = stack.ended(instance, run_id)
        assert ended.status.value == "SUCCESS", events(instance, run_id)
        began.append(time.monotonic())
    took = [f"{end - start:.0f} s" for start, end in pairwise(began)]
    print("\nin process, as a container, as a container per step:", *took)
    ends = stack.ledger().entries(kinds=("outcome",))
    assert [end.body["outcome"] for end in ends] == ["released", "kept", "kept"]
    assert [end.run_id for end in ends][1:] == [as_run, as_steps]
    assert len({(end.body["version"], end.body["digest"]) for end in ends}) == 1
    assert len(trainings(stack)) == 1
    first, *others = [verdicts(stack, end.run_id) for end in ends]
    assert len(first) > 10
    # The first had no champion to be compared with.
    compared = {gate for gate in first if first[gate] != others[0].get(gate)}
    assert compared <= {"not_worse_than_champion"}
    assert others[0] == others[1]
    # What ran where: one container of the run, or one more for each of its five steps.
    made = stack.containers(label=RUN_LABEL)
    told = Counter(one.labels.get("dagster/run_id", "a step") for one in made)
    assert [told[one] for one in (as_run, as_steps, "a step")] == [1, 1, 5]
    assert {one.attrs["Config"]["Image"] for one in made} == {PIPELINE}
    assert all(one.attrs["HostConfig"]["ReadonlyRootfs"] for one in made)
    noted = [instance.get_run_by_id(run_id).tags.get(PROCESS_TAG) for run_id in (as_run, as_steps)]
    assert [bool(process) for process in noted] == [True, False]


def test_a_killed_run_is_noticed_and_its_retry_loses_and_doubles_nothing(
    stack: Stack, instance: DagsterInstance
) -> None:
    before = stack.outcomes()
    rows = deliver(stack.home, DAYS + 2)
    stack.give_away()
    started = {"tags": {SENSOR_TAG: "new_data"}, "statuses": [dg.DagsterRunStatus.STARTED]}
    run = wait(lambda: find(instance, **started), "the sensor to start a run")
    wait(lambda: "training Hist" in events(instance, run.run_id), "its training")
    (container,) = stack.containers(label=f"dagster/run_id={run.run_id}")
    container.kill("SIGKILL")
    killed = time.monotonic()
    assert stack.ended(instance, run.run_id).status.value == "FAILURE"
    print(f"\nkilled run noticed after {time.monotonic() - killed:.0f} s")
    assert '"ExitCode": 137' in events(instance, run.run_id)
    retries = {"tags": {"dagster/parent_run_id": run.run_id}}
    retry = wait(lambda: find(instance, **retries), "the retry")
    ended = stack.ended(instance, retry.run_id)
    assert ended.status.value == "SUCCESS", events(instance, retry.run_id)
    print(f"decided after {time.monotonic() - killed:.0f} s")
    assert len(stack.outcomes()) == len(before) + 1
    assert len(trainings(stack)) == 2
    assert stack.ledger().verify_chain() == []
    raw = pl.read_delta(str(stack.home / "lake" / MODEL / "raw"))["transaction_id"]
    assert raw.len() == raw.n_unique() == rows
    wait(lambda: not list((stack.home / "running").iterdir()), "no mark of a run left")


def test_what_cannot_be_launched_fails_and_says_why(
    stack: Stack, instance: DagsterInstance
) -> None:
    gone = "127.0.0.1:9/mlcicd-pipeline:gone"
    stack.start_code(gone)
    no_image = stack.launch()
    assert stack.ended(instance, no_image).status.value == "FAILURE"
    assert "127.0.0.1:9" in events(instance, no_image)
    stack.start_code(PIPELINE)
    stack.start_daemon(DOCKER_HOST="tcp://127.0.0.1:9")
    no_engine = stack.launch()
    assert stack.ended(instance, no_engine).status.value == "FAILURE"
    assert "Error while fetching server API version" in events(instance, no_engine)


def test_ended_containers_go_by_label_and_age(stack: Stack) -> None:
    """As the service `prune` of the stack does it."""
    others = len(stack.containers()) - len(stack.containers(label=RUN_LABEL))
    stack.engine.containers.prune(filters={"label": RUN_LABEL, "until": "24h"})
    assert stack.containers(label=RUN_LABEL)
    stack.engine.containers.prune(filters={"label": RUN_LABEL, "until": "0s"})
    assert stack.containers(label=RUN_LABEL) == []
    assert len(stack.containers()) == others


def find(instance: DagsterInstance, **filters: Any) -> dg.DagsterRun | None:
    return next(iter(instance.get_runs(dg.RunsFilter(**filters))), None)
