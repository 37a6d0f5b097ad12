"""Charts as PNG pictures with few colours, small enough to travel inside Markdown."""

import base64
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlcicd_assets.ml.curves import Chart

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS: Final = ("#1f5fbf", "#e8842a", "#2b8a3e", "#862e9c", "#868e96")
LONGEST: Final = 30  # characters of a name
MOST_COUNTS: Final = 12  # classes, beyond which their counts cannot be read
LOOKS: Final = {
    "line": {},
    "dots": {"marker": "o"},
    "points": {"marker": ".", "linestyle": ""},
    "steps": {"drawstyle": "steps-pre"},
}


def as_markdown(pictures: Iterable[tuple[str, bytes]]) -> str:
    """Write PNG files into the Markdown itself: nothing has to serve them."""
    encoded = ((name, base64.b64encode(png).decode()) for name, png in pictures)
    return "\n\n".join(f"![{name}](data:image/png;base64,{text})" for name, text in encoded)


def draw(chart: Chart) -> bytes:
    """Draw a chart with axes and legend: 560 x 360 pixels, at most 15 kB."""
    figure = _figure(5.6, 3.6)
    axes = figure.subplots()
    axes.set(title=chart.name.replace("_", " "), xlabel=chart.x, ylabel=chart.y)
    _fill(axes, chart)
    names, places = [*map(_text, chart.names)], np.arange(len(chart.names))
    if names:
        axes.set_yticks(-places if chart.style == "bars" else places, names)
    if chart.matrix is not None:
        axes.set_xticks(places, names)
        for (row, column), count in np.ndenumerate(chart.matrix):
            shade = "white" if count > chart.matrix.max() / 2 else "black"
            if len(names) <= MOST_COUNTS:
                axes.text(column, row, count, ha="center", va="center", color=shade)
    elif len(chart.lines) > 1:
        axes.legend(fontsize=8)
    return _png(figure, colors=24)


def draw_small(chart: Chart) -> bytes:
    """Draw the bare lines, 200 x 120 pixels in four colours: under 1,000 characters as Markdown."""
    figure = _figure(2, 1.2)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    # Slanted lines of few points cost most: as steps they nearly cost nothing.
    look = {"drawstyle": "steps-mid"} if chart.style == "dots" else {"markevery": 8}
    _fill(axes, chart, antialiased=False, linewidth=0.72, markersize=1, **look)
    axes.set_axis_off()
    return _png(figure, colors=4)


def _text(name: str) -> str:
    """Shorten what comes out of data, and keep matplotlib from reading formulas in it."""
    return name[:LONGEST].replace("$", r"\$")


def _figure(width: float, height: float) -> "Figure":
    # Never pyplot: it keeps figures, and threads share its state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _fill(axes: Any, chart: Chart, **look: Any) -> None:
    if chart.matrix is not None:
        axes.imshow(chart.matrix, cmap="Blues", aspect="auto")
    number = -1
    for line in chart.lines:
        number += not line.dashed
        told = {"color": COLORS[number % len(COLORS)], "label": _text(line.name)}
        if chart.style == "bars":
            thick = 0.8 / len(chart.lines)
            axes.barh(line.y - thick * (number - (len(chart.lines) - 1) / 2), line.x, thick, **told)
            continue
        told |= {"linestyle": "--" if line.dashed else "-", **LOOKS[chart.style], **look}
        axes.plot(line.x, line.y, **told)
        if line.mark:
            axes.plot(*line.mark, **{**told, "marker": "o", "label": None})
    if chart.diagonal and chart.lines and not look:
        ends = [bound(bound(line.x) for line in chart.lines) for bound in (min, max)]
        axes.plot(ends, ends, color=COLORS[-1], linewidth=0.8, linestyle=":")
    if chart.is_log:
        highest = max(line.x.max() for line in chart.lines)
        axes.set_xscale("symlog", linthresh=highest / 1000)
        axes.set_yscale("symlog", linthresh=highest / 1000)


def _png(figure: "Figure", *, colors: int) -> bytes:
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]  # pyright: ignore
    # Not by how often a color occurs: a thin line is what matters.
    few = Image.fromarray(pixels).quantize(colors, method=Image.Quantize.MAXCOVERAGE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return file.getvalue()
