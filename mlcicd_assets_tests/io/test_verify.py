"""Verify: each difference between ledger, store, servers and MLflow is named, nothing else is."""

import json
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from mlcicd_assets.io import carrier
from mlcicd_assets.io.endpoint import wait_until_live
from mlcicd_assets.io.ledger import Entry, Ledger, _hash
from mlcicd_assets.io.offline import OfflineRollback, write_note
from mlcicd_assets.io.registry import CHAMPION, client, set_alias
from mlcicd_assets.io.releases import (
    Pointer,
    bundle_folder,
    read_pointer,
    release_notes,
    swap_pointer,
)
from mlcicd_assets.io.store import remove
from mlcicd_assets.io.verify import verify
from mlcicd_assets.ml.errors import ReleaseError
from mlcicd_assets_tests.io.scene import Crash, Scene, crash, pass_every_gate, report, table
from mlcicd_assets_tests.io.tiny import MODEL

DELETE = "DELETE FROM ledger_entries WHERE seq = ?"


class TwoReleases(Scene):
    """Two versions released one after the other, on the server and in MLflow."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        registry = client(self.settings)
        registry.create_registered_model(MODEL)
        for _ in range(2):
            registry.create_model_version(MODEL, source="s3://nowhere/model")
        self.first = self.released(1, 1)
        self.second = self.released(2, 2, champion=self.first)
        self.path = Path(self.settings.ledger_url.removeprefix("sqlite:///"))

    def deliver(self, made: Any, mark: Any = None, **more: Any) -> str:
        def move(model: str, version: int) -> None:
            set_alias(self.settings, model, CHAMPION, version)

        return super().deliver(made, mark or move, **more)

    def problems(self) -> str:
        # Opened anew, as a command does.
        return "\n".join(verify(self.settings, Ledger(self.settings.ledger_url))[0])

    def tamper(self, statement: str, *values: tuple[object, ...]) -> None:
        """Do what somebody with the file can do: drop the triggers, then change rows."""
        with closing(sqlite3.connect(self.path)) as database, database:
            database.execute("DROP TRIGGER IF EXISTS ledger_entries_no_update")
            database.execute("DROP TRIGGER IF EXISTS ledger_entries_no_delete")
            database.executemany(statement, values)


@pytest.fixture
def scene(server: str) -> TwoReleases:
    return TwoReleases(server)


def span_of(file: bytes, entry: Entry) -> range:
    """Find the bytes of one row: SQLite's header and the texts as they follow each other."""
    body = json.dumps(entry.body, sort_keys=True, separators=(",", ":"))
    start = file.index((entry.prev_hash + entry.hash + entry.kind).encode())
    texts = (entry.prev_hash, entry.hash, entry.kind, entry.model, entry.run_id, entry.at, body)
    # A row that does not fit its page goes on elsewhere: what stands here is enough.
    return range(start - 12, start + min(len("".join(texts)), 400))


def flip_byte(path: Path, entry: Entry, choice: random.Random) -> None:
    file = bytearray(path.read_bytes())
    file[choice.choice(span_of(bytes(file), entry))] ^= 1 << choice.randrange(8)
    path.write_bytes(file)


def rewrite(scene: TwoReleases, *, seq: int = 1) -> None:
    """Forge an entry, and every hash after it."""
    before, rows = "0" * 64, list[tuple[object, ...]]()
    for entry in Ledger(scene.settings.ledger_url).entries():
        body = json.dumps(entry.body, sort_keys=True, separators=(",", ":"))
        run_id = "forged" if entry.seq == seq else entry.run_id
        row = {**asdict(entry), "body": body, "prev_hash": before, "run_id": run_id}
        before = _hash(row)
        rows.append((row["prev_hash"], before, run_id, entry.seq))
    change = "UPDATE ledger_entries SET prev_hash = ?, hash = ?, run_id = ? WHERE seq = ?"
    scene.tamper(change, *rows)


