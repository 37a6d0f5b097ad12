"""Rebuild: a version made again from its record is bit-equal, or what differs is named."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, write_deltalake

from mlcicd_assets.io import rebuild as rebuild_module
from mlcicd_assets.io.delta import scan
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.provenance import lineage_of
from mlcicd_assets.io.rebuild import Line, is_equal, rebuild
from mlcicd_assets.io.record import read_record, write_record
from mlcicd_assets.io.retention import vacuum
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split
from mlcicd_assets.ml.errors import BundleError, DataError, ReleaseError
from mlcicd_assets.ml.values import ModelVersionRef
from mlcicd_assets_tests.processes import mlcicd
from mlcicd_assets_tests.small_model import MODEL, deliver_days, run_job, small_spec, stored_value


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A home with one trained version that no endpoint ever saw."""
    folder = tmp_path_factory.mktemp("trained") / "home"
    folder.mkdir()
    shutil.copy(mlflow_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLCICD_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        deliver_days()
        for asset in ("raw_data", "validated_features", "trained_model"):
            assert run_job(small_spec(), only=asset).success
    shutil.copytree(folder, folder.with_name("saved"))
    return folder


@pytest.fixture
def made(trained: Path, monkeypatch: pytest.MonkeyPatch) -> ModelVersionRef:
    """That version, in the same place for each test: tables are pinned by their address."""
    shutil.rmtree(trained)
    shutil.copytree(trained.with_name("saved"), trained)
    monkeypatch.setenv("MLCICD_HOME", str(trained))
    return stored_value(MODEL, "trained_model", ModelVersionRef)


def again(version: int | None = 1) -> list[Line]:
    settings = Settings.from_env()
    return rebuild(settings, Ledger(settings.ledger_url), MODEL, version)


def differing(lines: list[Line]) -> list[str]:
    return [what for what, was, now in lines if was != now]


def record_file(made: ModelVersionRef) -> Path:
    return Path(str(Settings.from_env().releases)) / MODEL / f"bundles/{made.digest}.record.json"


def change_record(made: ModelVersionRef, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(record_file(made).read_text())
    change(record)
    record_file(made).write_text(json.dumps(record))


def data_files(uri: str) -> list[Path]:
    return [Path(file.removeprefix("file://")) for file in DeltaTable(uri).file_uris()]


def test_a_version_made_again_is_bit_equal_and_leaves_nothing(made: ModelVersionRef) -> None:
    home = Settings.from_env().home
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    lines = again()
    assert is_equal(lines)
    assert differing(lines) == []
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()} == before
    scored = {what: was for what, was, _ in lines if what.startswith("scores of")}
    assert scored["scores of the golden rows"] == "200 rows, bit-equal"
    assert scored.keys() == {"scores of the golden rows", "scores of the holdout"}


def test_old_versions_of_the_tables_open_for_ever(made: ModelVersionRef) -> None:
    for table in (made.data.features, made.data.raw.events, made.data.raw.labels):
        told = DeltaTable(table.uri).metadata().configuration
        assert told["delta.enableExpiredLogCleanup"] == "false"


def test_no_flipped_bit_in_the_pinned_data_is_silent(made: ModelVersionRef) -> None:
    """Faults row 8: either the file cannot be read, or its content is seen to be another."""
    table, choice, seen = made.data.features, random.Random(8), 0  # noqa: S311
    (file, *_) = data_files(table.uri)
    honest, rows = file.read_bytes(), scan(table).collect()
    for _ in range(30):
        flipped = bytearray(honest)
        flipped[choice.randrange(len(flipped))] ^= 1 << choice.randrange(8)
        file.write_bytes(flipped)
        try:
            _, recorded, now = rebuild_module._content(table)
        except DataError:
            seen += 1
            continue
        seen += recorded != now
        assert recorded != now or scan(table).collect().equals(rows)
    assert seen > 15


def test_other_data_than_recorded_trains_nothing(made: ModelVersionRef) -> None:
    def change(record: dict[str, Any]) -> None:
        record["data"]["features"]["fingerprint"] = "v1:1:2:3"

    change_record(made, change)
    lines = again()
    assert differing(lines) == [f"content of {made.data.features}"]
    assert not is_equal(lines)
    assert not any(what.startswith("scores of") for what, _, _ in lines)


def test_lost_features_are_made_again_from_the_raw_version(made: ModelVersionRef) -> None:
    for file in data_files(made.data.features.uri):
        file.unlink()
    lines = again()
    assert is_equal(lines)
    assert any("gone and made again" in what for what, _, _ in lines)


def test_after_a_vacuum_what_is_live_is_made_again(made: ModelVersionRef) -> None:
    """Faults row 11: every table moved on, and all that nothing needs was removed."""
    settings = Settings.from_env()
    ledger, raw = Ledger(settings.ledger_url), made.data.raw
    more = {"data": raw.versions(), "lineage": lineage_of(made), "run_id": "r"}
    ledger.record_outcome(MODEL, "released", version=1, digest=made.digest, reason="", **more)
    for table in (made.data.features, raw.events, raw.labels):
        everything = scan(table).collect().head(100).to_arrow()
        for _ in range(2):
            write_deltalake(table.uri, everything, mode="overwrite")
    swept = vacuum(settings, ledger, MODEL, hours=0, foreign=False, carry_out=True)
    assert [one.files for one in swept if one.held] == [1, 1, 1]
    lines = again(None)
    assert is_equal(lines)
    assert differing(lines) == []


def test_without_features_and_raw_rows_it_says_what_is_gone(made: ModelVersionRef) -> None:
    for uri in (made.data.features.uri, made.data.raw.events.uri):
        for file in data_files(uri):
            file.unlink()
    with pytest.raises(DataError, match=r"version \d+ of .*/raw cannot be read"):
        again()


def test_another_library_or_key_is_named(
    made: ModelVersionRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(record: dict[str, Any]) -> None:
        record["environment"]["numpy"] = "0.1"
        record["key_parts"]["libraries"]["numpy"] = "0.1"

    change_record(made, change)
    lines = again()
    assert differing(lines) == ["numpy", "key: libraries"]
    assert not is_equal(lines), "another training key is another training"


@pytest.mark.ci
def test_the_command_exits_with_1_unless_it_is_equal(made: ModelVersionRef) -> None:
    done = mlcicd("rebuild", MODEL, "--version", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("bit-equal; what differs: nothing\n")
    change_record(made, lambda record: record["key_parts"].update(libraries="none"))
    done = mlcicd("rebuild", MODEL, "--version", "1")
    assert done.returncode == 1
    assert done.stdout.endswith("NOT equal; what differs: key: libraries\n")


def test_another_prediction_is_named(
    made: ModelVersionRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = rebuild_module.fit

    def weaker(train: Any, spec: Any) -> Any:
        fewer = {**spec.training.parameters, "max_iter": 29}
        training = spec.training.model_copy(update={"parameters": fewer})
        return honest(train, spec.model_copy(update={"training": training}))

    monkeypatch.setattr(rebuild_module, "fit", weaker)
    lines = again()
    assert not is_equal(lines)
    told = [now for what, _, now in lines if what.startswith("scores of")]
    assert len(told) == 2
    assert all(now.startswith("off by up to 0.0") for now in told), told


def test_what_a_search_chose_is_used_and_nothing_is_searched(made: ModelVersionRef) -> None:
    """The spec asks for what it never said: only the choice in the record leads to this model."""

    def change(record: dict[str, Any]) -> None:
        record["spec"]["training"]["parameters"] = {"learning_rate": 0.1}
        record["spec"]["training"]["search"] = {"trials": 2, "parameters": {"max_iter": [1, 2]}}
        record["chosen"] = {"max_iter": 30}

    change_record(made, change)
    lines = again()
    assert [what for what in differing(lines) if not what.startswith("key:")] == []
    assert not is_equal(lines)


def test_a_record_is_never_replaced(made: ModelVersionRef) -> None:
    settings = Settings.from_env()
    before = record_file(made).read_bytes()
    split = load_split(made.data, small_spec())
    write_record(settings, made.digest, small_spec(), made.data, split, "key", {"max_iter": 1})
    assert record_file(made).read_bytes() == before
    record = read_record(settings.releases, MODEL, made.digest)
    assert record is not None
    assert record.training_key == made.training_key
    assert record.data == made.data


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (Path.unlink, BundleError, "has no such version to make again; it has: none"),
        (lambda path: path.write_text("{"), ReleaseError, "is damaged: restore it"),
    ],
    ids=["lost", "damaged"],
)
def test_a_version_without_a_record_is_refused(
    spoil: Callable[[Path], object],
    error: type[Exception],
    words: str,
    made: ModelVersionRef,
) -> None:
    spoil(record_file(made))
    with pytest.raises(error, match=words):
        again()


def test_an_unknown_version_is_refused(made: ModelVersionRef) -> None:
    with pytest.raises(BundleError, match="no such version to make again; it has: v1"):
        again(7)
    with pytest.raises(BundleError, match="no such version"):
        again(None)
