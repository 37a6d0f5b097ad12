"""Recall: what was made from bad rows is found by every way to name them."""

import shutil
from dataclasses import replace
from datetime import timedelta

import msgspec
import polars as pl
import pytest
from deltalake import write_deltalake

from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.ledger_tables import TrainedRecord
from mlcicd_assets.io.recall import Suspect, find
from mlcicd_assets.io.record import Record, _path
from mlcicd_assets.io.store import change
from mlcicd_assets.ml.errors import DataError, ReleaseError
from mlcicd_assets_tests.io.days import DAY_2, DAY_ROWS, START, Days, rows_of_day
from mlcicd_assets_tests.io.tiny import MODEL


@pytest.fixture
def scene(server: str) -> Days:
    return Days(server)


WAYS = {
    "version": lambda commit, day: Suspect(version=commit),
    "file": lambda commit, day: Suspect(file=f"day-{day}.csv"),
    "where": lambda commit, day: Suspect(where=f"k between {100 * day} and {100 * day + 99}"),
    "time": lambda commit, day: Suspect(
        where=f"at::date = '{(START + timedelta(days=day)).date()}'"
    ),
}


@pytest.mark.parametrize("day", [1, pytest.param(4, marks=pytest.mark.ci)])
def test_what_is_found_equals_an_independent_oracle(day: int, scene: Days) -> None:
    """Compaction moves the bad rows, an update rewrites their file, a deletion ends them."""
    commits: dict[int, int] = {}
    for version in range(1, 9):
        commits[version] = scene.land(version)
        if version == 5:
            scene.raw.optimize.compact()
        if version == 6:
            scene.raw.update({"x": "0.25"}, predicate="k = 100")
        if version == 7:
            scene.raw.delete(f"k >= {100 * day} and k < {100 * day + 100}")
        scene.release(version)
    bad = {100 * day + number for number in range(DAY_ROWS)}
    oracle = scene.bad_by_oracle(bad)
    assert oracle == set(range(day, 7)), "the oracle must have something to tell"
    for way, suspect in WAYS.items():
        found = scene.find(suspect(commits[day], day))
        assert set(found.models.values()) == set(found.released) == oracle, way
        assert found.models == {scene.bundles[v].digest: v for v in oracle}
        assert set(found.tables) == {f"{scene.uri}@v{scene.pins[v]}" for v in oracle}
        assert set(found.features) == {scene.features[v] for v in oracle}
        assert set(found.reports) == {f"run{v}" for v in oracle}
        assert found.unread == ()


def test_files_of_one_commit_cannot_be_told_apart(scene: Days) -> None:
    scene.land(1, 2)
    scene.release(1)
    scene.raw.delete("k >= 100 and k < 200")
    scene.release(2)
    found = scene.find(Suspect(file="day-1.csv"))
    assert set(found.models.values()) == {1, 2}
    assert found.rows.endswith("(with the landing files day-1.csv, day-2.csv)")


def test_one_row_at_the_edge_is_enough(scene: Days) -> None:
    scene.land(1)
    commit = scene.land(2)
    for kept, version in ((200, 1), (204, 2)):
        scene.raw.delete(f"k >= 200 and k <> {kept}")
        scene.release(version)
        scene.raw.restore(commit)
    assert set(scene.find(Suspect(version=commit)).models.values()) == {1, 2}


def test_a_corrected_row_is_not_bad_any_more(scene: Days) -> None:
    commit = scene.land(1)
    scene.release(1)
    scene.raw.update({"x": "1.0"})
    scene.release(2)
    assert set(scene.find(Suspect(version=commit)).models.values()) == {1}
    assert set(scene.find(Suspect(where="k >= 100")).models.values()) == {1, 2}


def test_a_column_that_came_later_is_asked_where_it_is(scene: Days) -> None:
    scene.land(1)
    scene.release(1)
    wider = rows_of_day(2).with_columns(source=pl.lit("S"))
    write_deltalake(scene.uri, wider.to_arrow(), mode="append", schema_mode="merge")
    scene.release(2)
    assert set(scene.find(Suspect(where="source = 'S'")).models.values()) == {2}
    assert set(scene.find(Suspect(where="source is null")).models.values()) == {1, 2}
    assert set(scene.find(Suspect(version=1)).models.values()) == {2}


