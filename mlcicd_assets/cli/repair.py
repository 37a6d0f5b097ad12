"""`mlcicd repair`: accept Delta tables that lost commits, so that runs go on with what is there."""

from typing import Annotated

import typer

from mlcicd_assets.cli.ledger import open_ledger

Table = Annotated[str | None, typer.Argument(help="Default: every table seen so far.")]


def repair(table: Table = None) -> None:
    """Accept tables as they are after commits were lost; the next run lands lost files again."""
    from mlcicd_assets.io.operators import require_operator
    from mlcicd_assets.io.table_guard import repair

    settings, ledger = open_ledger()
    require_operator(settings)
    for uri in [table] if table else ledger.seen_addresses():
        typer.echo(f"{uri}: {repair(ledger, uri) or 'nothing to repair'}")
