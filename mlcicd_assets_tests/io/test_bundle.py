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
from mlcicd_assets.ml.errors import BundleError, DigestMismatch
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.scoring import ExportedModel
from mlcicd_assets_tests.io import tiny


def folder_of(root: Path, bundle: Bundle) -> Path:
    return bundle_folder(root, tiny.MODEL, bundle.digest)


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    loaded = load_bundle(tmp_path, tiny.MODEL, made.digest)
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


def test_equal_content_has_an_equal_digest_and_is_written_once(tmp_path: Path) -> None:
    first = tiny.bundle(tmp_path / "a")
    inode = folder_of(tmp_path / "a", first).stat().st_ino
    assert tiny.bundle(tmp_path / "a").digest == tiny.bundle(tmp_path / "b").digest == first.digest
    assert folder_of(tmp_path / "a", first).stat().st_ino == inode
    assert [p.name for p in folder_of(tmp_path / "a", first).parent.iterdir()] == [first.digest]


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


TAMPER: dict[str, Callable[[Path], Any]] = {
    "changed document": lambda f: (f / "model.json").write_text("{}"),
    "changed array": lambda f: (f / "mean.npy").write_bytes(b"\x93NUMPY"),
    "missing array": lambda f: (f / "mean.npy").unlink(),
    "missing document": lambda f: (f / "model.json").unlink(),
    "extra file": lambda f: (f / "model.pkl").write_bytes(b"x"),
    "extra folder": lambda f: (f / "code").mkdir(),
    "link": linked,
}


@pytest.mark.parametrize("how", TAMPER)
def test_a_changed_folder_is_refused(tmp_path: Path, how: str) -> None:
    made = tiny.bundle(tmp_path)
    TAMPER[how](folder_of(tmp_path, made))
    with pytest.raises(DigestMismatch):
        load_bundle(tmp_path, tiny.MODEL, made.digest)
    with pytest.raises(DigestMismatch):
        tiny.bundle(tmp_path)


def test_too_large_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.bundle(tmp_path)
    monkeypatch.setattr("mlcicd_assets.io.bundle.MAX_BYTES", 1_000)
    with pytest.raises(DigestMismatch, match="over 1 GiB"):
        load_bundle(tmp_path, tiny.MODEL, made.digest)


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
    folder = folder_of(tmp_path, tiny.bundle(tmp_path))
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


def test_what_would_not_score_as_now_leaves_nothing_behind(tmp_path: Path) -> None:
    rate = np.array([0, np.inf, 0])  # JSON has no word for it
    with pytest.raises(BundleError):
        tiny.bundle(tmp_path, golden={**tiny.ROWS, "rate": rate})
    assert list(tmp_path.iterdir()) == []


def test_no_such_bundle_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="train again"):
        load_bundle(tmp_path, tiny.MODEL, "0" * 64)


def test_writers_at_once_end_with_one_whole_bundle(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlcicd_assets_tests.io import tiny\n"
        "print(*{tiny.bundle(Path(sys.argv[1]), i / 8).digest for i in range(8)})"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {frozenset(writer.communicate()[0].split()) for writer in writers}
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(digests) == 1
    names = {path.name for path in (tmp_path / tiny.MODEL / "bundles").iterdir()}
    assert names == set(next(iter(digests)))
    for digest in names:
        check_golden(load_bundle(tmp_path, tiny.MODEL, digest))
