"""`mlcicd rebuild`, `vacuum`, `recall`: make a model again, keep its data, take it back."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from mlcicd_assets.cli.ledger import Every, Model, Reason, mark_champion, open_ledger

Version = Annotated[int | None, typer.Option(help="Default: the live version.")]
Hours = Annotated[int | None, typer.Option(min=0, help="Default: what each table says.")]
Foreign = Annotated[bool, typer.Option("--foreign", help="Tables of others, too.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without, only say what would be done.")]
Commit = Annotated[int | None, typer.Option(help="Of the table: the one that added the rows.")]
Which = Annotated[str, typer.Option("--table", help="raw or labels.")]
Where = Annotated[str | None, typer.Option(help="SQL: amount > 9000 and at::date = '2026-03-01'.")]
File = Annotated[str | None, typer.Option(help="Name of a landing file.")]


def rebuild(model: Model, version: Version = None) -> None:
    """Make a version again from its record alone and compare; exit 1 unless it is bit-equal."""
    from mlcicd_assets.io.rebuild import is_equal, rebuild

    lines = rebuild(*open_ledger(), model, version)
    _show(("compared", "recorded", "now"), [list(line) for line in lines])
    differ = ", ".join(what for what, was, now in lines if was != now) or "nothing"
    typer.echo(f"{'bit-equal' if is_equal(lines) else 'NOT equal'}; what differs: {differ}")
    if not is_equal(lines):
        raise typer.Exit(1)


def vacuum(
    model: Every = None, hours: Hours = None, foreign: Foreign = False, yes: Yes = False
) -> None:
    """Remove table files that nothing needs; what live and rollback versions need stays."""
    from mlcicd_assets.io.retention import vacuum

    swept = vacuum(*open_ledger(), model, hours=hours, foreign=foreign, carry_out=yes)
    rows = [[s.uri, str(s.files), f"{s.megabytes:.1f}", "\n".join(s.held), s.note] for s in swept]
    _show(("table", "files", "MB", "held", "note"), rows)
    typer.echo("removed" if yes else "nothing was removed: add --yes")


def recall(
    model: Model,
    reason: Reason,
    table_version: Commit = None,
    table: Which = "raw",
    where: Where = None,
    file: File = None,
    yes: Yes = False,
) -> None:
    """List what was made from bad rows; with --yes take it out of service, for ever."""
    from mlcicd_assets.io.recall import Suspect, find, recall

    (settings, ledger), mark = open_ledger(), mark_champion
    suspect = Suspect(table, table_version, file, where)
    if yes:
        found = recall(settings, ledger, model, suspect, reason=reason, mark_champion=mark)
    else:
        _, found = find(settings, ledger, model, suspect)
    typer.echo(f"bad: {found.rows}")
    named = asdict(found) | {"models": [f"{d}  v{v or '?'}" for d, v in found.models.items()]}
    del named["rows"]
    _show(
        ("made from it", ""), [[name, "\n".join(map(str, value))] for name, value in named.items()]
    )
    live = ledger.live(model)
    if live and live.digest in found.models:
        typer.echo(f"v{live.version} is live and made from bad rows")
    if not yes:
        typer.echo("nothing was done: add --yes")
    elif live and live.digest in found.models:
        typer.echo("no good release is there to go back to: the next safe candidate replaces it")
        raise typer.Exit(1)


def _show(head: tuple[str, ...], rows: list[list[str]]) -> None:
    table = Table(*(Column(name, overflow="fold") for name in head))
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)
