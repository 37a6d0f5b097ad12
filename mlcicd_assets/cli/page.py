"""`mlcicd page`: write the evaluation page of a model as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import ReleaseError


def page(
    model: Annotated[str, typer.Argument(help="Name of a model.")],
    version: Annotated[int | None, typer.Option(help="Default: the live version.")] = None,
    out: Annotated[Path | None, typer.Option(help="Default: <model>-page.html.")] = None,
) -> None:
    """Write Evidently's page: data summary, drift against the training data, quality."""
    # `mlcicd rollback --offline` must work without what these import.
    from mlcicd_assets.io.page import render_page
    from mlcicd_assets.io.registry import digest_of

    settings = Settings.from_env()
    if version is not None:
        digest = digest_of(settings, model, version)
    else:
        pointer = read_pointer(settings.releases, model)
        if pointer is None:
            raise ReleaseError(f"'{model}' has no release yet: say which --version")
        digest = pointer.digest
    path = out or Path(f"{model}-page.html")
    path.write_text(render_page(settings, model, digest), "utf-8")
    typer.echo(f"{path.resolve().as_uri()}")
