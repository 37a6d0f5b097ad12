"""`mlcicd history`, `why`, `rollback` and the like: what the ledger says, what people decide.

What needs the ledger is imported where it is used, so `rollback --offline` works without it.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mlcicd_assets.io.settings import Settings

if TYPE_CHECKING:
    from mlcicd_assets.io.ledger import Entry, Ledger

Model = Annotated[str, typer.Argument(help="Name of a model.")]
Version = Annotated[int, typer.Argument(help="Number of a version.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the ledger.")]
Days = Annotated[int, typer.Option(min=0, help="How long it holds.")]
Moment = Annotated[str, typer.Argument(help="ISO 8601; UTC where no zone is given.")]
Every = Annotated[str | None, typer.Argument(help="Default: every model.")]
Out = Annotated[Path | None, typer.Option(help="Default: the screen.")]
Write = Annotated[bool, typer.Option("--write", help="Write the file to commit.")]
To = Annotated[int | None, typer.Option(help="Default: the release before.")]
Offline = Annotated[bool, typer.Option("--offline", help="Booked by the next run.")]


def open_ledger() -> tuple[Settings, "Ledger"]:
    """Read the environment and open its ledger."""
    from mlcicd_assets.io.ledger import Ledger

    settings = Settings.from_env()
    settings.home.mkdir(parents=True, exist_ok=True)
    return settings, Ledger(settings.ledger_url)


def history(model: Model, as_json: AsJson = False) -> None:
    """Show every decision about a model, oldest first."""
    from mlcicd_assets.io.readings import entries_of, history

    _tell(history(entries_of(open_ledger()[1], model)), as_json)


def live_at(model: Model, time: Moment, as_json: AsJson = False) -> None:
    """Show what was live at a moment, since when, and by which entry."""
    from mlcicd_assets.io.readings import entries_of, in_words, live_at, moment_of

    found = live_at(entries_of(open_ledger()[1], model), moment_of(time))
    since, entry = found or (None, None)
    told = {"version": entry.body["version"] if entry else None}
    if since and entry:
        told |= {"digest": entry.body["digest"], "since": since.isoformat(), "entry": entry.seq}
        told |= {"decision": in_words(entry)}
    _tell(told, as_json)


def why(model: Model, version: Version, as_json: AsJson = False) -> None:
    """Show on what a decision rests: verdicts, comparison, approvals, overrides, a freeze."""
    from mlcicd_assets.io.readings import case_of, entries_of
    from mlcicd_assets.io.releases import bundle_folder
    from mlcicd_assets.io.store import stamp

    settings, ledger = open_ledger()
    case = case_of(entries_of(ledger, model), version)
    card = bundle_folder(settings.releases, model, case.digest).with_name(f"{case.digest}.card.md")
    told = {**asdict(case), "card": str(card) if stamp(card) else None}
    if not as_json:
        _tell({name: told[name] for name in ("digest", "policy", "card")})
    _tell(told if as_json else [*case.verdicts, *case.said], as_json)


def lineage(model: Model, version: Version, as_json: AsJson = False) -> None:
    """Show what a version was made from, and when it was released."""
    from mlcicd_assets.io.readings import entries_of, lineage

    _tell(lineage(entries_of(open_ledger()[1], model), version), as_json)


def verify(model: Every = None) -> None:
    """Check chain, heads, bundles, tables, pointers, servers, aliases; exit 1 on any difference."""
    from mlcicd_assets.io.verify import verify

    problems, unchecked = verify(*open_ledger(), model)
    for line in (*problems, *(f"not checked: {one}" for one in unchecked)):
        _print(line, is_red=line in problems)
    if problems:
        raise typer.Exit(1)
    aliases = "" if unchecked else ", aliases"
    _print(
        f"verified: chain, heads, bundles, tables, pointers, servers{aliases} of "
        f"{model or 'every model'}"
    )


def evidence(model: Model, version: Version, out: Out = None) -> None:
    """Export evidence that docs/check_evidence.py checks without this package."""
    from mlcicd_assets.io.evidence import evidence

    text = json.dumps(evidence(*open_ledger(), model, version), indent=2)
    typer.echo(text) if out is None else out.write_text(text)


def freeze(model: Model, days: Days, reason: Reason) -> None:
    """Stop releases of a model for so many days; 0 lifts a freeze."""
    from mlcicd_assets.io.interventions import freeze

    _tell([freeze(*open_ledger(), model, reason=reason, days=days)])


def override(model: Model, gate: str, days: Days, reason: Reason) -> None:
    """Let a gate's newest failed verdict pass; shown in red while it is in force."""
    from mlcicd_assets.io.interventions import override

    _tell([override(*open_ledger(), model, gate, reason=reason, days=days)])


def approve(
    model: Model, version: Version, reason: Reason, days: Days = 7, write: Write = False
) -> None:
    """Approve the version that awaits it; only a commit of the file shows who it was."""
    from mlcicd_assets.io.interventions import approve, write_approval_file

    if write:
        path = write_approval_file(*open_ledger(), model, version, reason=reason, days=days)
        _print(f"commit {path} to approve {model} v{version}")
        return
    how = "command line"
    _tell([approve(*open_ledger(), model, version, reason=reason, days=days, how=how)])


def rollback(model: Model, reason: Reason, to: To = None, offline: Offline = False) -> None:
    """Make an earlier release live again; what was live is never released again."""
    if offline:
        from mlcicd_assets.io.offline import rollback_offline

        done = rollback_offline(Settings.from_env(), model, to=to, reason=reason)
    else:
        from mlcicd_assets.io.rollback import rollback

        mark = mark_champion
        done = rollback(*open_ledger(), model, to=to, reason=reason, mark_champion=mark)
    _print(f"{model} v{done[0]} (bundle {done[1][:12]}) is live again")


def mark_champion(model: str, version: int) -> None:
    """Move the alias that people see in MLflow."""
    from mlcicd_assets.io.registry import CHAMPION, set_alias

    set_alias(Settings.from_env(), model, CHAMPION, version)


def _tell(told: "list[Entry] | dict[str, Any]", as_json: bool = False) -> None:
    """Print entries in words and anything else by name; or all of it as JSON."""
    from mlcicd_assets.io.readings import in_words

    if as_json:
        typer.echo(json.dumps(told, default=asdict, indent=2))
    elif isinstance(told, dict):
        for name, value in told.items():
            _print(f"{name}: {value}")
    else:
        for entry in told:
            is_red = entry.kind == "override" or entry.body.get("outcome") == "blocked"
            _print(in_words(entry), is_red=is_red or entry.body.get("passed") is False)


def _print(line: str, *, is_red: bool = False) -> None:
    style = "red" if is_red else None
    Console().print(line, style=style, markup=False, highlight=False, soft_wrap=True)