def test_what_agrees_is_verified(scene: TwoReleases) -> None:
    assert verify(scene.settings, scene.ledger) == ([], [])
    assert verify(scene.settings, scene.ledger, MODEL) == ([], [])
    with pytest.raises(ReleaseError, match=f"no model 'other', only: {MODEL}"):
        verify(scene.settings, scene.ledger, "other")


@pytest.mark.parametrize("seed", range(4))
def test_one_flipped_byte_of_a_row_is_named(seed: int, scene: TwoReleases) -> None:
    choice = random.Random(seed)  # noqa: S311 - a campaign that can be repeated
    flip_byte(scene.path, choice.choice(scene.ledger.entries()), choice)
    assert scene.problems().startswith("ledger: ")


def test_a_text_that_became_bytes_is_named(scene: TwoReleases) -> None:
    scene.tamper("UPDATE ledger_entries SET body = CAST(body AS BLOB) WHERE seq = ?", (2,))
    assert "entry 2 was edited" in scene.problems()


def test_damage_where_no_row_is_read_is_named(scene: TwoReleases) -> None:
    with closing(sqlite3.connect(scene.path)) as database:
        (size,) = database.execute("PRAGMA page_size").fetchone()
        query = "SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_ledger%'"
        (page,) = database.execute(query).fetchone()
    file = bytearray(scene.path.read_bytes())
    file[page * size - 1] ^= 1
    scene.path.write_bytes(file)
    assert scene.ledger.verify_chain() == []
    assert "is damaged, restore it" in scene.problems()


def test_a_ledger_that_is_no_database_is_named(scene: TwoReleases) -> None:
    scene.path.write_bytes(b"no database, but long enough to be read as one" * 99)
    assert "not a database" in scene.problems()


def test_a_removed_row_in_the_middle_is_named(scene: TwoReleases) -> None:
    scene.tamper(DELETE, (3,))
    assert scene.problems() == "ledger: entry 4 does not continue entry 2"


def test_the_removed_end_of_the_ledger_is_named(scene: TwoReleases) -> None:
    head = scene.ledger.head().seq
    scene.tamper(DELETE, (head,))
    told = scene.problems()
    assert f"entry {head - 1} has no outcome" in told
    assert f"{scene.first.digest} is live" in told
    scene.tamper(DELETE, (head - 1,))
    assert f"entry {head - 1} is not the one that a release was bound to" in scene.problems()


def test_a_rewritten_chain_is_named(scene: TwoReleases) -> None:
    rewrite(scene)
    assert scene.ledger.verify_chain() == []
    assert "shortened or rewritten" in scene.problems()


def test_the_release_note_alone_finds_a_rewritten_chain(scene: TwoReleases) -> None:
    pointer = scene.settings.releases / MODEL / "pointer.json"
    pointer.unlink()
    rewrite(scene)
    assert "shortened or rewritten" in scene.problems()


def test_the_pointer_alone_finds_a_rewritten_chain(scene: TwoReleases) -> None:
    for note in release_notes(scene.settings.releases, MODEL):
        remove(note)
    rewrite(scene)
    assert "shortened or rewritten" in scene.problems()


def test_an_alias_moved_by_hand_is_named(scene: TwoReleases) -> None:
    set_alias(scene.settings, MODEL, CHAMPION, 1)
    assert scene.problems().startswith(
        f"{MODEL}: MLflow's alias champion names version 1, the ledger says 2"
    )
    client(scene.settings).delete_registered_model_alias(MODEL, CHAMPION)
    assert "names version None" in scene.problems()


