"""`mlcicd try`: the whole pipeline on a sample, for the person who writes the YAML."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.schema import FeatureColumn
from mlcicd_assets.ml.values import Verdict

if TYPE_CHECKING:
    from mlcicd_assets.io.evaluation_run import Evaluation

FEATURES_SHOWN = 10


def try_out(
    yaml: Annotated[Path, typer.Argument(help="The defs.yaml of a model.")],
    rows: Annotated[int, typer.Option(min=1, help="To train and judge with, at most.")] = 50_000,
    data: Annotated[str | None, typer.Option(help="File, folder or Delta table to read.")] = None,
) -> None:
    """Try a model on a sample: every step, every gate; nothing is kept or released."""
    from mlcicd_assets.io import trial_run
    from mlcicd_assets.ml.spec_text import parse_spec

    if not yaml.is_file():
        raise SpecError(f"there is no file {yaml}: give the path of a model's defs.yaml")
    spec = parse_spec(yaml.read_text(), str(yaml))
    console, verdicts = Console(highlight=False, soft_wrap=True), list[Verdict]()
    started = lap = time.perf_counter()

    def tell(step: str, judged: Sequence[Verdict]) -> None:
        nonlocal lap
        console.print(f"{time.perf_counter() - lap:6.1f} s  {escape(step)}")
        lap = time.perf_counter()
        verdicts.extend(judged)

    try:
        made = trial_run.try_out(Settings.from_env(), spec, rows=rows, data=data, tell=tell)
    finally:
        # Also where a later step could not run: an earlier gate may say why.
        marks = {True: "passed", False: "FAILED"}
        judged = ((v.gate, marks[v.passed], v.observed, v.threshold, v.detail) for v in verdicts)
        _show(console, ("gate", "", "observed", "threshold", "detail"), judged)
    _show_model(console, made)
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    outcome = "await an approval" if spec.gates.approval else "be released"
    end = f"[red]be blocked by {', '.join(failed)}[/]" if failed else f"[green]{outcome}[/]"
    console.print(f"On these rows, with no model live yet, it would {end}.")
    console.print(f"{time.perf_counter() - started:.0f} s in all; nothing was kept.")
    if failed:
        raise typer.Exit(1)


def _show_model(console: Console, made: "Evaluation") -> None:
    from mlcicd_assets.ml.explanation import permutation_importance

    bounds = {name: f"{low:.4g} to {high:.4g}" for name, (low, high) in made.intervals.items()}
    metrics = ((name, f"{value:.4g}", bounds.get(name, "")) for name, value in made.metrics.items())
    _show(console, ("metric", f"holdout {made.window}", "95 % interval"), metrics)
    loss, few = permutation_importance(made.scored), FEATURES_SHOWN
    ranked = sorted(made.scored.columns, key=lambda one: -loss[one.name])
    features = ((one.name, _allowed(one), f"{loss[one.name]:+.4f}") for one in ranked[:few])
    title = f"feature ({len(ranked)}, at most {few} shown)"
    _show(console, (title, "allowed", "loss of ROC AUC when shuffled"), features)
    if made.scored.threshold is not None:
        console.print(f"threshold of an alert: {made.scored.threshold:.4g}")


def _allowed(one: FeatureColumn) -> str:
    bounds = ("any" if bound is None else f"{bound:g}" for bound in (one.min, one.max))
    return ", ".join(one.categories) if one.categories else f"{one.kind} {' to '.join(bounds)}"


def _show(console: Console, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*head)
    for row in rows:
        table.add_row(*(Text(text, style="bold red" if text == "FAILED" else "") for text in row))
    if table.row_count:
        console.print(table, soft_wrap=False)
