"""`mlcicd simulate`: card transactions and their late labels into the landing folders."""

from dataclasses import replace
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import Progress

from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import DataError


def simulate(
    days: Annotated[int, typer.Option(min=1, help="Days of history to have afterwards.")] = 90,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same transactions.")] = 7,
    scale: Annotated[float, typer.Option(min=0.01, help="Share of the default volume.")] = 1.0,
    file_format: Annotated[Literal["parquet", "csv"], typer.Option()] = "parquet",
) -> None:
    """Write daily landing files; a larger number of days adds to what is there."""
    from mlcicd_assets.simulation.cards import simulate as simulate_days
    from mlcicd_assets.simulation.config import CardSimulation
    from mlcicd_assets.simulation.landing import write_landing

    default = CardSimulation(seed=seed)
    config = replace(
        default,
        customers=max(1, round(default.customers * scale)),
        terminals=max(1, round(default.terminals * scale)),
    )
    simulated = simulate_days(config, days)
    landing = Settings.from_env().landing
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("writing landing files", total=days)
        try:
            written = write_landing(
                simulated,
                transactions_folder=landing / "card_transactions",
                labels_folder=landing / "card_labels",
                file_format=file_format,
                on_day=lambda _: progress.advance(task),
            )
        except FileExistsError as error:
            raise DataError(str(error)) from error
    Console().print(
        f"{len(simulated.transactions):,} transactions on {days} days in {landing} "
        f"({len(written)} new files)",
        highlight=False,
    )
