"""`mlcicd new`: look at a table and write a commented defs.yaml for it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.proposal import Choices


def new(
    name: Annotated[str, typer.Argument(help="Of the model: lower case, digits and _.")],
    path: Annotated[str, typer.Argument(help="CSV, Parquet, a folder of them, or a Delta table.")],
    label: Annotated[str | None, typer.Option(help="Column that is predicted.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of the event time.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Column of the key; repeatable.")] = None,
    positive: Annotated[str | None, typer.Option(help="Value of the label that is 'yes'.")] = None,
    to: Annotated[Path | None, typer.Option(help="Default: $MLCICD_DEFS, else ./models.")] = None,
) -> None:
    """Write defs.yaml and README.md of a new model, and say how to go on."""
    from mlcicd_assets.io.profile import files_at, write_model

    settings = Settings.from_env()
    folder = (to or settings.defs or Path("models")).resolve()
    choices = Choices(label, time, tuple(key or ()), positive)
    written = write_model(folder / name, name, path, choices)
    steps = [f"mlcicd try {written}"]
    if files_at(path):
        landing, files = settings.landing / name, f"{path}/*" if Path(path).is_dir() else path
        steps.append(f"mkdir -p {landing} && cp {files} {landing}/")
        steps[0] += f" --data {path}"
    if folder != settings.defs:
        steps.append(f"export MLCICD_DEFS={folder}")
    steps.append(f"dagster job execute -m mlcicd_assets.definitions -j {name}_cicd")
    lines = [f"wrote {written}: read it, correct it, then", *(f"  {step}" for step in steps)]
    Console(highlight=False, markup=False, soft_wrap=True).print("\n".join(lines))
