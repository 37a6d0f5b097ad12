"""Faults of the lake: kills, crowds, full and read-only disks, lost files, clocks (faults.md)."""

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mlcicd_assets.io import ingest as module
from mlcicd_assets.io.delta import append_files, pin, scan
from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.registry import client
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.values import FeatureSet
from mlcicd_assets_tests.faults.child import AS_ANYBODY, run, start
from mlcicd_assets_tests.io.foreign import OLD, ROWS, add, commit, fields, table_metadata
from mlcicd_assets_tests.io.test_delta import make_batch
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    ledger,
    run_job,
    small_spec,
    stored_value,
)

KILLS, WRITERS, EACH = 12, 8, 4
FEW_BYTES = 100_000
CLEAN = multiprocessing.get_context("forkserver")
CLEAN.set_forkserver_preload([__name__])


def raw_ids(home: Path) -> pl.Series:
    return pl.read_delta(str(home / "lake" / MODEL / "raw"))["transaction_id"]


def fill(uri: str, numbers: list[int]) -> None:
    """Land files one after the other, and say which were acknowledged."""
    for number in numbers:
        append_files(uri, [make_batch(number)], metadata={})
        print(number, flush=True)  # noqa: T201


def _fill_until_killed(uri: str, numbers: list[int], said: Path) -> None:
    sys.stdout = said.open("w")
    fill(uri, numbers)


