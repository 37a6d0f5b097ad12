"""`mlcicd`: the command line of the project."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from mlcicd_assets.cli import ledger, recovery
from mlcicd_assets.cli.new import new
from mlcicd_assets.cli.page import page
from mlcicd_assets.cli.repair import repair
from mlcicd_assets.cli.score import score
from mlcicd_assets.cli.serve import serve, stop
from mlcicd_assets.cli.simulate import simulate
from mlcicd_assets.cli.status import status
from mlcicd_assets.cli.try_out import try_out
from mlcicd_assets.ml.errors import MlcicdError

typer_app = typer.Typer(
    name="mlcicd",
    help="Continuous delivery of machine-learning models: what is live, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
asked = (ledger.history, ledger.live_at, ledger.why, ledger.lineage, ledger.verify, ledger.evidence)
said = (ledger.freeze, ledger.override, ledger.approve, ledger.rollback)
again = (repair, recovery.rebuild, recovery.vacuum, recovery.recall)
for command in (serve, stop, simulate, status, score, page, new, *asked, *said, *again):
    typer_app.command()(command)
typer_app.command("try")(try_out)


def app() -> None:
    """Run the command line; our own errors become one readable line and exit code 1."""
    try:
        typer_app()
    except MlcicdError as error:
        told = f"[bold red]error:[/] {escape(str(error))}"
        Console(stderr=True).print(told, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    app()
