"""Pictures: small enough for the Dagster UI, readable, and of every kind of chart."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageColor

from mlcicd_assets.io.pictures import COLORS, as_markdown, draw, draw_small
from mlcicd_assets.ml import curves
from mlcicd_assets.ml.costs import RowCosts
from mlcicd_assets.ml.curves import Chart, Line
from mlcicd_assets.ml.target import target_of

pytestmark = pytest.mark.pictures

INLINE = 1_000  # characters, from which on the UI hides Markdown
ROWS = 20_000
RNG = np.random.default_rng(1)


def binary() -> list[Chart]:
    logit = RNG.normal(-5, 2, ROWS)
    labels = (RNG.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(int)
    noisy = [1 / (1 + np.exp(-logit - RNG.normal(0, sd, ROWS))) for sd in (1.0, 1.6)]
    models = {"candidate": (noisy[0], 0.2), "champion": (noisy[1], 0.25)}
    costs = RowCosts(np.full(ROWS, 10.0), np.where(labels == 1, RNG.exponential(60, ROWS), 0))
    importance = {f"customer_mean_amount_{n}d": (0.3 / (n + 1), None) for n in range(12)}
    return [
        *curves._classes(labels, models, target_of("binary")),
        curves._money(labels, models, costs),
        curves._importance(importance),
    ]


def multiclass() -> list[Chart]:
    labels = RNG.integers(0, 4, ROWS)
    scores = RNG.dirichlet(np.ones(4), ROWS) * 0.6 + np.eye(4)[labels] * 0.4
    names = [r"$\frac$ 100", "_other", "north " * 20, "west"]
    models = {"candidate": (scores, None), "champion": (scores**0.5, None)}
    return curves._classes(labels, models, target_of("multiclass", names))


def regression() -> list[Chart]:
    labels = RNG.gamma(3, 100, ROWS)
    models = {
        name: (labels + RNG.normal(0, sd, ROWS), None)
        for name, sd in (("candidate", 40), ("champion", 80))
    }
    return curves._numbers(labels, models)


CHARTS = {
    f"{kind.__name__} {chart.name}": chart
    for kind in (binary, multiclass, regression)
    for chart in kind()
}


def has_color(png: bytes, color: str) -> bool:
    """Whether a good number of pixels have about that color."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return bool((np.abs(pixels - ImageColor.getrgb(color)).sum(axis=2) < 60).sum() > 15)


@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_has_a_thumbnail_shown_inline_and_a_large_picture(name: str) -> None:
    chart = CHARTS[name]
    large, small = draw(chart), draw_small(chart)
    assert len(as_markdown([(chart.name, small)])) < INLINE
    assert len(large) <= 15_000
    assert Image.open(io.BytesIO(large)).size == (560, 360)
    assert Image.open(io.BytesIO(small)).size == (200, 120)
    told_apart = 0 if "multiclass" in name else 2  # its lines may lie on each other
    for color in COLORS[: min(told_apart, len(chart.lines))]:
        assert has_color(large, color)
        assert has_color(small, color)
    assert draw(chart) == large, "equal numbers give equal pictures"


def test_markdown_holds_the_pictures_themselves() -> None:
    chart = CHARTS["binary roc"]
    text = as_markdown([("one", draw_small(chart)), ("two", draw(chart))])
    found = re.findall(r"!\[(\w+)\]\(data:image/png;base64,([^)]+)\)", text)
    assert [name for name, _ in found] == ["one", "two"]
    assert base64.b64decode(found[1][1]) == draw(chart)


def test_nothing_to_draw_and_very_many_classes_are_no_error() -> None:
    many = np.arange(900).reshape(30, 30)
    names = tuple(f"class {n}" for n in range(30))
    assert len(draw(Chart("confusion", "x", "y", matrix=many, names=names))) <= 15_000
    assert draw(Chart("importance", "x", "", style="bars"))
    one = Line("candidate", np.array([0.0]), np.array([0.0]))
    assert draw_small(Chart("calibration", "x", "y", (one,), "dots", diagonal=True))


def test_drawing_leaves_no_state_of_pyplot_behind() -> None:
    code = (
        "import sys; from mlcicd_assets.io.pictures import draw;"
        "from mlcicd_assets.ml.curves import Chart; draw(Chart('a', 'x', 'y'));"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
