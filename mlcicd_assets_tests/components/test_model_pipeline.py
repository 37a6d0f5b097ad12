"""The component and the entry point: any folder of models, checked before anything runs."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from mlcicd_assets import definitions
from mlcicd_assets.ml.errors import SettingsError
from mlcicd_assets_tests.conftest import ROOT
from mlcicd_assets_tests.small_model import attributes

ASSETS = [
    "raw_data",
    "validated_features",
    "trained_model",
    "evaluation_report",
    "deployed_endpoint",
    "evaluation_page",
]


def plant(folder: Path, name: str, **changes: Any) -> Path:
    """Write a model folder with a defs.yaml, as a user would."""
    model = folder / name
    model.mkdir(parents=True)
    content = {
        "type": "mlcicd_assets.components.ModelPipeline",
        "attributes": attributes(name=name, **changes),
    }
    (model / "defs.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return model


def load() -> dg.Definitions:
    return definitions.defs()


def test_the_packaged_model_loads_with_its_six_assets() -> None:
    graph = load().resolve_asset_graph()
    assert graph.get_all_asset_keys() == {dg.AssetKey(["card_fraud", name]) for name in ASSETS}
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.group_name == "card_fraud"
        assert node.owners == ["team:fraud"]
        assert node.description
        assert node.kinds
        assert node.code_version
    dg.Definitions.validate_loadable(load())


def test_every_gate_is_a_blocking_check() -> None:
    checks = load().resolve_asset_graph().asset_check_keys
    found = {(key.asset_key.path[-1], key.name) for key in checks}
    data = {"feature_sanity", "point_in_time", "volume", "freshness"}
    data |= {"contract", "column_history", "duplicates"}
    model = {"metric_floors", "not_worse_than_champion", "scorer_parity", "leakage"}
    model |= {"label_maturity", "calibration", "slices", "serving_trial"}
    shown = ("deployed_endpoint", "no_override_in_force")
    assert found == {
        ("raw_data", "contract"),
        *{("validated_features", name) for name in data},
        *{("evaluation_report", name) for name in model},
        shown,
    }
    graph = load().resolve_asset_graph()
    assert {key.name for key in checks if not graph.get(key).blocking} == {shown[1]}


def test_job_schedule_and_sensor_run_by_default() -> None:
    loaded = load()
    job = loaded.resolve_job_def("card_fraud_cicd")
    assert job.executor_def.name == "in_process_or_docker"
    assert len(job.asset_layer.executable_asset_keys) == len(ASSETS) - 1
    sensor = loaded.resolve_sensor_def("card_fraud_new_data")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert loaded.resolve_schedule_def("card_fraud_schedule").cron_schedule == "0 6 * * 1"


def test_another_folder_of_models_is_loaded_by_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "first_model")
    plant(tmp_path / "nested", "second_model")
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path))
    groups = {key.path[0] for key in load().resolve_asset_graph().get_all_asset_keys()}
    assert groups == {"first_model", "second_model"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLCICD_DEFS", "/no/such/folder"),
        ("MLCICD_ENDPOINTS", "127.0.0.1:8900"),
        ("MLCICD_LEDGER_URL", "ledger.db"),
        ("MLCICD_EXECUTOR", "multiprocess"),
        ("MLCICD_HOME", " "),
        ("MLCICD_SERVING_IMAGE", "mlcicd-serving:latest"),
        ("MLCICD_TOKEN", ""),
    ],
)
def test_a_wrong_variable_is_named_when_definitions_load(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training__estimator": "KMeans"}, ["estimator", "KMeans"]),
        ({"split__holdout_days": "many"}, ["holdout_days"]),
        ({"gates__flors": {}}, ["flors"]),
        ({"description": "{{ env.SECRET }}"}, ["not substituted"]),
        ({"features__columns": ["amuont"]}, ["amuont", "contract.columns"]),
    ],
)
def test_a_mistake_in_the_yaml_is_pointed_at(
    changes: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "wrong", **changes)
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path))
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        load()
    chain = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__
    text = "\n".join(chain)
    for word in [*words, "defs.yaml"]:
        assert word in text


def test_a_rule_that_is_no_sql_fails_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "wrong", contract__rules=[{"name": "odd", "check": "amount <=> ("}])
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path))
    with pytest.raises(Exception, match=r"(?s).*") as caught:
        load()
    assert "odd" in str(caught.value.__cause__)


def test_loading_the_location_imports_no_heavy_library() -> None:
    heavy = [
        "mlflow",
        "sklearn",
        "pandas",
        "evidently",
        "skops",
        "dagster_mlflow",
        "scipy",
        "docker",
    ]
    code = (
        "import sys; from mlcicd_assets.definitions import defs; defs();"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_readme_beside_a_model_describes_its_endpoint_and_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "**Cost of errors.** A missed one costs a lot."
    (plant(tmp_path, "told") / "README.md").write_text(
        f"# Told\n\n{words}\n\n## History\n\nLong.\n"
    )
    plant(tmp_path, "untold")
    monkeypatch.setenv("MLCICD_DEFS", str(tmp_path))
    loaded = load()
    for model in ("told", "untold"):
        endpoint = loaded.resolve_asset_graph().get(dg.AssetKey([model, "deployed_endpoint"]))
        job = loaded.resolve_job_def(f"{model}_cicd")
        assert [words in (one.description or "") for one in (endpoint, job)] == [
            model == "told",
            model == "told",
        ]
        assert "Long" not in str(endpoint.description)
