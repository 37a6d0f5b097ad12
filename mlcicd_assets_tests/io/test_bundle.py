"""Bundles on disk: equal content, equal name; anything else is refused before it is read."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.io.bundle import Bundle, check_golden, load_bundle, write_bundle
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.ml.errors import BundleError, DigestMismatch, SchemaMismatch
from mlcicd_assets.ml.scoring import ExportedModel
from mlcicd_assets_tests.io import tiny


def folder_of(root: Path, bundle: Bundle) -> Path:
    return bundle_folder(root, tiny.MODEL, bundle.digest)


def rename_to_content(folder: Path) -> str:
    """Give a tampered folder the digest of its content, as an attacker would."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = "".join(
        f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in files
    )
    digest = hashlib.sha256(lines.encode()).hexdigest()
    folder.rename(folder.with_name(digest))
    return digest


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
    check_golden(loaded)


def test_equal_content_has_an_equal_digest_and_is_written_once(tmp_path: Path) -> None:
    first = tiny.bundle(tmp_path / "a")
    inode = folder_of(tmp_path / "a", first).stat().st_ino
    assert tiny.bundle(tmp_path / "a").digest == tiny.bundle(tmp_path / "b").digest == first.digest
    assert folder_of(tmp_path / "a", first).stat().st_ino == inode
    assert [p.name for p in folder_of(tmp_path / "a", first).parent.iterdir()] == [first.digest]
    assert rename_to_content(folder_of(tmp_path / "a", first)) == first.digest


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
    same: dict[str, Any] = {
        "model": tiny.MODEL,
        "exported": tiny.linear(),
        "columns": tiny.COLUMNS,
        "threshold": 0.5,
        "definitions": {"windows": []},
        "train_until": "2026-01-01T00:00:00Z",
        "golden": tiny.ROWS,
    }
    first = tiny.bundle(tmp_path)
    assert write_bundle(tmp_path, **same).digest == first.digest
    assert write_bundle(tmp_path, **{**same, **change}).digest != first.digest


TAMPER: dict[str, Callable[[Path], Any]] = {
    "changed document": lambda f: (f / "model.json").write_text("{}"),
    "changed array": lambda f: (f / "arrays/mean.npy").write_bytes(b"\x93NUMPY"),
    "missing array": lambda f: (f / "arrays/mean.npy").unlink(),
    "missing document": lambda f: (f / "features.json").unlink(),
    "extra file": lambda f: (f / "model.pkl").write_bytes(b"x"),
    "extra array": lambda f: (f / "arrays/more.npy").write_bytes(b"x"),
    "extra folder": lambda f: (f / "code").mkdir(),
    "deeper folder": lambda f: (f / "arrays/more.npy").mkdir(),
    "hidden file": lambda f: (f / ".pth").write_bytes(b"x"),
    "no arrays": lambda f: shutil.rmtree(f / "arrays"),
}


@pytest.mark.parametrize("how", TAMPER)
def test_a_changed_folder_is_refused(tmp_path: Path, how: str) -> None:
    made = tiny.bundle(tmp_path)
    TAMPER[how](folder_of(tmp_path, made))
    with pytest.raises(DigestMismatch):
        load_bundle(tmp_path, tiny.MODEL, made.digest)
    with pytest.raises(DigestMismatch):
        tiny.bundle(tmp_path)


@pytest.mark.parametrize("linked", ["model.json", "arrays", "arrays/mean.npy", "."])
def test_links_are_refused_even_to_equal_content(tmp_path: Path, linked: str) -> None:
    made = tiny.bundle(tmp_path)
    path = folder_of(tmp_path, made) / linked
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(DigestMismatch):
        load_bundle(tmp_path, tiny.MODEL, made.digest)


def test_a_file_over_the_cap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.bundle(tmp_path)
    monkeypatch.setattr("mlcicd_assets.io.bundle.MAX_BYTES", 1_500)
    with pytest.raises(DigestMismatch, match="larger"):
        load_bundle(tmp_path, tiny.MODEL, made.digest)


def replaced(path: str, old: bytes, new: bytes) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        content = (folder / path).read_bytes()
        assert old in content
        (folder / path).write_bytes(content.replace(old, new))

    return change


class Exploit:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploited"),))


def pickled(folder: Path) -> None:
    with (folder / "arrays/mean.npy").open("wb") as file:
        np.save(file, np.array([Exploit()], dtype=object), allow_pickle=True)


CRAFTED: dict[str, Callable[[Path], Any]] = {
    "pickle": pickled,
    "not an array": lambda f: (f / "arrays/mean.npy").write_bytes(b"\x80\x04."),
    "header lies": replaced("arrays/mean.npy", b"(2,)", b"(9,)"),
    "two dimensions": replaced("arrays/mean.npy", b"(2,), ", b"(1,2),"),
    "other type": replaced("arrays/mean.npy", b"<f8", b"<i8"),
    "index array": replaced("arrays/mean.npy", b"<f8", b"<i4"),
    "array missing": lambda f: (f / "arrays/mean.npy").unlink(),
    "document missing": lambda f: (f / "golden.json").unlink(),
    "deep nesting": lambda f: (f / "features.json").write_bytes(b"[" * 100_000),
    "bad text": lambda f: (f / "features.json").write_bytes(b'{"a": "\xff"}'),
    "unknown field": replaced("model.json", b'"model"', b'"module"'),
    "other model": replaced("model.json", b'"card_fraud"', b'"other"'),
    "no threshold": replaced("model.json", b"0.5", b"null"),
    "unknown kind": replaced("model.json", b'"linear"', b'"code"'),
    "column kind": replaced("contract.json", b'"number"', b'"object"'),
    "column name": replaced("contract.json", b'"rate"', b'"rates"'),
    "golden kind": replaced("golden.json", b'"online"', b"1.5"),
    "golden rows": replaced("golden.json", b"250.5,", b""),
    "golden column": replaced("golden.json", b'"rate"', b'"rates"'),
}


@pytest.mark.parametrize("how", CRAFTED)
def test_a_crafted_bundle_with_a_true_digest_is_refused_unexecuted(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder_of(tmp_path, tiny.bundle(tmp_path))
    CRAFTED[how](folder)
    with pytest.raises(BundleError):
        load_bundle(tmp_path, tiny.MODEL, rename_to_content(folder))
    assert not Path("exploited").exists()


def test_golden_scores_off_by_more_than_the_tolerance_are_noticed(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    check_golden(replace(made, golden_scores=made.golden_scores + 9e-13))
    with pytest.raises(BundleError, match="golden"):
        check_golden(replace(made, golden_scores=made.golden_scores + 2e-12))
    with pytest.raises(BundleError, match="golden"):
        check_golden(replace(made, golden_scores=made.golden_scores * np.nan))


def test_parts_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    good: dict[str, Any] = {"threshold": 0.5, "golden": tiny.ROWS, "columns": tiny.COLUMNS}
    for change, error in (
        ({"threshold": float("nan")}, BundleError),
        ({"columns": tiny.COLUMNS[:2]}, BundleError),
        ({"golden": {name: values[:0] for name, values in tiny.ROWS.items()}}, BundleError),
        ({"golden": {"amount": tiny.ROWS["amount"]}}, SchemaMismatch),
        ({"golden": {**tiny.ROWS, "rate": np.array([0, np.inf, 0])}}, BundleError),
        ({"exported": ExportedModel({}, {})}, BundleError),
    ):
        parts = {"exported": tiny.linear(), **good, **change}
        with pytest.raises(error):
            write_bundle(tmp_path, model="m", definitions={}, train_until="", **parts)
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
