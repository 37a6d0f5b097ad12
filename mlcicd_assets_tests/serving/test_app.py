"""Routes, token, body limit and validation, with the ASGI app driven directly."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcicd_assets.io.releases import pointer_path
from mlcicd_assets.serving.app import App
from mlcicd_assets.serving.models import ModelStore
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.serving.driving import Reply, ask, loaded

INFER = "/v2/models/card_fraud/infer"
ROW = {"amount": 250.5, "channel": "online", "rate": None}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    tiny.release(tmp_path, tiny.bundle(tmp_path).digest, version=3)
    return loaded(tmp_path)


@pytest.fixture
def app(store: ModelStore) -> App:
    return App(store, token=None)


def tensors(**changes: Any) -> list[dict[str, Any]]:
    """Two rows; a change replaces parts of one tensor, None removes it."""
    good: dict[str, dict[str, Any]] = {
        "rate": {"datatype": "FP64", "shape": [2, 1], "data": [0.5, None]},
        "amount": {"datatype": "INT32", "shape": [2], "data": [1, 999]},
        "channel": {"datatype": "BYTES", "shape": [2], "data": ["chip", "online"]},
    }
    return [
        {"name": name, **tensor, **changes.get(name, {})}
        for name, tensor in good.items()
        if changes.get(name, {}) is not None
    ]


def infer(app: App, inputs: Any, **more: Any) -> Reply:
    return ask(app, "POST", INFER, body=json.dumps({"inputs": inputs, **more}).encode())


def predict(app: App, row: Any, **more: Any) -> Reply:
    return ask(app, "POST", "/predict", body=json.dumps({"row": row, **more}).encode())


def test_infer_gives_the_scorer_s_scores_and_decisions(app: App, store: ModelStore) -> None:
    columns = {
        "amount": np.array([1.0, 999.0]),
        "channel": np.array(["chip", "online"], dtype=object),
        "rate": np.array([0.5, np.nan]),
    }
    scores = store.live()["card_fraud"].bundle.scorer.score(columns).tolist()
    decisions = [score >= 0.5 for score in scores]
    assert set(decisions) == {True, False}
    reply = infer(app, tensors(), id="r1")
    assert (reply.status, reply.content) == (
        200,
        {
            "model_name": "card_fraud",
            "model_version": "3",
            "id": "r1",
            "outputs": [
                {"name": "score", "datatype": "FP64", "shape": [2], "data": scores},
                {"name": "decision", "datatype": "BOOL", "shape": [2], "data": decisions},
            ],
        },
    )


def test_nested_rows_requested_outputs_and_the_live_version(app: App) -> None:
    nested = tensors(rate={"data": [[0.5], [None]]})
    flat = infer(app, tensors()).content["outputs"]
    assert infer(app, nested).content["outputs"] == flat
    assert infer(app, nested, outputs=[{"name": "decision"}]).content["outputs"] == flat[1:]
    body = json.dumps({"inputs": tensors()}).encode()
    versioned = "/v2/models/card_fraud/versions/{}/infer"
    assert ask(app, "POST", versioned.format(3), body=body).status == 200
    assert ask(app, "POST", versioned.format(2), body=body).status == 404


def test_many_rows_are_scored_the_same_in_a_thread(app: App) -> None:
    n = 10_000
    many = [
        {"name": "rate", "datatype": "FP32", "shape": [n], "data": [0.5] * n},
        {"name": "amount", "datatype": "UINT16", "shape": [n], "data": [7] * n},
        {"name": "channel", "datatype": "BYTES", "shape": [n], "data": ["chip"] * n},
    ]
    scores = infer(app, many).content["outputs"][0]["data"]
    one = predict(app, {"amount": 7, "channel": "chip", "rate": 0.5}).content["score"]
    assert scores == [one] * n


def test_predict_scores_one_row(app: App, store: ModelStore) -> None:
    expected = store.live()["card_fraud"].bundle.golden_scores[1]
    answer = {
        "model": "card_fraud",
        "version": 3,
        "score": expected,
        "decision": bool(expected >= 0.5),
        "threshold": 0.5,
    }
    assert predict(app, ROW).content == predict(app, ROW, model="card_fraud").content == answer
    assert predict(app, {**ROW, "amount": True}).status == 200


def test_a_score_at_the_threshold_is_a_yes(tmp_path: Path) -> None:
    tiny.release(tmp_path, tiny.bundle(tmp_path, 0.2).digest)
    app = App(loaded(tmp_path), token=None)
    answer = predict(app, {"amount": 100, "channel": "chip", "rate": None}).content
    assert (answer["score"], answer["decision"]) == (0.5, True)
    both = tensors(
        amount={"data": [100] * 2}, channel={"data": ["chip"] * 2}, rate={"data": [None] * 2}
    )
    assert infer(app, both).content["outputs"][1]["data"] == [True, True]


def test_predict_wants_a_model_name_unless_one_is_live(tmp_path: Path, store: ModelStore) -> None:
    app = App(store, token=None)
    assert predict(app, ROW, model="other").status == 404
    tiny.release(tmp_path, tiny.bundle(tmp_path, model="other").digest, model="other")
    store.refresh()
    assert predict(app, ROW, model="other").content["model"] == "other"
    for model in (None, ""):
        assert predict(app, ROW, model=model).status in {400, 404}
    assert predict(App(ModelStore(tmp_path / "empty"), token=None), ROW).status == 400


def test_metadata_and_health(app: App, store: ModelStore) -> None:
    content = ask(app, "GET", "/v2/models/card_fraud").content
    assert content["inputs"] == [
        {"name": "amount", "datatype": "FP64", "shape": [-1]},
        {"name": "channel", "datatype": "BYTES", "shape": [-1]},
        {"name": "rate", "datatype": "FP64", "shape": [-1]},
    ]
    assert [output["name"] for output in content["outputs"]] == ["score", "decision"]
    assert content["versions"] == ["3"]
    assert content["parameters"] == {
        "version": 3,
        "digest": store.live()["card_fraud"].bundle.digest,
        "threshold": 0.5,
        "load_error": None,
        "failed_digest": None,
    }
    assert ask(app, "GET", "/v2/models/card_fraud/ready").content["ready"] is True
    assert ask(app, "GET", "/v2/models/card_fraud/versions/3").status == 200
    assert ask(app, "GET", "/v2/models/card_fraud/versions/4").status == 404
    assert ask(app, "GET", "/v2").content["name"] == "mlcicd"
    for kind in ("live", "ready"):
        reply = ask(app, "GET", f"/v2/health/{kind}")
        assert (reply.status, reply.content) == (200, {"live": True, "ready": True})


def test_a_pointer_without_a_model_is_not_ready_and_says_why(tmp_path: Path) -> None:
    made = tiny.bundle(tmp_path)
    (tmp_path / tiny.MODEL / "bundles" / made.digest / "model.json").unlink()
    tiny.release(tmp_path, made.digest)
    store = loaded(tmp_path)
    app = App(store, token=None)
    assert ask(app, "GET", "/v2/health/ready").status == 503
    assert ask(app, "GET", "/v2/health/live").content == {"live": True, "ready": False}
    reply = ask(app, "GET", "/v2/models/card_fraud")
    assert reply.status == 404
    assert reply.content["parameters"]["failed_digest"] == made.digest
    assert "digest" in reply.content["parameters"]["load_error"]
    assert ask(app, "GET", "/v2/models/card_fraud/ready").status == 404
    pointer_path(tmp_path, tiny.MODEL).unlink()
    store.refresh()
    assert ask(app, "GET", "/v2/health/ready").status == 200


WRONG_INPUTS: list[tuple[str, Any]] = [
    ("missing column 'rate'", tensors(rate=None)),
    ("unknown column", [*tensors(), {**tensors()[0], "name": "zzz-secret"}]),
    ("given twice", [*tensors(), tensors()[0]]),
    ("column 'amount': send n values", tensors(amount={"shape": [1, 2]})),
    ("column 'amount': send n values", tensors(amount={"shape": [2, 1, 1]})),
    ("column 'amount': send n values", tensors(amount={"data": [1]})),
    ("n from 1 to 10000", tensors(amount={"shape": [], "data": []})),
    ("n from 1 to 10000", tensors(amount={"shape": [0], "data": []})),
    ("n from 1 to 10000", tensors(amount={"shape": [-1]})),
    ("n from 1 to 10000", tensors(amount={"shape": [10**30]})),
    ("n from 1 to 10000", tensors(amount={"shape": [10_001], "data": [1] * 10_001})),
    ("differ in their number", tensors(amount={"shape": [1], "data": [1]})),
    ("column 'amount': its datatype", tensors(amount={"datatype": "BYTES", "data": ["a", "b"]})),
    ("column 'amount': its datatype", tensors(amount={"datatype": "zzz-secret"})),
    ("column 'channel': its datatype", tensors(channel={"datatype": "FP64", "data": [1, 2]})),
    ("column 'amount': null", tensors(amount={"data": [1, None]})),
    ("column 'channel': null", tensors(channel={"data": ["chip", None]})),
    ("column 'amount': every value", tensors(amount={"data": [1, 2.5]})),
    ("column 'amount': every value", tensors(amount={"data": [1, True]})),
    ("column 'amount': every value", tensors(amount={"data": [1, "zzz-secret"]})),
    ("column 'amount': every value", tensors(amount={"datatype": "BOOL"})),
    ("column 'amount': every value", tensors(amount={"data": [1, [2]]})),
    ("column 'channel': every value", tensors(channel={"data": ["chip", {"a": 1}]})),
    ("column 'rate': every value", tensors(rate={"data": [[0.5], [0.5, 0.5]]})),
    ("column 'amount': must be at most", tensors(amount={"data": [1, 1001]})),
    ("column 'amount': must be at least", tensors(amount={"data": [1, -1]})),
    ("column 'rate': must be at most", tensors(rate={"data": [None, 1.5]})),
    ("column 'amount': must be a finite", tensors(amount={"data": [1, 10**400]})),
    ("column 'channel': must be one of chip, online", tensors(channel={"data": ["chip", ""]})),
    ("column 'channel': must be one of", tensors(channel={"data": ["chip", "zzz-secret"]})),
    ("no binary tensors", tensors(rate={"parameters": {"binary_data_size": 16}})),
]


@pytest.mark.parametrize(("message", "inputs"), WRONG_INPUTS)
def test_wrong_tensors_are_refused_by_column_and_rule(app: App, message: str, inputs: Any) -> None:
    reply = infer(app, inputs)
    assert (reply.status, list(reply.content)) == (400, ["error"])
    assert message in reply.content["error"]
    assert "secret" not in reply.content["error"]


@pytest.mark.parametrize(
    ("message", "row"),
    [
        ("missing column 'amount'", {"channel": "chip", "rate": 0.5}),
        ("unknown column", {**ROW, "zzz-secret": 1}),
        ("column 'amount': every value", {**ROW, "amount": "zzz-secret"}),
        ("column 'amount': null", {**ROW, "amount": None}),
        ("column 'rate': every value", {**ROW, "rate": [0.5]}),
        ("column 'channel': every value", {**ROW, "channel": 1}),
        ("must be strict, plain JSON", [ROW]),
    ],
)
def test_wrong_rows_are_refused_by_column_and_rule(app: App, message: str, row: Any) -> None:
    reply = predict(app, row)
    assert reply.status == 400
    assert message in reply.content["error"]
    assert "secret" not in reply.content["error"]


@pytest.mark.parametrize(
    "more",
    [
        {"outputs": [{"name": "zzz"}]},
        {"outputs": [{"name": "score", "parameters": {"binary_data": True}}]},
        {"parameters": {"binary_data_output": True}},
        {"id": 7},
    ],
)
def test_what_we_do_not_speak_is_refused(app: App, more: Any) -> None:
    assert infer(app, tensors(), **more).status == 400


def test_an_empty_text_is_null_where_null_is_allowed(tmp_path: Path) -> None:
    amount, channel, rate = tiny.COLUMNS
    made = tiny.bundle(tmp_path, columns=(amount, replace(channel, nullable=True), rate))
    tiny.release(tmp_path, made.digest)
    app = App(loaded(tmp_path), token=None)
    null, empty = (predict(app, {**ROW, "channel": value}) for value in (None, ""))
    assert null.status == 200
    assert null == empty


ROUTES = [
    ("GET", "/v2"),
    ("GET", "/v2/models/card_fraud"),
    ("GET", "/v2/models/card_fraud/ready"),
    ("POST", INFER),
    ("POST", "/v2/models/card_fraud/versions/3/infer"),
    ("POST", "/predict"),
]
OPEN = [("GET", "/v2/health/live"), ("GET", "/v2/health/ready")]


@pytest.mark.parametrize(("right", "path"), ROUTES + OPEN)
def test_a_wrong_method_is_405_and_names_the_right_one(app: App, right: str, path: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"} - {right}:
        reply = ask(app, method, path)
        assert (reply.status, reply.headers[b"allow"]) == (405, right.encode())


@pytest.mark.parametrize(
    "path",
    ["", "/", "//v2", "/v2/", "/v3", "/v2\x00", "/v2/health", "/v2/health/x", "/v2/models"]
    + ["/v2/models/", "/v2/models/../health/live", "/predict/", "/v2/models/zzz-secret"]
    + [f"/v2/models/card_fraud{end}" for end in ("/", "/x", "/infer/x", "/versions", "/versions/")]
    + ["/v2/models/other/ready"],
)
def test_an_unknown_address_is_404(app: App, path: str) -> None:
    reply = ask(app, "GET", path)
    assert reply.status == 404
    assert "secret" not in str(reply.content)


@pytest.mark.parametrize(
    "given",
    [None, b"", b"Bearer", b"secret-token", b"Bearer secret-toke", b"Bearer secret-token2",
     b"Bearer secret-token ", b"Basic secret-token", b"Bearer \xff\xfe"],
)  # fmt: skip
def test_without_the_token_every_address_but_health_is_401(
    store: ModelStore, given: bytes | None
) -> None:
    app = App(store, token="secret-token")  # noqa: S106
    headers = {} if given is None else {b"authorization": given}
    for method, path in [*ROUTES, ("GET", "/nowhere"), ("PUT", "/predict"), ("GET", "/v2/x")]:
        assert ask(app, method, path, headers=headers).status == 401
    for method, path in OPEN:
        assert ask(app, method, path, headers=headers).status == 200


def test_the_token_opens(store: ModelStore) -> None:
    app = App(store, token="secret-token")  # noqa: S106
    headers = {b"authorization": b"Bearer secret-token"}
    assert ask(app, "GET", "/v2", headers=headers).status == 200


def test_a_body_over_the_limit_is_413_and_closes(store: ModelStore) -> None:
    app = App(store, token=None, max_body=1_000)
    row = json.dumps({"row": ROW}).encode()
    fits = row + b" " * (1_000 - len(row))
    assert ask(app, "POST", "/predict", body=fits).status == 200
    for body in (fits + b" ", [b" " * 400] * 9):
        reply = ask(app, "POST", "/predict", body=body)
        assert (reply.status, reply.headers[b"connection"]) == (413, b"close")


def test_a_body_comes_in_chunks_or_not_at_all(app: App) -> None:
    body = json.dumps({"row": ROW}).encode()
    chunks = [body[i : i + 7] for i in range(0, len(body), 7)]
    assert ask(app, "POST", "/predict", body=chunks).status == 200
    assert ask(app, "POST", "/predict", body=[]).status == 400  # hung up
    assert ask(app, "POST", "/predict", body=b"\x1f\x8b").status == 400  # compressed


def test_a_fault_of_our_own_is_500_logged_and_not_echoed(
    app: App, store: ModelStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "live", lambda: {}["zzz-secret"])
    with caplog.at_level(logging.ERROR):
        reply = predict(app, ROW)
    assert reply.status == 500
    assert "secret" not in str(reply.content)
    assert "zzz-secret" in caplog.text
