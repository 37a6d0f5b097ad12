"""Where images are released: the asset comes before the endpoint; elsewhere it is not there."""

import dagster as dg
import pytest

from mlcicd_assets.orchestration.pipeline import build_pipeline
from mlcicd_assets_tests.small_model import MODEL, small_spec

IMAGE, ENDPOINT, REPORT = (
    dg.AssetKey([MODEL, name])
    for name in ("serving_image", "deployed_endpoint", "evaluation_report")
)


def test_it_stands_between_report_and_endpoint_and_in_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLCICD_SERVING_IMAGE", f"127.0.0.1:5000/serving@sha256:{'a' * 64}")
    built = build_pipeline(small_spec())
    graph = built.resolve_asset_graph()
    assert graph.get(IMAGE).parent_keys == {REPORT}
    assert graph.get(ENDPOINT).parent_keys == {REPORT, IMAGE}
    nodes = [node.name for node in built.resolve_job_def(f"{MODEL}_cicd").nodes]
    assert f"{MODEL}__serving_image" in nodes


def test_without_a_serving_image_there_is_no_such_asset() -> None:
    graph = build_pipeline(small_spec()).resolve_asset_graph()
    assert not graph.has(IMAGE)
    assert graph.get(ENDPOINT).parent_keys == {REPORT}
