"""Retention: a vacuum leaves what live, rollback and newest versions need, and nothing else."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io.delta import Batch, append_files, pin, scan
from mlcicd_assets.io.retention import Swept, held, missing_files, vacuum
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.values import TableVersion
from mlcicd_assets_tests.io.days import DAY_ROWS, Days, rows_of_day
from mlcicd_assets_tests.io.scene import ASKS, pass_every_gate, roll_back
from mlcicd_assets_tests.io.tiny import MODEL


@pytest.fixture
def scene(server: str) -> Days:
    """Four releases, each made from a raw table that was written as a whole."""
    scene = Days(server)
    for version in (1, 2, 3, 4):
        overwrite(scene, version)
        scene.release(version)
    overwrite(scene, 5)
    return scene


def overwrite(scene: Days, day: int) -> None:
    write_deltalake(scene.uri, rows_of_day(day).to_arrow(), mode="overwrite")


def sweep(scene: Days, *, carry_out: bool = True, foreign: bool = False) -> dict[str, Swept]:
    done = vacuum(scene.settings, scene.ledger, None, hours=0, foreign=foreign, carry_out=carry_out)
    return {one.uri: one for one in done}


def readable(scene: Days) -> set[int]:
    """The model versions whose pinned rows can still be read, and are the right ones."""
    found: set[int] = set()
    for version, at in scene.pins.items():
        table = replace(pin(scene.uri), version=at)
        try:
            keys = scan(table).collect()["k"].to_list()
        except (FileNotFoundError, pl.exceptions.PolarsError):
            continue
        assert keys == rows_of_day(version)["k"].to_list()
        found.add(version)
    return found


def test_live_and_rollback_target_stay_readable(scene: Days) -> None:
    told = sweep(scene)[scene.uri]
    assert told.files == 2
    assert told.held == (
        "v2: raw of v3, rollback target",
        "v3: raw of v4, live",
    )
    assert readable(scene) == {3, 4}
    assert [*missing_files(replace(pin(scene.uri), version=3))] == []
    assert len([*missing_files(replace(pin(scene.uri), version=0))]) == 1


def test_a_dry_run_names_what_would_go_and_removes_nothing(scene: Days) -> None:
    dry = sweep(scene, carry_out=False)
    assert readable(scene) == {1, 2, 3, 4}
    files = list(Path(scene.uri).glob("*.parquet"))
    sizes = sum(path.stat().st_size for path in files)
    assert sweep(scene) == dry
    left = [path for path in files if path.exists()]
    assert dry[scene.uri].files == len(files) - len(left) == 2
    gone = sizes - sum(path.stat().st_size for path in left)
    assert dry[scene.uri].megabytes == pytest.approx(gone / 1e6)


def test_the_rollback_target_follows_a_rollback(scene: Days) -> None:
    roll_back(scene)
    sweep(scene)
    assert readable(scene) == {2, 3}


def test_what_awaits_approval_is_held(scene: Days) -> None:
    made = scene.made(5)
    pass_every_gate(scene.ledger, made, gates=ASKS)
    assert scene.deliver(made, gates=ASKS) == "awaiting"
    overwrite(scene, 6)
    sweep(scene)
    assert readable(scene) == {3, 4, 5}


def test_the_features_are_held_too(scene: Days) -> None:
    uri = f"{scene.settings.lake}/{MODEL}/features"
    tables = {table.uri for table, _ in held(scene.settings, scene.ledger, MODEL)}
    assert tables == {uri, scene.uri}
    shared = Path(f"{scene.settings.lake}/features")
    shared.mkdir()
    (shared / "0a1b.state").write_text("what a feature table keeps beside itself")
    assert sweep(scene)[uri].held[-1] == "v3: features of v4, live"


def test_tables_of_others_are_left_alone_unless_asked(scene: Days) -> None:
    """A model whose source is a table of another team, in the same lake."""
    foreign = f"{scene.settings.lake}/payments/cards"
    for version in (1, 2):
        write_deltalake(foreign, rows_of_day(version).to_arrow(), mode="overwrite")
    made = scene.made(5)
    data = made.candidate.data
    raw = replace(data.raw, events=pin(foreign))
    candidate = replace(made.candidate, data=replace(data, raw=raw))
    pass_every_gate(scene.ledger, replace(made, candidate=candidate))
    assert scene.deliver(replace(made, candidate=candidate)) == "released"
    write_deltalake(foreign, rows_of_day(3).to_arrow(), mode="overwrite")
    assert sweep(scene)[foreign].note == "left alone: not ours: add --foreign"
    assert len(list(Path(foreign).glob("*.parquet"))) == 3
    told = sweep(scene, foreign=True)[foreign]
    assert (told.files, told.held) == (1, ("v1: raw of v5, live",))
    assert scan(raw.events).collect().height == 5


def test_a_table_of_features_that_nothing_needs_is_named(scene: Days) -> None:
    uri = f"{scene.settings.lake}/features/0123"
    rows_of_day(1).write_delta(uri)
    (told,) = [one for one in sweep(scene).values() if one.note]
    assert told.uri == uri
    assert "its folder may be removed" in told.note


def test_a_table_that_was_made_anew_holds_no_version_of_the_old_one(scene: Days) -> None:
    shutil.rmtree(scene.uri)
    for day in range(1, 7):
        overwrite(scene, day)
    told = sweep(scene)[scene.uri]
    assert (told.files, told.held) == (5, ())
    old = TableVersion(scene.uri, "another id", 1, "", 0)
    with pytest.raises(DataError, match="was dropped and made anew"):
        list(missing_files(old))


def test_a_table_whose_held_version_cannot_be_opened_is_left_alone(scene: Days) -> None:
    log = Path(scene.uri) / "_delta_log"
    table = DeltaTable(scene.uri)
    table.create_checkpoint()
    for version in range(4):
        (log / f"{version:020d}.json").unlink()
    told = sweep(scene)[scene.uri]
    assert told.note.startswith("left alone: ")
    assert len(list(Path(scene.uri).glob("*.parquet"))) == 5


def test_young_files_that_no_commit_names_are_those_of_a_run(scene: Days) -> None:
    young = Path(scene.uri) / "part-00000-young.parquet"
    rows_of_day(9).write_parquet(young)
    for hours in (0, 24):
        vacuum(scene.settings, scene.ledger, MODEL, hours=hours, foreign=False, carry_out=True)
    assert young.exists()


def test_the_log_of_our_tables_is_kept_so_that_old_versions_open(tmp_path: Path) -> None:
    """Delta drops commits after 30 days, and a version cannot be opened without them."""
    uri = str(tmp_path / "raw")
    for day in range(12):
        rows = rows_of_day(day).drop("note").to_arrow()
        append_files(uri, [Batch(f"digest-{day}", f"day-{day}", rows)], metadata={})
        if day == 0:
            often = {"delta.checkpointInterval": "3"}
            DeltaTable(uri).alter.set_table_properties(often)
        for file in (tmp_path / "raw" / "_delta_log").iterdir():
            os.utime(file, (0, 0))
    assert scan(pin(uri, version=1)).collect().height == DAY_ROWS
