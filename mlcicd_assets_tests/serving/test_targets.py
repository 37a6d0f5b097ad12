"""What the server, and `mlcicd score`, answer for several classes, a number, and an old bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.cli.score import score
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.ml.scoring import ExportedModel
from mlcicd_assets.serving.app import App
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.serving.driving import Reply, ask, loaded, serving

MODEL = f"/v2/models/{tiny.MODEL}"
ROW = {"amount": 250.5, "channel": "online", "rate": None}
TEXTS, CODES = ["fine", "worn", "broken"], [7, 3, 5]
THEN: dict[str, Any] = {"column": "bad", "positive": 1, "matures_after_days": 7}  # first release
LABELS: dict[str, tuple[dict[str, Any], str | None]] = {
    "texts": ({"target": "multiclass", "classes": TEXTS}, "BYTES"),
    "codes": ({"target": "multiclass", "classes": CODES}, "INT64"),
    "number": ({"target": "regression", "classes": []}, None),
    "old": (THEN, "BOOL"),
}


def released(root: Path, kind: str, model: str = tiny.MODEL) -> Bundle:
    exported, several = tiny.linear(0.25), bool(LABELS[kind][0].get("classes"))
    link: dict[str, Any] = {} if kind == "old" else {"format": 2, "combine": "identity"}
    arrays = exported.arrays
    if several:
        link |= {"combine": "softmax", "intercept": [0.1, 0.2, 0.3]}
        lines = np.outer([1.0, -1.0, 0.5], arrays["coefficient"])
        arrays = {**arrays, "coefficient": lines}
    made = tiny.bundle(
        root,
        model=model,
        exported=ExportedModel({**exported.meta, **link}, arrays),
        threshold=0.5 if kind == "old" else None,
        definitions={"label": LABELS[kind][0]},
    )
    tiny.release(root, made.digest, version=3, model=model)
    return made


def infer(app: App, **more: Any) -> Reply:
    data = {"amount": [1.0, 250.5], "channel": ["chip", "online"], "rate": [0.25, None]}
    inputs = [
        {"name": name, "shape": [2], "datatype": "BYTES" if name == "channel" else "FP64"}
        | {"data": values}
        for name, values in data.items()
    ]
    body = json.dumps({"inputs": inputs, **more}).encode()
    return ask(app, "POST", f"{MODEL}/infer", body=body)


@pytest.mark.parametrize("kind", LABELS)
def test_each_target_is_described_and_answered(kind: str, tmp_path: Path) -> None:
    label, datatype = LABELS[kind]
    made, classes = released(tmp_path, kind), label.get("classes", [])
    app, scores = App(loaded(tmp_path), token=None), made.golden_scores[:2]
    taken = [classes[n] for n in scores.argmax(axis=1)] if classes else (scores >= 0.5).tolist()
    shape = [len(classes)] if classes else []
    scored = {"name": "score", "datatype": "FP64", "shape": [2, *shape], "data": scores.tolist()}
    decision = {"name": "decision", "datatype": datatype, "shape": [2], "data": taken}
    outputs = [scored, *([decision] if datatype else [])]
    described = ask(app, "GET", MODEL).content
    assert described["outputs"] == [
        {"name": one["name"], "datatype": one["datatype"], "shape": [-1, *one["shape"][1:]]}
        for one in outputs
    ]
    assert described["parameters"].get("classes", []) == classes
    assert described["parameters"]["threshold"] == made.threshold
    assert infer(app).content["outputs"] == outputs
    assert infer(app, outputs=[{"name": "score"}]).content["outputs"] == [scored]
    wanted = infer(app, outputs=[{"name": "decision"}])
    if datatype:
        assert wanted.content["outputs"] == [decision]
    else:
        assert wanted.status == 400
        assert "predicts a number: its only output is 'score'" in wanted.content["error"]
    answer = ask(app, "POST", "/predict", body=json.dumps({"row": ROW}).encode()).content
    one = scores[1].tolist()
    named = dict(zip(map(str, classes), one, strict=True)) if classes else one
    expected: dict[str, Any] = {"model": tiny.MODEL, "version": 3, "score": named}
    expected |= {"decision": taken[1]} if datatype else {}
    assert answer == expected | ({"threshold": 0.5} if kind == "old" else {})


def test_the_command_line_tells_the_score_of_each_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {
        "texts": "score fine {:.6f}, score worn {:.6f}, score broken {:.6f}, decision worn",
        "codes": "score 7 {:.6f}, score 3 {:.6f}, score 5 {:.6f}, decision 3",
        "number": "score {:.6f}",
        "old": "score {:.6f} (threshold 0.500000)",
    }
    made = {kind: released(tmp_path, kind, model=kind) for kind in LABELS}
    with serving(tmp_path) as server:
        monkeypatch.setenv("MLCICD_RELEASES", str(tmp_path))
        monkeypatch.setenv("MLCICD_ENDPOINTS", server.url)
        for kind, line in told.items():
            scores = line.format(*np.atleast_1d(made[kind].golden_scores[0]))
            score(kind)
            live = f"live: {kind} v3 at {server.url}/v2/models/{kind} {scores} for a sample row\n"
            assert capsys.readouterr().out == live
