"""A feature table that only follows what changed equals one that is made from nothing."""

import random
import shutil
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable
from polars.testing import assert_frame_equal

from mlcicd_assets.io import feature_state, feature_table
from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.feature_inputs import clock_of
from mlcicd_assets.io.feature_run import MadeFeatures, load_features, make_features
from mlcicd_assets.io.ledger_tables import LedgerDatabase
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.contract import DAY
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import RawData
from mlcicd_assets_tests.ml.specs import small_spec
from mlcicd_assets_tests.ml.test_features import COLUMNS, EVENTS, LABELS, START

WINDOWS = [
    {"entity": "who", "days": [1, 3], "stats": ["count", "mean"], "of": "amount"},
    {"entity": "who", "days": [1], "stats": ["label_rate"], "delay_days": 2},
]
in_ci = partial(pytest.param, marks=pytest.mark.ci)
GATES = {"floors": {"roc_auc": 0.5}, "history": {"newest_days": 2, "needs_days": 2}}


class Crash(Exception):
    """The process ends here."""


def make_spec(own_labels: bool = True, **changes: Any) -> PipelineSpec:
    columns = COLUMNS if own_labels else {**COLUMNS, "bad": {"type": "integer", "nullable": True}}
    label: dict[str, Any] = {"matures_after_days": 2, "absent": "negative"}
    return small_spec(
        columns,
        label=label if own_labels else {**label, "source": None},
        features={"columns": ["amount", "kind"], "calendar": ["hour"], "windows": WINDOWS},
        gates=GATES,
        **changes,
    )


class World:
    """Raw tables that others change at random, and a lake that follows them."""

    def __init__(self, folder: Path, seed: int, spec: PipelineSpec) -> None:
        self.dice = random.Random(seed)  # noqa: S311
        self.folder, self.spec = folder, spec
        self.events, self.labels = str(folder / "events"), str(folder / "labels")
        self.settings = Settings.from_env({"MLCICD_HOME": str(folder / "home")})
        self.memory = LedgerDatabase(self.settings.ledger_url)
        self.settings.home.mkdir(parents=True)
        self.kinds = EVENTS if spec.label.source else {**EVENTS, "bad": pl.Int64}
        self.add_events(40)
        self.add_labels(20)

    def moment(self, latest: int = 12 * 24) -> datetime:
        return START + timedelta(hours=self.dice.randrange(0, latest, 5))

    def rows(self, count: int) -> pl.DataFrame:
        dice, rows = self.dice, []
        for _ in range(count):
            amount = dice.choice([None, -1.0, 0.1, 0.2, 1e6 / 3, dice.random()])
            at = dice.choice([None, *[self.moment()] * 30])
            row = (dice.randrange(60), at, dice.choice("abc"), amount, dice.choice("xyz"))
            rows.append((*row, dice.choice([None, 0, 1])) if "bad" in self.kinds else row)
        return pl.DataFrame(rows, schema=self.kinds, orient="row")

    def add_events(self, count: int = 6) -> None:
        self.rows(count).write_delta(self.events, mode="append")

    def add_labels(self, count: int = 4) -> None:
        rows = [
            (self.dice.randrange(60), self.dice.choice([0, 1]), self.moment(15 * 24))
            for _ in range(count)
        ]
        frame = pl.DataFrame(rows, schema=LABELS, orient="row")
        frame.write_delta(self.labels, mode="append")

    def change(self) -> str:
        """Do one of the things that other writers do."""
        dice, events, labels = self.dice, DeltaTable(self.events), DeltaTable(self.labels)
        few = f"id < {dice.randrange(8)}"
        day = (START + timedelta(days=dice.randrange(12))).date()
        ways = {
            "append": self.add_events,
            "one late row": lambda: self.add_events(1),
            "delete": lambda: events.delete(few),
            "delete a day": lambda: events.delete(f"CAST(at AS DATE) = DATE '{day}'"),
            "update": lambda: events.update({"amount": "0.7"}, predicate=few),
            "overwrite": lambda: self.rows(30).write_delta(self.events, mode="overwrite"),
            "recreate": self.recreate,
            "compact": events.optimize.compact,
            "restore": lambda: events.version() and events.restore(events.version() - 1),
            "label": self.add_labels,
            "one label": lambda: self.add_labels(1),
            "withdraw": lambda: labels.delete(few),
            "earlier label": lambda: labels.update(
                {"known_at": "known_at - INTERVAL '2 days'"}, predicate=few
            ),
            "nothing": lambda: None,
        }
        way = dice.choice(sorted(ways))
        ways[way]()
        return way

    def recreate(self) -> None:
        shutil.rmtree(self.events)
        self.add_events(30)

    def made(self, home: Path, *, remembers: bool) -> MadeFeatures:
        settings = Settings.from_env({"MLCICD_HOME": str(home)})
        memory = self.memory if remembers else None
        pinned = [
            pin(uri, clock=clock_of(self.spec, own), memory=memory)
            for own, uri in (("raw", self.events), ("labels", self.labels))
        ]
        raw = RawData(pinned[0], pinned[1] if self.spec.label.source else None)
        return make_features(settings, self.spec, raw, run_id="r", memory=memory)

    def check(self, step: str) -> MadeFeatures:
        """What follows the changes equals what is made from nothing."""
        ours = self.made(self.settings.home, remembers=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feature_state, "CHUNK_ROWS", self.dice.choice([1, 7, 10_000]))
            anew = self.made(self.folder / f"anew{step.partition(' ')[0]}", remembers=False)
        assert ours.data.features.fingerprint == anew.data.features.fingerprint, step
        assert ours.data.fingerprint == anew.data.fingerprint
        assert_frame_equal(load_features(ours.data, self.spec), load_features(anew.data, self.spec))
        assert pin(ours.quarantine_uri).fingerprint == pin(anew.quarantine_uri).fingerprint
        assert ours.verdicts == anew.verdicts
        assert (ours.columns, ours.quarantine_sample) == (anew.columns, anew.quarantine_sample)
        again = self.made(self.settings.home, remembers=True)
        assert (again.days_made, again.data) == (0, ours.data)
        return ours

    def crash(self, patch: pytest.MonkeyPatch) -> None:
        """Run until one of the next writes, before or after it."""
        left, is_before = self.dice.randrange(6), self.dice.random() < 0.5

        def mortal(write: Any) -> Any:
            def act(*words: Any, **how: Any) -> None:
                nonlocal left
                left -= 1
                if left == 0 and is_before:
                    raise Crash
                write(*words, **how)
                if left == 0:
                    raise Crash

            return act

        for name in ("replace_days", "save_state"):
            patch.setattr(feature_table, name, mortal(getattr(feature_table, name)))
        try:
            self.made(self.settings.home, remembers=True)
        except Crash:
            pass


