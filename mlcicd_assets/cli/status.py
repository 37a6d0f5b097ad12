"""`mlcicd status`: what is live, since when, why, and how the last run ended."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from mlcicd_assets.cli.ledger import open_ledger
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.releases import read_pointer
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import check_store, place_at
from mlcicd_assets.ml.errors import EndpointUnreachable

if TYPE_CHECKING:
    from mlcicd_assets.io.ledger import Ledger


@dataclass(frozen=True)
class ModelState:
    """One model as the ledger, the pointer and the servers see it; None = nothing there."""

    model: str
    live_version: int | None
    live_digest: str | None
    since: str | None
    why: str | None
    last_outcome: str | None
    last_at: str | None
    last_reason: str | None
    pointer_version: int | None
    served: dict[str, str]
    cpu_seconds_saved: float
    alarms: list[str]


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show each model's live version and the outcome of its last run."""
    settings, ledger = open_ledger()
    check_store(settings.releases)
    check_store(place_at(settings.lake))
    states = [_state(settings, ledger, model) for model in ledger.models()]
    if as_json:
        typer.echo(json.dumps([asdict(state) for state in states], indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    if not states:
        console.print("no model has run yet: `dagster job execute -m ... -j MODEL_cicd`")
    for state in states:
        _show(console, state)


def _state(settings: Settings, ledger: "Ledger", model: str) -> ModelState:
    from mlcicd_assets.io.offline import pending_notes
    from mlcicd_assets.io.readings import alarms, in_words

    notes = pending_notes(settings.releases, model).values()
    live, last = ledger.live(model), ledger.last_outcome(model)
    pointer = read_pointer(settings.releases, model)
    return ModelState(
        model=model,
        live_version=live.version if live else None,
        live_digest=live.digest if live else None,
        since=live.at if live else None,
        why=live.reason if live else None,
        last_outcome=last.body["outcome"] if last else None,
        last_at=last.at if last else None,
        last_reason=last.body["reason"] if last else None,
        pointer_version=pointer.version if pointer else None,
        served={url: _served(url, model, settings.token) for url in settings.endpoints_of(model)},
        cpu_seconds_saved=ledger.saved_seconds(model),
        alarms=[f"not booked yet: rolled back to v{one.version} by {one.by}" for one in notes]
        + [in_words(entry) for entry in alarms(ledger.entries(model=model))],
    )


def _served(url: str, model: str, token: str | None) -> str:
    try:
        answer = model_status(url, model, token=token)
    except EndpointUnreachable:
        return "unreachable"
    return f"v{answer.version}" if answer else "not live"


def _show(console: Console, state: ModelState) -> None:
    live = f"v{state.live_version}" if state.live_version else "nothing"
    console.print(f"[bold]{state.model}[/]  live: [bold]{live}[/] since {_time(state.since)}")
    console.print(f"  why       {escape(state.why or '-')}")
    for url, answer in state.served.items():
        console.print(f"  served    {answer} at {url}")
    colours = {"released": "green", "kept": "cyan", "blocked": "red"}
    colour = colours.get(state.last_outcome or "", "yellow")
    outcome = f"[{colour}]{state.last_outcome or '-'}[/]"
    console.print(
        f"  last run  {outcome} at {_time(state.last_at)}: {escape(state.last_reason or '-')}"
    )
    console.print(f"  saved     {state.cpu_seconds_saved:,.1f} CPU s of training by known keys")
    for alarm in state.alarms:
        console.print(f"  [bold red]alarm     {escape(alarm)}[/]")


def _time(moment: str | None) -> str:
    return f"{moment[:19].replace('T', ' ')} UTC" if moment else "-"
