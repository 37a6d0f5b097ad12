"""The evaluation page: real Evidently beside the release, never in its way."""

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from mlcicd_assets.cli.page import page as page_command
from mlcicd_assets.io import page
from mlcicd_assets.io.page import page_path, render_page
from mlcicd_assets.io.registry import digest_of
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import BundleError, PageError, ReleaseError
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.small_model import metadata, outcomes, run_job
from mlcicd_assets_tests.target_models import land, machine_spec, world

NAME = "machines"
FEW = {"serving": None, "golden_set": [], "fairness": None}


def spec_of(target: str) -> PipelineSpec:
    gates = machine_spec(target).gates.model_dump(mode="json")
    return machine_spec(target, gates={**gates, **FEW})


def materialize(target: str, only: str | None = None) -> dg.ExecuteInProcessResult:
    """All assets of the group, as 'Materialize all' does, or one of them."""
    everything = build_pipeline(spec_of(target))
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            everything.assets,
            selection=dg.AssetSelection.assets([NAME, only]) if only else None,
            resources=dict(everything.resources or {}),
            instance=instance,
            raise_on_error=False,
        )


@pytest.mark.ci
@pytest.mark.parametrize("target", ["multiclass", "regression"])
def test_the_page_is_kept_once_and_rendered_on_demand(
    target: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = pl.col("heat") + pl.when(pl.col("at").dt.ordinal_day() > 105).then(40).otherwise(0)
    land(world().with_columns(heat=shifted))
    run_job(spec_of(target))
    assert outcomes(NAME) == ["blocked"]  # then people want to look
    told = metadata(materialize(target, "evaluation_page"), "evaluation_page", NAME)
    assert told["inputs"] == 3
    assert told["drifted_inputs"] >= 1
    assert "heat" in told["drift"].splitlines()[2]
    assert told["seconds"] > 0

    again = metadata(materialize(target, "evaluation_page"), "evaluation_page", NAME)
    assert again["seconds"] == 0
    assert {**again, "seconds": 0} == {**told, "seconds": 0}
    settings, out = Settings.from_env(), tmp_path / "page.html"
    with pytest.raises(ReleaseError, match="say which --version"):
        page_command(NAME, out=out)
    with pytest.raises(BundleError, match="no version 9"):
        page_command(NAME, version=9, out=out)
    page_command(NAME, version=1, out=out)
    html = out.read_text()
    assert "heat" in html
    assert len(html) > 1_000_000
    with pytest.raises(PageError, match="has no page of bundle"):
        render_page(settings, NAME, "0" * 64)

    page_path(settings, NAME, digest_of(settings, NAME, 1)).unlink()
    monkeypatch.setattr(page, "MOST_SECONDS", 0.05)
    assert "took over 0.05 s" in failure(materialize(target, "evaluation_page"))


def failure(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    return json.dumps([str(e.event_specific_data) for e in result.all_events if e.is_step_failure])


@pytest.mark.ci
def test_a_page_that_fails_says_so_and_the_release_does_not_need_it(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(world())
    monkeypatch.setattr(page, "_write_frames", lambda *_: None)
    result = materialize("regression")
    assert outcomes(NAME) == ["released"]
    steps = [event.step_key for event in result.all_events if event.is_step_start]
    assert steps[-1] == f"{NAME}__evaluation_page"
    assert "Evidently failed" in failure(result)
    assert "FileNotFoundError" in failure(result)


def test_the_job_from_commit_to_live_has_no_page(home: Path) -> None:
    job = build_pipeline(spec_of("regression")).resolve_job_def(f"{NAME}_cicd")
    names = {key.path[-1] for key in job.asset_layer.executable_asset_keys}
    assert "deployed_endpoint" in names
    assert "evaluation_page" not in names
