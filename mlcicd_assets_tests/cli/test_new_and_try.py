"""From a table to a model that was tried, by command, as its author would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.io.tables import machines, store
from mlcicd_assets_tests.processes import mlcicd


@pytest.mark.parametrize(
    ("form", "kind", "words"),
    [
        ("csv", "binary", ["roc_auc", "threshold of an alert: 0."]),
        pytest.param("parquet", "multiclass", ["balanced_accuracy"], marks=pytest.mark.ci),
        pytest.param("delta", "regression", ["rmse"], marks=pytest.mark.ci),
    ],
)
def test_a_new_model_is_written_and_passes_a_try(
    form: str, kind: str, words: list[str], home: Path, tmp_path: Path
) -> None:
    place = store(machines(kind), tmp_path, form)
    models = tmp_path / "models"
    new = ("new", "machines", place, "--label", "outcome", "--to", str(models))
    made = mlcicd(*new)
    assert made.returncode == 0, made.stderr
    told = [line.strip() for line in made.stdout.splitlines()]
    landing = home / "landing" / "machines"
    defs = models / "machines" / "defs.yaml"
    assert told == [
        f"wrote {defs}: read it, correct it, then",
        f"mlcicd try {defs}" + (f" --data {place}" if form != "delta" else ""),
        *([f"mkdir -p {landing} && cp {place} {landing}/"] if form != "delta" else []),
        f"export MLCICD_DEFS={models}",
        "dagster job execute -m mlcicd_assets.definitions -j machines_cicd",
    ]
    tried = mlcicd(*told[1].split()[1:])
    assert tried.returncode == 0, tried.stdout + tried.stderr
    for word in ("serving_trial", "heat", "number 0 to 158", "eco, full, no", *words):
        assert word in tried.stdout
    assert re.search(r"\n +\d+\.\d s  drew 3,000 rows, trained HistGrad", tried.stdout)
    assert "it would be released." in tried.stdout
    again = mlcicd(*new)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "is there already" in again.stderr


def test_a_new_model_goes_where_the_models_are(home: Path, tmp_path: Path) -> None:
    place = store(machines(rows=100), tmp_path / "in", "parquet")
    words = ("new", "m", str(Path(place).parent), "--label", "outcome", "--positive", "no")
    told = mlcicd(*words, MLCICD_DEFS=str(tmp_path)).stdout
    assert (tmp_path / "m" / "defs.yaml").read_text().count("positive: 'no'") == 1
    assert "export" not in told
    assert f"cp {Path(place).parent}/* {home}/landing/m/" in told


@pytest.mark.parametrize(
    ("change", "gates", "ends"),
    [
        (("roc_auc: 0.6", "roc_auc: 0.99"), ["metric_floors"], "be blocked by metric_floors."),
        (("    floors", "    approval: {}\n    floors"), [], "await an approval."),
        # What came before an end without a model is still told.
        (("holdout_days: 11", "holdout_days: 900"), [], "change split in defs.yaml"),
    ],
)
def test_the_last_words_say_what_would_happen(
    change: tuple[str, str], gates: list[str], ends: str, home: Path, tmp_path: Path
) -> None:
    place = store(machines(), tmp_path, "csv")
    mlcicd("new", "machines", place, "--label", "outcome", "--to", str(tmp_path))
    defs = tmp_path / "machines" / "defs.yaml"
    defs.write_text(defs.read_text().replace(*change))
    done = mlcicd("try", str(defs), "--data", place)
    assert done.returncode == (0 if "approval" in ends else 1)
    assert ends in done.stdout + done.stderr
    assert re.findall(r"(\w+) +│ FAILED", done.stdout) == gates
    assert "feature_sanity" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "there is no file"), ("type: x", "must have 'type:"), ("a: [", "not one YAML")],
)
def test_a_wrong_file_is_one_readable_error(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "defs.yaml"
    if text is not None:
        path.write_text(text)
    done = mlcicd("try", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert str(path) in done.stderr
    assert done.stdout == ""


def test_neither_dagster_nor_mlflow_is_needed(home: Path, tmp_path: Path) -> None:
    place = store(machines(), tmp_path, "parquet")
    mlcicd("new", "machines", place, "--label", "outcome", "--to", str(tmp_path))
    defs = tmp_path / "machines" / "defs.yaml"
    code = (
        "import sys\n"
        "for name in ('mlflow', 'dagster', 'evidently'): sys.modules[name] = None\n"
        "from mlcicd_assets.cli.main import app\n"
        f"sys.argv = ['mlcicd', 'try', {str(defs)!r}, '--data', {place!r}]\n"
        "app()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in home.iterdir()] == ["mlflow.db"]  # put there by the fixture