def test_labels_are_recalled_like_rows(scene: Days) -> None:
    labels = f"{scene.settings.lake}/{MODEL}/labels"
    for version in (1, 2):
        scene.land(version)
        rows_of_day(version).write_delta(labels, mode="append")
        assert scene.deliver(scene.made(version, labels=pin(labels))) == "released"
    suspect = Suspect(table="labels", where="k >= 200")
    assert set(scene.find(suspect).models.values()) == {2}
    scene.recall(suspect)
    assert scene.served() == 1


def test_what_cannot_be_read_any_more_is_counted_in_and_named(three: Days) -> None:
    three.raw.optimize.compact()
    three.raw.vacuum(0, dry_run=False, enforce_retention_duration=False)
    found = three.find(Suspect(where="k % 1000 >= 200"))
    assert set(found.models.values()) == {1, 2, 3}
    assert len(found.unread) == 3
    assert set(three.find(DAY_2).models.values()) == {2, 3}, "the log says that v1 has none"


def test_a_version_before_the_commit_is_good_though_it_cannot_be_read(three: Days) -> None:
    hashed, _ = find(three.settings, three.ledger, MODEL, Suspect(version=three.pins[2]))
    three.raw.optimize.compact()
    three.raw.vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert hashed.are_in(replace(pin(three.uri), version=three.pins[1])) is False
    with pytest.raises(DataError, match="cannot be searched for bad rows"):
        hashed.are_in(replace(pin(three.uri), version=three.pins[2]))


def test_a_model_that_good_data_gave_as_well_is_good(scene: Days) -> None:
    """The same bundle by an equal training key: the bad rows were not in what it learned from."""
    scene.land(1)
    first = scene.release(1)
    scene.land(2)
    assert scene.deliver(scene.made(1, of=first)) == "kept"
    found = scene.find(DAY_2)
    assert found.models == {}
    assert found.tables == (f"{scene.uri}@v{scene.pins[1]}",)
    assert found.reports == ("run1",), "but what was judged on them is listed"


def test_a_model_that_was_trained_and_never_decided_about_is_found(scene: Days) -> None:
    scene.land(1)
    scene.release(1)
    scene.land(2)
    made = scene.made(2).candidate
    record = Record(made.training_key, {}, {}, made.data, {}, {})
    path = _path(scene.settings.releases, MODEL, made.digest)
    change(path, lambda _: msgspec.json.encode(record))
    scene.ledger.remember_trained(
        TrainedRecord(made.training_key, MODEL, 2, made.digest, "run2", 1.0, "now")
    )
    assert scene.find(DAY_2).models == {made.digest: 2}


MISTAKES = [
    (Suspect(), ReleaseError, "say which rows are bad"),
    (Suspect(version=1, where="k > 1"), ReleaseError, "say which rows are bad"),
    (Suspect(table="labels", where="k > 1"), ReleaseError, "from a table 'labels' yet"),
    (Suspect(file="no.csv"), DataError, r"no commit of .* took in a landing file 'no.csv'"),
    (Suspect(version=99), DataError, "cannot be opened"),
    (Suspect(where="terminal = 7"), DataError, r"has no column \['terminal'\], only: k, at"),
    (Suspect(where="k >"), DataError, "cannot be searched for bad rows"),
    (Suspect(where="k"), DataError, "cannot be searched for bad rows"),
]


def test_a_mistake_in_what_is_bad_is_told_before_anything_is_done(three: Days) -> None:
    before = three.ledger.head()
    for suspect, error, words in MISTAKES:
        with pytest.raises(error, match=words):
            three.recall(suspect)
    assert three.ledger.head() == before


def test_a_release_of_which_nobody_knows_the_data_is_bad(three: Days) -> None:
    """As a ledger of an early release of this package has them."""
    old = three.bundle(9)
    three.ledger.record_outcome(
        MODEL, "released", version=9, digest=old.digest, reason="", data={}, run_id="r"
    )
    assert three.find(DAY_2).models[old.digest] == 9


def test_a_commit_that_added_nothing_is_no_recall(three: Days) -> None:
    three.raw.optimize.compact()
    with pytest.raises(DataError, match="added no rows"):
        three.find(Suspect(version=three.raw.version()))


def test_a_table_that_was_dropped_since_is_not_of_this_ones_commits(three: Days) -> None:
    shutil.rmtree(three.uri)
    commit = three.land(2)
    three.release(4)
    assert set(three.find(Suspect(version=commit)).models.values()) == {4}
    by_condition = three.find(DAY_2)
    assert set(by_condition.models.values()) == {1, 2, 3, 4}, "nobody can look any more"
    assert len(by_condition.unread) == 3


# --- carried out
