"""`mlcicd score`: send the live model's first golden row to the server, as a client would."""

from typing import Annotated, Any

import typer

from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.endpoint import predict_row
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import ReleaseError


def score(model: Annotated[str, typer.Argument(help="Name of a released model.")]) -> None:
    """Score a sample row over HTTP and say what is live."""
    settings = Settings.from_env()
    pointer = read_pointer(settings.releases, model)
    if pointer is None:
        raise ReleaseError(f"'{model}' has no release yet: run its job, `{model}_cicd`, first")
    bundle = load_bundle(settings.releases, model, pointer.digest)
    row: dict[str, Any] = {
        name: values[0].item() if hasattr(values[0], "item") else values[0]
        for name, values in bundle.golden_columns.items()
    }
    url = settings.endpoints_of(model)[0]
    answer = predict_row(url, model, row, token=settings.token)
    scores = answer["score"] if isinstance(answer["score"], dict) else {"": answer["score"]}
    told = [f"score {name} {score:.6f}".replace("  ", " ") for name, score in scores.items()]
    if "threshold" in answer:
        told[0] += f" (threshold {answer['threshold']:.6f})"
    elif "decision" in answer:
        told.append(f"decision {answer['decision']}")
    typer.echo(
        f"live: {model} v{answer['version']} at {url}/v2/models/{model} "
        f"{', '.join(told)} for a sample row"
    )
