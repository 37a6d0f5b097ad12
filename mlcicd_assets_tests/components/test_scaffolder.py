"""`dg scaffold defs` writes the model that `mlcicd new` writes."""

import json
from pathlib import Path

import click
import dagster as dg
import pytest
from dagster.components.component_scaffolding import scaffold_object
from dagster.components.scaffold.scaffold import get_scaffolder

from mlcicd_assets.components import ModelPipeline
from mlcicd_assets.components.scaffolder import ModelPipelineScaffolder
from mlcicd_assets.io.profile import write_model
from mlcicd_assets.ml.proposal import Choices
from mlcicd_assets_tests.e2e.test_dg import dg as run_dg
from mlcicd_assets_tests.io.tables import machines, store

TYPE = "mlcicd_assets.components.ModelPipeline"


def scaffold(folder: Path, form: str = "yaml", **params: object) -> None:
    scaffold_object(folder, TYPE, json.dumps(params), form, None)


def test_it_writes_what_new_writes(tmp_path: Path) -> None:
    place = store(machines(rows=300), tmp_path, "csv")
    scaffold(tmp_path / "machines", path=place, label="outcome", key=["reading_id"], positive="no")
    choices = Choices("outcome", None, ("reading_id",), "no")
    path = write_model(tmp_path / "m", "machines", place, choices)
    assert (tmp_path / "machines" / "defs.yaml").read_text() == path.read_text()
    assert (tmp_path / "machines" / "README.md").is_file()
    assert isinstance(get_scaffolder(ModelPipeline), ModelPipelineScaffolder)
    assert issubclass(ModelPipelineScaffolder, dg.Scaffolder)


def test_what_is_not_clear_is_one_line_and_the_next_attempt_can_have_the_name(
    tmp_path: Path,
) -> None:
    place = store(machines(rows=300), tmp_path, "csv")
    folder = tmp_path / "machines"
    with pytest.raises(click.ClickException, match=r"choose from is_new, outcome \(--label\)"):
        scaffold(folder, path=place)
    assert not folder.exists()
    with pytest.raises(click.ClickException, match="of its own"):
        scaffold(folder, "python", path=place, label="outcome")
    scaffold(folder, path=place, label="outcome")
    with pytest.raises(click.ClickException, match="is there already"):
        scaffold(folder, path=place, label="outcome")
    assert (folder / "defs.yaml").is_file()


@pytest.mark.ci
def test_dg_scaffolds_and_checks_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\n'
        'registry_modules = ["mlcicd_assets.components"]\n'
    )
    (tmp_path / "shop" / "defs").mkdir(parents=True)
    (tmp_path / "shop" / "__init__.py").touch()
    place = store(machines(rows=300), tmp_path, "csv")
    words = ("scaffold", "defs", TYPE, "machines", "--path", place)
    unclear = run_dg(*words, folder=tmp_path)
    assert unclear.returncode == 1
    assert "Error: the label column is needed" in unclear.stderr
    done = run_dg(*words, "--label", "outcome", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shop/defs/machines/defs.yaml").is_file()
    checked = run_dg("check", "yaml", folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
