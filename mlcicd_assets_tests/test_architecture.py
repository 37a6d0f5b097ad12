"""The structure itself: import rules, file sizes, one-line module docstrings."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mlcicd_assets_tests.conftest import ROOT

FILES = sorted((ROOT / "mlcicd_assets").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring
    assert docstring.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("room", ["ml", "io", "serving", "cli", "simulation"])
def test_no_room_below_orchestration_loads_dagster(room: str) -> None:
    code = (
        f"import importlib, pkgutil, sys, mlcicd_assets.{room} as room\n"
        "for module in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'dagster'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


LOCKS = sorted([ROOT / "requirements.lock", *(ROOT / "deploy").glob("*.lock")])


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_nothing_committed_names_a_registry(path: Path) -> None:
    lock = path.read_text()
    assert "--hash=sha256:" in lock
    assert "://" not in lock
    assert "index-url" not in lock
    assert not (ROOT / "uv.lock").exists()


@pytest.mark.parametrize("name", ["build", "pipeline", "serving"])
def test_an_image_holds_the_versions_of_the_lock(name: str) -> None:
    def pins(path: Path) -> set[str]:
        return {line.split(" ")[0] for line in path.read_text().splitlines() if line[:1].isalpha()}

    held = pins(ROOT / "deploy" / f"{name}.lock")
    assert held
    assert held <= pins(ROOT / "requirements.lock"), "run: make lock"


def test_the_server_imports_nothing_that_its_image_lacks() -> None:
    code = (
        "import sys\nfrom importlib.metadata import packages_distributions\n"
        "import mlcicd_assets.cli.main, mlcicd_assets.serving.server\n"
        "import httptools, uvloop, uvicorn.loops.uvloop, uvicorn.protocols.http.httptools_impl\n"
        "known = packages_distributions()\n"
        "tops = {name.split('.')[0] for name in sys.modules}\n"
        "print(*{owner for top in tops for owner in known.get(top, ())})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lock = (ROOT / "deploy" / "serving.lock").read_text()
    # Imported where they are, wanted by nobody: by a .pth file, and by uvicorn's choice.
    optional = {"setuptools", "mlcicd-assets", "anyio", "watchfiles"}
    used = {name.lower().replace("_", "-") for name in done.stdout.split()} - optional
    assert [name for name in sorted(used) if f"\n{name}==" not in f"\n{lock}"] == []


def test_nothing_unpickles_a_file() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text())
        names = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in getattr(node, "names", [])
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert not names & {"pickle", "cloudpickle", "joblib", "dill", "shelve"}, path
        assert "allow_pickle=True" not in path.read_text()
