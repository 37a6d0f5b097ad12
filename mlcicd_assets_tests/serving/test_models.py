"""The store of live models: what it follows, what it keeps, what it falls back to."""

import logging
import shutil
from pathlib import Path

import pytest

from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.releases import bundle_folder, pointer_path
from mlcicd_assets.ml import scoring
from mlcicd_assets.serving.models import ModelStore
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.serving.driving import loaded


def state(store: ModelStore) -> tuple[int | None, str | None, str | None, bool]:
    """Version and digest that serve, digest that does not load, readiness."""
    found = store.live().get(tiny.MODEL)
    live = (found.version, found.bundle.digest) if found else (None, None)
    return (*live, store.failure(tiny.MODEL)["failed_digest"], store.is_ready())


def damage(root: Path, bundle: Bundle) -> None:
    path = bundle_folder(root, tiny.MODEL, bundle.digest) / "mean.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_follows_the_pointer_and_logs_one_line_a_swap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tiny.bundle(tmp_path, 0.0), tiny.bundle(tmp_path, 1.0)
    store = ModelStore(tmp_path)
    with caplog.at_level(logging.INFO):
        store.refresh()
        assert state(store) == (None, None, None, True)
        for version, bundle in enumerate((first, second, first), start=1):
            tiny.release(tmp_path, bundle.digest, version=version)
            store.refresh()
            store.refresh()
            assert state(store) == (version, bundle.digest, None, True)
        pointer_path(tmp_path, tiny.MODEL).unlink()
        store.refresh()
    assert state(store) == (None, None, None, True)
    assert [record.levelname for record in caplog.records] == ["INFO"] * 4


@pytest.mark.parametrize("content", [b"{", b'{"model":"x"}', b"", b"\xff\xfe\x00"])
def test_a_bad_pointer_keeps_the_old_model_and_says_why(tmp_path: Path, content: bytes) -> None:
    first = tiny.bundle(tmp_path)
    tiny.release(tmp_path, first.digest)
    store = loaded(tmp_path)
    pointer_path(tmp_path, tiny.MODEL).write_bytes(content)
    store.refresh()
    assert state(store) == (1, first.digest, None, True)
    assert "damaged" in (store.failure(tiny.MODEL)["load_error"] or "")
    pointer_path(tmp_path, tiny.MODEL).unlink()
    tiny.release(tmp_path, first.digest)
    store.refresh()
    assert store.failure(tiny.MODEL)["load_error"] is None


def test_a_bad_bundle_keeps_the_old_model_and_a_good_one_clears_the_error(tmp_path: Path) -> None:
    first, second = tiny.bundle(tmp_path, 0.0), tiny.bundle(tmp_path, 1.0)
    damage(tmp_path, second)
    tiny.release(tmp_path, first.digest, version=1)
    store = loaded(tmp_path)
    for digest in (second.digest, "0" * 64, "../" + "0" * 61):
        tiny.release(tmp_path, digest, version=2)
        store.refresh()
        assert state(store) == (1, first.digest, digest, True)
    tiny.release(tmp_path, first.digest, version=3)
    store.refresh()
    assert state(store) == (3, first.digest, None, True)


def test_golden_rows_that_score_differently_are_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny.bundle(tmp_path)
    tiny.release(tmp_path, first.digest)
    monkeypatch.setitem(scoring._LINKS, "logistic", lambda raw: raw * 0.5)
    store = loaded(tmp_path)
    assert state(store) == (None, None, first.digest, False)
    assert "golden" in (store.failure(tiny.MODEL)["load_error"] or "")


def test_a_start_with_a_bad_target_comes_back_to_the_previous_release(tmp_path: Path) -> None:
    first, second = tiny.bundle(tmp_path, 0.0), tiny.bundle(tmp_path, 1.0)
    tiny.release(tmp_path, first.digest, version=1)
    tiny.release(tmp_path, second.digest, version=2)
    damage(tmp_path, second)
    assert state(loaded(tmp_path)) == (1, first.digest, second.digest, True)
    damage(tmp_path, first)
    assert state(loaded(tmp_path)) == (None, None, second.digest, False)


def test_one_bad_model_does_not_hold_up_another(tmp_path: Path) -> None:
    other = tiny.bundle(tmp_path, model="other")
    tiny.release(tmp_path, other.digest, model="other")
    tiny.release(tmp_path, "0" * 64)
    store = loaded(tmp_path)
    assert set(store.live()) == {"other"}
    assert not store.is_ready()


def test_the_watcher_s_end_shows_in_readiness(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    with store.watching():
        assert store.is_ready()
    assert not store.is_ready()


def test_a_model_in_memory_survives_the_loss_of_its_files(tmp_path: Path) -> None:
    first = tiny.bundle(tmp_path)
    tiny.release(tmp_path, first.digest, version=1)
    store = loaded(tmp_path)
    shutil.rmtree(bundle_folder(tmp_path, tiny.MODEL, first.digest))
    tiny.release(tmp_path, first.digest, version=2)
    store.refresh()
    assert state(store) == (2, first.digest, None, True)