@pytest.mark.parametrize(("seed", "own_labels"), [in_ci(0, True), (1, False)])
def test_any_history_ends_in_the_table_that_is_made_from_nothing(
    tmp_path: Path, seed: int, own_labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow_histories(tmp_path, seed, make_spec(own_labels), monkeypatch, steps=2)


@pytest.mark.ci
def test_a_long_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow_histories(tmp_path, 100, make_spec(), monkeypatch, steps=15)


def follow_histories(
    folder: Path, seed: int, spec: PipelineSpec, patch: pytest.MonkeyPatch, *, steps: int
) -> None:
    patch.setattr(feature_state, "CHUNK_ROWS", 5)
    world = World(folder, seed, spec)
    world.check("start")
    for step in range(steps):
        told = world.change()
        patch.setattr(feature_table, "MANY_ROWS", world.dice.choice([0, 10_000]))
        if world.dice.random() < 0.5:
            with pytest.MonkeyPatch.context() as crashing:
                world.crash(crashing)
            told += f", crash, {world.change()}"
        world.check(f"{step} {told}")


def quiet_world(tmp_path: Path, own_labels: bool = True) -> World:
    """Two rows on each of 12 days, all keys different."""
    world = World(tmp_path, 1, make_spec(own_labels))
    rows = [(n, START + timedelta(hours=12 * n + 1), "ab"[n % 2], float(n), "x") for n in range(24)]
    frame = pl.DataFrame(rows, schema=EVENTS, orient="row")
    if not own_labels:
        frame = frame.with_columns(bad=pl.lit(1, dtype=pl.Int64))
    frame.write_delta(world.events, mode="overwrite")
    known = pl.col("at") + timedelta(days=1)
    frame.select("id", bad=pl.lit(1, dtype=pl.Int64), known_at=known).write_delta(
        world.labels, mode="overwrite"
    )
    assert world.check("start").days_made == 12
    return world


def add(world: World, key: int, day: int, **values: Any) -> None:
    row = (key, START + timedelta(days=day, hours=6), "a", 1.0, "x")
    frame = pl.DataFrame([row], schema=EVENTS, orient="row").with_columns(**values)
    frame.write_delta(world.events, mode="append")


@pytest.mark.parametrize(
    ("change", "days"),
    [
        (lambda w: add(w, 99, 4), 4),  # its own, and those whose windows reach it
        (lambda w: DeltaTable(w.labels).delete("id = 8"), 4),
        (lambda w: DeltaTable(w.events).optimize.compact(), 0),
        in_ci(lambda w: add(w, 99, 12), 1),
        in_ci(lambda w: DeltaTable(w.events).delete("id = 8 OR id = 9"), 4),  # a day is gone
        # The row of this key on the last day goes to quarantine.
        in_ci(lambda w: add(w, 22, 2), 5),
        in_ci(lambda w: DeltaTable(w.labels).delete("id = 22"), 0),
    ],
)
def test_only_days_that_a_change_can_reach_are_made_again(
    tmp_path: Path, change: Any, days: int
) -> None:
    world = quiet_world(tmp_path)
    change(world)
    assert world.check("changed").days_made == days


def test_two_models_of_the_same_features_share_them(tmp_path: Path) -> None:
    world = quiet_world(tmp_path)
    first = world.made(world.settings.home, remembers=True)
    world.spec = make_spec(split={"holdout_days": 3}).model_copy(update={"name": "other"})
    second = world.made(world.settings.home, remembers=True)
    assert second.days_made == 0
    assert second.data == first.data
    world.spec = make_spec(time={"column": "at", "zone": "Europe/Berlin"})
    third = world.made(world.settings.home, remembers=True)
    assert third.days_made == 12
    assert third.data.features.uri != first.data.features.uri


@pytest.mark.parametrize("damage", ["rows", "state", "no state", "other table"])
def test_a_table_that_others_touched_is_made_again(tmp_path: Path, damage: str) -> None:
    world = quiet_world(tmp_path)
    made = world.made(world.settings.home, remembers=True).data.features
    state = Path(f"{made.uri}.state")
    if damage == "rows":
        DeltaTable(made.uri).delete("id = 8")
    elif damage == "other table":
        shutil.rmtree(made.uri)
        pl.DataFrame({"a": [1]}).write_delta(made.uri)
        shutil.rmtree(made.uri)
    else:
        state.write_bytes(b"garbage") if damage == "state" else state.unlink()
    assert world.check(damage).days_made == 12


def test_of_two_who_write_the_same_day_at_once_one_wins_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 7 of faults.md."""
    uri, day = str(tmp_path / "table"), feature_state.to_date(1)
    ours, theirs = (pl.DataFrame({"a": [n, n], DAY: [day, day]}) for n in (1, 2))
    feature_state.replace_days(uri, ours.head(0), range(1, 2), metadata={})
    write_day = feature_state._write_day

    def overtaken(*words: Any) -> Any:
        monkeypatch.undo()
        feature_state.replace_days(uri, theirs, range(1, 2), metadata={})
        return write_day(*words)

    monkeypatch.setattr(feature_state, "_write_day", overtaken)
    with pytest.raises(DataError, match="written by another run"):
        feature_state.replace_days(uri, ours, range(1, 2), metadata={})
    assert pl.read_delta(uri)["a"].to_list() == [2, 2]


def test_what_takes_long_tells_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_state, "CHUNK_ROWS", 8)
    world, told = quiet_world(tmp_path), list[str]()
    raw = RawData(pin(world.events), pin(world.labels))
    settings = Settings.from_env({"MLCICD_HOME": str(tmp_path / "other")})
    make_features(settings, world.spec, raw, run_id="r", tell=told.append)
    assert told == [
        f"made the features of {done} of 12 days, until 2024-03-{done:02}" for done in (4, 8, 12)
    ]


def test_what_was_written_without_its_state_is_made_again_although_the_rows_went_back(
    tmp_path: Path,
) -> None:
    world = quiet_world(tmp_path)
    add(world, 99, 4)

    def die(*_: Any) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_table, "save_state", die)
        with pytest.raises(Crash):
            world.made(world.settings.home, remembers=True)
    DeltaTable(world.events).restore(DeltaTable(world.events).version() - 1)
    assert world.check("back").days_made == 4
