"""Bundles on disk: equal content, equal name; anything else is refused before it is read."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.io.bundle import Bundle, check_golden, load_bundle
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.store import Place, listing, remove, stamp, write
from mlcicd_assets.ml.errors import BundleError, DigestMismatch
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import ExportedModel
from mlcicd_assets_tests.io import tiny


def folder_of(root: Place, bundle: Bundle) -> Place:
    return bundle_folder(root, tiny.MODEL, bundle.digest)


def test_a_bundle_comes_back_as_it_was_written(place: Place) -> None:
    made = tiny.bundle(place)
    loaded = load_bundle(place, tiny.MODEL, made.digest)
    assert loaded.columns == tiny.COLUMNS
    assert (loaded.model, loaded.threshold) == (tiny.MODEL, 0.5)
    assert (loaded.definitions, loaded.train_until) == ({"windows": []}, "2026-01-01T00:00:00Z")
    for name, values in tiny.ROWS.items():
        np.testing.assert_array_equal(loaded.golden_columns[name], values)
        assert loaded.golden_columns[name].dtype == values.dtype
    np.testing.assert_array_equal(loaded.scorer.score(tiny.ROWS), made.golden_scores)


def test_categories_keep_the_order_of_the_matrix(tmp_path: Path) -> None:
    meta = {**tiny.linear().meta, "numbers": [], "categories": [["z", ["a"]], ["b", ["a"]]]}
    none = np.zeros(0)
    arrays = {"fill": none, "mean": none, "scale": none, "coefficient": np.array([1.0, -1.0])}
    golden = {
        name: np.array(["a", ""], dtype=object)[::step] for name, step in (("z", 1), ("b", -1))
    }
    made = tiny.bundle(
        tmp_path,
        exported=ExportedModel(meta, arrays),
        columns=(FeatureColumn("z", "category"), FeatureColumn("b", "category")),
        golden=golden,
    )
    assert made.scorer.score(golden).tolist() == made.golden_scores.tolist()
    assert made.golden_scores[0] > 0.5 > made.golden_scores[1]


def test_equal_content_has_an_equal_digest_and_is_written_once(place: Place) -> None:
    first = tiny.bundle(place / "a")
    document = folder_of(place / "a", first) / "model.json"
    before = stamp(document)
    assert tiny.bundle(place / "a").digest == tiny.bundle(place / "b").digest == first.digest
    assert before == stamp(document) != ""
    assert list(listing(place / "a" / tiny.MODEL / "bundles")) == [first.digest]


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.25},
        {"train_until": "2026-01-02T00:00:00Z"},
        {"definitions": {"windows": [7]}},
        {"exported": tiny.linear(0.5)},
        {"golden": {name: values[:2] for name, values in tiny.ROWS.items()}},
        {"columns": (replace(tiny.COLUMNS[0], max=999), *tiny.COLUMNS[1:])},
    ],
)
def test_any_other_content_has_another_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    assert tiny.bundle(tmp_path, **change).digest != tiny.bundle(tmp_path).digest


def linked(folder: Path) -> None:
    (folder / "mean.npy").rename(folder.parent / "elsewhere")
    (folder / "mean.npy").symlink_to(folder.parent / "elsewhere")


TAMPER: dict[str, Callable[[Any], Any]] = {
    "changed document": lambda f: write(f / "model.json", b"{}"),
    "changed array": lambda f: write(f / "mean.npy", b"\x93NUMPY"),
    "emptied array": lambda f: write(f / "mean.npy", b""),
    "missing array": lambda f: remove(f / "mean.npy"),
    "missing document": lambda f: remove(f / "model.json"),
    "extra file": lambda f: write(f / "model.pkl", b"x"),
    "extra folder": lambda f: write(f / "code" / "x", b"x"),
}


def refuse(root: Place, made: Bundle) -> None:
    with pytest.raises(DigestMismatch):
        load_bundle(root, tiny.MODEL, made.digest)


@pytest.mark.parametrize("how", TAMPER)
def test_a_changed_folder_is_refused(place: Place, how: str) -> None:
    made = tiny.bundle(place)
    TAMPER[how](folder_of(place, made))
    refuse(place, made)
    if "missing" in how and not isinstance(place, Path):
        # A crash between two objects looks like this: writing again completes it.
        assert tiny.bundle(place).digest == made.digest
        return
    with pytest.raises(DigestMismatch):
        tiny.bundle(place)
    refuse(place, made)


def test_a_link_is_refused(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    linked(bundle_folder(tmp_path, tiny.MODEL, made.digest))
    refuse(tmp_path, made)


def test_too_large_a_folder_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.bundle(place)
    monkeypatch.setattr("mlcicd_assets.io.bundle.MAX_BYTES", 1_000)
    with pytest.raises(DigestMismatch, match="over 1 GiB"):
        load_bundle(place, tiny.MODEL, made.digest)


class Exploit:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploited"),))


def pickled(folder: Path) -> None:
    with (folder / "mean.npy").open("wb") as file:
        np.save(file, np.array([Exploit()], dtype=object), allow_pickle=True)


def replaced(old: bytes, new: bytes) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        content = (folder / "model.json").read_bytes()
        assert old in content
        (folder / "model.json").write_bytes(content.replace(old, new))

    return change


CRAFTED: dict[str, Callable[[Path], Any]] = {
    "pickle": pickled,
    "not an array": lambda f: (f / "mean.npy").write_bytes(b"\x80\x04."),
    "document missing": lambda f: (f / "model.json").unlink(),
    "other model": replaced(b'"card_fraud"', b'"other"'),
    "no threshold": replaced(b"0.5", b"null"),
    "other version": replaced(b'"format": 1', b'"format": 3'),
    "other field": replaced(b'"kind": "linear"', b'"sort": "linear"'),
}


@pytest.mark.parametrize("how", CRAFTED)
def test_a_crafted_bundle_with_a_true_digest_is_refused_unexecuted(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = bundle_folder(tmp_path, tiny.MODEL, tiny.bundle(tmp_path).digest)
    CRAFTED[how](folder)
    files = sorted(folder.iterdir())
    lines = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    folder.rename(folder.with_name(digest))
    with pytest.raises(BundleError, match=digest[:12] if "version" not in how else "format"):
        load_bundle(tmp_path, tiny.MODEL, digest)
    assert not Path("exploited").exists()


def test_golden_scores_off_by_more_than_the_tolerance_are_noticed(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    check_golden(replace(made, golden_scores=made.golden_scores + 9e-13))
    for off in (made.golden_scores + 2e-12, made.golden_scores * np.nan):
        with pytest.raises(BundleError, match="golden"):
            check_golden(replace(made, golden_scores=off))


def test_what_would_not_score_as_now_leaves_nothing_behind(place: Place) -> None:
    rate = np.array([0, np.inf, 0])  # JSON has no word for it
    with pytest.raises(BundleError):
        tiny.bundle(place, golden={**tiny.ROWS, "rate": rate})
    assert listing(place) == {}


def test_no_such_bundle_says_what_to_do(place: Place) -> None:
    with pytest.raises(BundleError, match="train again"):
        load_bundle(place, tiny.MODEL, "0" * 64)


def test_writers_at_once_end_with_one_whole_bundle(place: Place) -> None:
    code = (
        "import sys; from mlcicd_assets_tests.io import tiny\n"
        "from mlcicd_assets.io.store import place_at\n"
        "print(*{tiny.bundle(place_at(sys.argv[1]), i / 8).digest for i in range(8)})"
    )
    command = [sys.executable, "-c", code, str(place)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {frozenset(writer.communicate()[0].split()) for writer in writers}
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(digests) == 1
    names = set(listing(place / tiny.MODEL / "bundles"))
    assert names == set(next(iter(digests)))
    for digest in names:
        check_golden(load_bundle(place, tiny.MODEL, digest))
