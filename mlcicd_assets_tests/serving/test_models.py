"""The store of live models: what it follows, what it keeps, what it falls back to."""

import logging
import shutil
from pathlib import Path

import pytest

from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.releases import bundle_folder, pointer_path, remove_pointer
from mlcicd_assets.io.store import Place, place_at, read, write
from mlcicd_assets.ml import scoring
from mlcicd_assets.ml.errors import StoreError
from mlcicd_assets.serving.models import ModelStore
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.serving.driving import loaded


def state(store: ModelStore) -> tuple[int | None, str | None, str | None, bool]:
    """Version and digest that serve, digest that does not load, readiness."""
    found = store.live().get(tiny.MODEL)
    live = (found.version, found.bundle.digest) if found else (None, None)
    return (*live, store.failure(tiny.MODEL)["failed_digest"], store.is_ready())


def damage(root: Place, bundle: Bundle) -> None:
    path = bundle_folder(root, tiny.MODEL, bundle.digest) / "mean.npy"
    content = bytearray(read(path) or b"")
    content[-1] ^= 1
    write(path, bytes(content))


def test_follows_the_pointer_and_logs_one_line_a_swap(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tiny.bundle(place, 0.0), tiny.bundle(place, 1.0)
    store = ModelStore(place)
    with caplog.at_level(logging.INFO):
        store.refresh()
        assert state(store) == (None, None, None, True)
        for version, bundle in enumerate((first, second, first), start=1):
            tiny.release(place, bundle.digest, version=version)
            store.refresh()
            store.refresh()
            assert state(store) == (version, bundle.digest, None, True)
        remove_pointer(place, tiny.MODEL, expected_digest=first.digest)
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


def test_a_bad_bundle_keeps_the_old_model_and_a_good_one_clears_the_error(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = tiny.bundle(place, 0.0), tiny.bundle(place, 1.0)
    damage(place, second)
    tiny.release(place, first.digest, version=1)
    store = loaded(place)
    for digest in (second.digest, "0" * 64, "../" + "0" * 61):
        tiny.release(place, digest, version=2)
        store.refresh()
        assert state(store) == (1, first.digest, digest, True)
        caplog.clear()
        store.refresh()
        assert not caplog.records, "a bad bundle is told of once, only bad storage is asked again"
    tiny.release(place, first.digest, version=3)
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


def test_a_start_with_a_bad_target_comes_back_to_the_previous_release(place: Place) -> None:
    first, second = tiny.bundle(place, 0.0), tiny.bundle(place, 1.0)
    tiny.release(place, first.digest, version=1)
    tiny.release(place, second.digest, version=2)
    damage(place, second)
    assert state(loaded(place)) == (1, first.digest, second.digest, True)
    damage(place, first)
    assert state(loaded(place)) == (None, None, second.digest, False)


def test_one_bad_model_does_not_hold_up_another(place: Place) -> None:
    other = tiny.bundle(place, model="other")
    tiny.release(place, other.digest, model="other")
    tiny.release(place, "0" * 64)
    store = loaded(place)
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


def test_storage_that_fails_for_a_moment_is_asked_again(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place_at(s3)
    first, second = tiny.bundle(root, 0.0), tiny.bundle(root, 1.0)
    tiny.release(root, first.digest, version=1)
    serving = loaded(root)
    tiny.release(root, second.digest, version=2)

    def down(*_: object) -> None:
        raise StoreError("does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("mlcicd_assets.serving.models.load_bundle", down)
        serving.refresh()
    assert state(serving) == (1, first.digest, second.digest, True)
    serving.refresh()
    assert state(serving) == (2, second.digest, None, True)
