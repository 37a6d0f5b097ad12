"""Raw bytes and broken JSON against the app: always a 4xx with {"error"}, never an echo."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mlcicd_assets.serving.app import App
from mlcicd_assets_tests.io import tiny
from mlcicd_assets_tests.serving.driving import ask, loaded

MARK = "zqxj"  # in every body; an answer that holds it echoes
PATHS = ("/predict", "/v2/models/card_fraud/infer")
ODD_VALUES = [
    b"1e999", b"-1e999", b"Infinity", b"-Infinity", b"NaN", b"nan", b"1e308", b"-0", b"01",
    b"9" * 400, b"9" * 5000, b"-" + b"9" * 30, b"0." + b"1" * 5000, b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\x00"', b'"\\u0000"', b"[" * 50, b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 3000 + b"1" + b"}" * 3000, b"true", b"false", b"{}", b"[]", b'""', b"'x'",
    b"undefined",
    b"0x10", b"1_000", b"+1", b".5", b"5.", b"\xe2\x80\xa8", b'"\\x41"', b"/*c*/1", b'"a" "b"', b"",
]  # fmt: skip
GOOD = {
    "/predict": {"row": {"amount": 5, "channel": "chip", "rate": 0.5}, "model": "card_fraud"},
    "/v2/models/card_fraud/infer": {
        "id": "a",
        "inputs": [
            {"name": "amount", "datatype": "FP64", "shape": [1], "data": [5.0]},
            {"name": "channel", "datatype": "BYTES", "shape": [1], "data": ["chip"]},
            {"name": "rate", "datatype": "FP64", "shape": [1], "data": [None]},
        ],
        "outputs": [{"name": "score"}],
    },
}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    root: Path = tmp_path_factory.mktemp("releases")
    tiny.release(root, tiny.bundle(root).digest)
    return App(loaded(root), token=None)


def must_stand(app: App, path: str, body: bytes) -> int:
    reply = ask(app, "POST", path, body=body)
    assert reply.status == 200 or 400 <= reply.status < 500, (reply, body[:200])
    if reply.status != 200:
        assert list(reply.content) == ["error"]
        assert MARK not in reply.content["error"]
    return reply.status


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside a JSON document, containers included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    ways = [path] if path else []
    if isinstance(value, (dict, list)):
        for key, item in inner:
            ways += leaves(item, (*path, key)) if isinstance(item, (dict, list)) else [(*path, key)]
    return ways


def with_hole(document: Any, way: tuple[Any, ...]) -> tuple[bytes, bytes]:
    """Return the document's text before and after the value at `way`."""
    copy = json.loads(json.dumps(document))
    at = copy
    for key in way[:-1]:
        at = at[key]
    at[way[-1]] = "HOLE"
    before, after = json.dumps(copy).encode().split(b'"HOLE"')
    return before, after


@pytest.mark.parametrize("path", PATHS)
def test_odd_values_in_every_place(app: App, path: str) -> None:
    cases = [(way, value) for way in leaves(GOOD[path]) for value in ODD_VALUES]
    statuses = set()
    for way, value in cases:
        before, after = with_hole(GOOD[path], way)
        statuses.add(must_stand(app, path, before + value + after))
    assert statuses >= {200, 400}  # "true" as a number of /predict, [] as outputs: fine


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [*ODD_VALUES, MARK.encode(), b'"' + MARK.encode() + b'"'])
def test_odd_bodies_and_names(app: App, path: str, value: bytes) -> None:
    mark = MARK.encode()
    named = b'{"row": {"' + mark + b'": ' + value + b'}, "inputs": 1}'
    for body in (value, b'{"' + mark + b'": ' + value + b"}", named):
        assert must_stand(app, path, body) != 200


@pytest.mark.parametrize("path", PATHS)
def test_mutated_bytes(app: App, path: str) -> None:
    rng = random.Random(20260101)  # noqa: S311
    good = json.dumps(GOOD[path]).encode()
    refused = 0
    for _ in range(2_000):
        body = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(body))
            choice = rng.randrange(4)
            if choice == 0:
                body[at] = rng.randrange(256)
            elif choice == 1:
                del body[at : at + rng.randint(1, 8)]
            elif choice == 2:
                body[at:at] = rng.choice(ODD_VALUES)[:64]
            else:
                body[at:at] = body[rng.randrange(len(body)) :][:16]
        refused += must_stand(app, path, bytes(body)) != 200
    assert refused > 1_000


def test_random_bytes(app: App) -> None:
    rng = random.Random(7)  # noqa: S311
    for _ in range(500):
        assert must_stand(app, rng.choice(PATHS), rng.randbytes(rng.randint(0, 300))) != 200