@pytest.mark.ci
def test_a_kill_in_the_middle_of_appends_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Rows 1 and 2: what was acknowledged is there, what is repeated lands once."""
    uri, dice, landed = str(tmp_path / "table"), np.random.default_rng(5), 0
    for kill in range(KILLS):
        numbers, said = list(range(kill * 50, kill * 50 + 50)), tmp_path / f"said{kill}"
        child = CLEAN.Process(target=_fill_until_killed, args=(uri, numbers, said))
        child.start()
        while not said.exists():
            time.sleep(0.005)
        time.sleep(dice.uniform(0.05, 0.5))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        acknowledged = {int(line) for line in said.read_text().split()}
        assert acknowledged <= {row // 10 for row in pl.read_delta(uri)["id"]}
        landed += len(acknowledged)
        fill(uri, numbers[: len(acknowledged) + 2])
        counts = Counter(pl.read_delta(uri)["id"])
        assert {*counts.values()} == {1}
        assert {row // 10 for row in counts} >= {*numbers[: len(acknowledged) + 2]}
    assert 0 < landed < KILLS * 50, "the kills came too early or too late to show anything"


def test_a_crash_between_the_commit_and_its_note_doubles_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 2."""
    landed = deliver_days(3).transactions.height
    settings, spec = Settings.from_env(), small_spec()
    with monkeypatch.context() as patch:
        patch.setattr(module.Ledger, "remember_files", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(settings, ledger(), spec, run_id="killed")
    assert raw_ids(home).len() == landed
    again = ingest(settings, ledger(), spec, run_id="next")
    assert not [name for name in again.taken if name.startswith("transactions")]
    assert raw_ids(home).len() == raw_ids(home).n_unique() == landed


def _append_own_and_shared(uri: str, own: int, start: Any) -> None:
    start.wait()
    for step in range(EACH):
        batches = [make_batch(1_000 * own + step), make_batch(step)]
        append_files(uri, batches, metadata={})


def test_eight_writers_at_once_land_every_file_once(tmp_path: Path) -> None:
    """Rows 5 and 6: their own files, and files that all of them have."""
    uri, start = str(tmp_path / "table"), CLEAN.Barrier(WRITERS)
    writers = [
        CLEAN.Process(target=_append_own_and_shared, args=(uri, own, start))
        for own in range(1, WRITERS + 1)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    numbers = [1_000 * own + step for own in range(WRITERS + 1) for step in range(EACH)]
    assert sorted(pl.read_delta(uri)["id"]) == sorted(
        10 * n + row for n in numbers for row in (0, 1)
    )


def set_writable(folder: Path, *, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o755 if path.is_dir() else 0o644) if writable else 0o555)


@pytest.mark.ci
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_is_full_or_read_only_is_a_clear_failure_and_does_no_damage(
    home: Path, fault: str
) -> None:
    """Row 10: no file may grow beyond some bytes, or none be written."""
    landed = deliver_days().transactions.height
    lake, is_full = home / "lake", fault == "full"
    lake.mkdir()
    for asset in ("raw_data", "validated_features"):
        set_writable(lake, writable=is_full)
        code, said = run(asset, fsize=FEW_BYTES) if is_full else run(asset, *AS_ANYBODY)
        set_writable(lake, writable=True)
        assert code == 1, said
        # Where files are small, the first that is too large is the ledger's.
        what = ("cannot be written", "may be written") if is_full else ("cannot be written",)
        assert any(words in said for words in what), said
        assert run_job(small_spec(), only=asset).success
    assert raw_ids(home).len() == raw_ids(home).n_unique() == landed
    features = scan(stored_value(MODEL, "validated_features", FeatureSet).features).collect()
    assert features.height == features["transaction_id"].n_unique() == landed


@pytest.mark.ci
def test_a_full_disk_while_training_registers_nothing_and_the_next_run_does(home: Path) -> None:
    """Rows 10 and 25."""
    deliver_days()
    assert all(run_job(small_spec(), only=a).success for a in ("raw_data", "validated_features"))
    code, said = run("trained_model", fsize=FEW_BYTES)
    assert code == 1, said
    assert run_job(small_spec(), only="trained_model").success
    assert len(client(Settings.from_env()).search_model_versions(f"name='{MODEL}'")) == 1


@pytest.mark.ci
def test_a_kill_while_mlflow_makes_its_database_leaves_nothing_half_made(home: Path) -> None:
    """Row 25: MLflow itself cannot go on with a database that was cut off in making."""
    deliver_days()
    assert all(run_job(small_spec(), only=a).success for a in ("raw_data", "validated_features"))
    (home / "mlflow.db").unlink()
    child = start("trained_model")
    while not list(home.glob("mlflow.db*")):
        time.sleep(0.01)
    time.sleep(0.3)
    child.kill()
    child.communicate()
    assert not (home / "mlflow.db").exists(), "the kill came too late to show anything"
    code, said = run("trained_model")
    assert code == 0, said


@pytest.mark.parametrize(("damage", "word"), [("cut", "damaged"), ("gone", "vacuumed")])
def test_a_lost_or_cut_off_data_file_fails_once_and_is_named(
    home: Path, damage: str, word: str
) -> None:
    """Row 9."""
    deliver_days(3)
    assert run_job(small_spec(), only="raw_data").success
    raw = home / "lake" / MODEL / "raw"
    (file,) = raw.glob("*.parquet")
    file.write_bytes(file.read_bytes()[:-30]) if damage == "cut" else file.unlink()
    failed = run_job(small_spec(), only="validated_features")
    assert not failed.success
    (event,) = [event for event in failed.all_events if event.is_step_failure]
    error = str(event.event_specific_data.error)
    assert "DataError" in error
    assert str(raw) in error
    assert word in error
    assert not any(event.is_step_up_for_retry for event in failed.all_events)


def test_a_version_is_chosen_by_its_number_whatever_the_clocks_say(tmp_path: Path) -> None:
    """Row 12."""
    told = table_metadata(fields(ROWS.schema))
    for version, day in enumerate((3, -3, 0)):
        info = {"commitInfo": {"timestamp": 1_700_000_000_000 + day * 86_400_000}}
        file = add(tmp_path, f"{version}.parquet", ROWS.slice(version, 1))
        commit(tmp_path, version, info, *([OLD, told] if version == 0 else []), file)
    pinned = [pin(str(tmp_path)), *(pin(str(tmp_path), version=v) for v in range(3))]
    assert [(one.version, one.rows) for one in pinned] == [(2, 3), (0, 1), (1, 2), (2, 3)]
    assert pa.table(scan(pinned[0]).collect().to_arrow()).num_rows == 3