def test_mlflow_out_of_reach_is_no_problem_but_said(
    scene: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    problems, unchecked = verify(Scene(scene.url).settings, scene.ledger)
    assert problems == []
    assert f"MLflow's alias of {MODEL}" in unchecked[0]


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_damaged_bundle_that_may_be_needed_is_named(which: str, scene: TwoReleases) -> None:
    digest = getattr(scene, which).digest
    folder = bundle_folder(scene.settings.releases, MODEL, digest)
    (folder / "model.json").write_text("{}")
    assert scene.problems().startswith(f"{MODEL}: bundle {digest[:12]}: the files of")


def test_a_pointer_moved_by_hand_and_a_server_elsewhere_are_named(scene: TwoReleases) -> None:
    other = scene.bundle(9)
    pointer = read_pointer(scene.settings.releases, MODEL)
    assert pointer is not None
    head = scene.ledger.head()
    by_hand = Pointer(MODEL, 9, other.digest, head.seq, head.hash, None, None)
    swap_pointer(scene.settings.releases, by_hand, expected_digest=scene.second.digest)
    wait_until_live(scene.url, MODEL, other.digest, token=None)
    assert scene.problems() == (
        f"{MODEL}: the release pointer names bundle {other.digest}, the ledger says "
        f"{scene.second.digest} is live"
    )
    (scene.settings.releases / MODEL / "pointer.json").write_text("{")
    assert "is damaged" in scene.problems()


def test_a_server_that_answers_another_version_or_not_at_all_is_named(
    scene: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLCICD_ENDPOINTS", f"{scene.url},http://127.0.0.1:9")
    (problem,) = verify(Scene(scene.url).settings, scene.ledger)[0]
    assert "no server answers at http://127.0.0.1:9" in problem
    # A server that watches another folder stays with what it has.
    elsewhere = scene.settings.releases.with_name("elsewhere")
    scene.settings.releases.rename(elsewhere)
    monkeypatch.setenv("MLCICD_RELEASES", str(elsewhere))
    monkeypatch.setenv("MLCICD_ENDPOINTS", scene.url)
    settings = Scene(scene.url).settings
    pointer = read_pointer(elsewhere, MODEL)
    assert pointer is not None
    head = scene.ledger.head()
    first = Pointer(MODEL, 1, scene.first.digest, head.seq, head.hash, None, None)
    swap_pointer(elsewhere, first, expected_digest=scene.second.digest)
    assert any("serves bundle" in line for line in verify(settings, scene.ledger)[0])


def test_an_offline_rollback_not_booked_yet_is_named_and_explains_the_pointer(
    scene: TwoReleases,
) -> None:
    pointer = read_pointer(scene.settings.releases, MODEL)
    assert pointer is not None
    first, second = scene.first.digest, scene.second.digest
    note = OfflineRollback("x", MODEL, 1, first, second, "ann", "bad", "2026-01-01T00:00:00+00:00")
    write_note(scene.settings.releases, note)
    target = Pointer(MODEL, 1, first, pointer.ledger_seq, pointer.ledger_hash, None, None)
    swap_pointer(scene.settings.releases, target, expected_digest=second)
    wait_until_live(scene.url, MODEL, first, token=None)
    assert scene.problems() == (
        f"{MODEL}: the offline rollback to v1 by ann is not booked: the next run of the model "
        "books it"
    )


def test_a_release_that_was_cut_off_is_named(
    scene: TwoReleases, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = report(scene.bundle(3), 3, champion=scene.second)
    pass_every_gate(scene.ledger, third)
    monkeypatch.setattr(carrier, "write_release_note", crash)
    with pytest.raises(Crash):
        scene.deliver(third)
    assert "a release or rollback was cut off" in scene.problems()


def test_a_lost_or_cut_file_of_a_held_version_is_named(scene: TwoReleases) -> None:
    pinned = table()
    (uri,) = DeltaTable(pinned.uri).file_uris()
    file = Path(uri.removeprefix("file://"))
    file.write_bytes(file.read_bytes()[:-1])
    told = scene.problems()
    assert f"{MODEL}: {pinned}: {file.name} has {file.stat().st_size} bytes; restore it" in told
    assert "(raw of v2, live)" in told
    assert "(features of v1, rollback target)" in told
    file.unlink()
    assert f"{pinned}: {file.name} is gone" in scene.problems()


def test_a_held_table_that_was_made_anew_or_is_gone_is_named(scene: TwoReleases) -> None:
    pinned = table()
    shutil.rmtree(pinned.uri)
    assert "cannot be opened" in scene.problems()
    pl.DataFrame({"k": [1, 2]}).write_delta(pinned.uri)
    assert f"{MODEL}: {pinned} was dropped and made anew" in scene.problems()
