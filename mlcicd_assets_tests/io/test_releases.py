"""Pointers and notes of the release store, with real files, locks and processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlcicd_assets.io.releases import (
    Pointer,
    bundle_folder,
    pointer_path,
    pointer_stamps,
    read_pointer,
    release_notes,
    remove_pointer,
    swap_pointer,
    write_release_note,
)
from mlcicd_assets.io.store import Place, listing, read, write
from mlcicd_assets.ml.errors import PointerMoved, ReleaseError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def pointer(digest: str = A, *, model: str = "card_fraud") -> Pointer:
    return Pointer(model, 1, digest, 4, "f" * 64, None, None)


def test_a_pointer_comes_back_as_it_was_written(place: Place) -> None:
    assert read_pointer(place, "card_fraud") is None
    full = replace(pointer(), previous_version=3, previous_digest=B)
    swap_pointer(place, full, expected_digest=None)
    assert read_pointer(place, "card_fraud") == full
    lock = [".lock"] if isinstance(place, Path) else []
    assert list(listing(place / "card_fraud")) == [*lock, "pointer.json"]


def test_only_who_knows_the_current_digest_may_move_it(place: Place) -> None:
    for _ in range(2):
        swap_pointer(place, pointer(A), expected_digest=None)
        for expected in (None, B):
            with pytest.raises(PointerMoved, match="someone else"):
                swap_pointer(place, pointer(C), expected_digest=expected)
            with pytest.raises(PointerMoved):
                remove_pointer(place, "card_fraud", expected_digest=expected)
        assert read_pointer(place, "card_fraud") == pointer(A)
        remove_pointer(place, "card_fraud", expected_digest=A)
        assert read_pointer(place, "card_fraud") is None
        assert pointer_stamps(place) == {}
        with pytest.raises(PointerMoved):
            swap_pointer(place, pointer(C), expected_digest=A)


def test_a_reader_sees_the_old_pointer_whole(tmp_path: Path) -> None:
    swap_pointer(tmp_path, pointer(A), expected_digest=None)
    with pointer_path(tmp_path, "card_fraud").open("rb") as reader:
        swap_pointer(tmp_path, pointer(B), expected_digest=A)
        assert msgspec.json.decode(reader.read(), type=Pointer) == pointer(A)


def test_stamps_change_with_the_pointer_and_see_only_models(place: Place) -> None:
    assert pointer_stamps(place / "nowhere") == {}
    for other in ("no_pointer/bundles/x", "a_file", "Not a model/pointer.json"):
        write(place / other, b"{}")
    swap_pointer(place, pointer(A), expected_digest=None)
    first = pointer_stamps(place)
    assert list(first) == ["card_fraud"]
    assert pointer_stamps(place) == first
    swap_pointer(place, pointer(B), expected_digest=A)
    assert pointer_stamps(place) != first


@pytest.mark.parametrize("at_once", [8, *[2] * 20])
def test_of_many_swaps_at_once_one_wins(place: Place, at_once: int) -> None:
    swap_pointer(place, pointer(A), expected_digest=None)
    wins: list[str] = []
    barrier = threading.Barrier(at_once)

    def race(digest: str) -> None:
        barrier.wait()
        try:
            swap_pointer(place, pointer(digest), expected_digest=A)
        except PointerMoved:
            return
        wins.append(digest)

    threads = [threading.Thread(target=race, args=(f"{i}" * 64,)) for i in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    current = read_pointer(place, "card_fraud")
    assert current is not None
    assert [current.digest] == wins


def test_a_killed_writer_leaves_a_whole_pointer(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from mlcicd_assets.io.releases import Pointer, swap_pointer\n"
        "root, old = Path(sys.argv[1]), None\n"
        "while True:\n"
        "    for c in '0123456789':\n"
        "        p = Pointer('card_fraud', 1, c * 64, 1, 'f' * 64, None, None)\n"
        "        swap_pointer(root, p, expected_digest=old); old = p.digest\n"
        "        print(flush=True)\n"
    )
    for delay in (0.0, 0.003, 0.007):
        pointer_path(tmp_path, "card_fraud").unlink(missing_ok=True)
        command = [sys.executable, "-c", code, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            os.kill(writer.pid, signal.SIGKILL)
        assert read_pointer(tmp_path, "card_fraud") is not None


USES: list[Callable[[Place, str], Any]] = [
    read_pointer,
    lambda root, name: swap_pointer(root, pointer(model=name), expected_digest=None),
    lambda root, name: remove_pointer(root, name, expected_digest=None),
    lambda root, name: write_release_note(root, name, A, {}),
    lambda root, name: bundle_folder(root, name, A),
    lambda root, name: bundle_folder(root, "card_fraud", name),
]


@pytest.mark.parametrize(
    "name",
    ["", "..", "../x", "a/b", "/etc", "A", "1a", "a\n", "a\x00", "a.b", "ä", "x" * 64, "%2e%2e",
     A + "\n", A.upper(), "../" + "a" * 61],
)  # fmt: skip
def test_names_that_could_lead_elsewhere_never_reach_a_path(place: Place, name: str) -> None:
    for use in USES:
        with pytest.raises(ReleaseError):
            use(place, name)
    assert listing(place) == {}


GOOD = msgspec.json.encode(pointer())


@pytest.mark.parametrize(
    "content",
    [b"", GOOD[:-5], b"[]", b"\xff\xfe", GOOD.replace(b"card", b"\xff"), b'{"model":"x"}',
     GOOD.replace(b'"version":1', b'"version":"1"')],
)  # fmt: skip
def test_a_damaged_pointer_is_named_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = pointer_path(tmp_path, "card_fraud")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ReleaseError, match=r"pointer\.json is damaged"):
        read_pointer(tmp_path, "card_fraud")
    with pytest.raises(ReleaseError):
        swap_pointer(tmp_path, pointer(B), expected_digest=A)
    assert path.read_bytes() == content


def test_a_note_stands_beside_the_bundle_and_can_be_replaced(place: Place) -> None:
    write_release_note(place, "card_fraud", A, {"head": 1})
    path = write_release_note(place, "card_fraud", A, {"head": 2, "card": {"x": [1]}})
    assert path == place / "card_fraud" / "bundles" / f"{A}.release.json"
    assert json.loads(read(path) or b"") == {"head": 2, "card": {"x": [1]}}
    assert release_notes(place, "card_fraud") == [path]
    assert list(listing(path.parent)) == [path.name]
