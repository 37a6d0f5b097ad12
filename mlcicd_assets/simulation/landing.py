"""Write simulated payments as a bank's systems would deliver them: one file a day."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlcicd_assets.simulation.cards import Simulated

if TYPE_CHECKING:
    import polars as pl

FileFormat = Literal["parquet", "csv"]
CSV_TIME = "%Y-%m-%dT%H:%M:%SZ"


def write_landing(
    simulated: Simulated,
    *,
    transactions_folder: Path,
    labels_folder: Path,
    file_format: FileFormat = "parquet",
    on_day: Callable[[date], None] | None = None,
) -> list[Path]:
    """Write `transactions-<day>` and `labels-<day of known_at>` files; return the new ones.

    A file appears whole or not at all, and one that is there already with the same rows is not
    touched. Labels known after the last day of the payments are not written: they are still in
    the future. A day on which nothing became known has no label file.

    Raises:
        FileExistsError: a file is there with other rows, from a simulation with other knobs.
    """
    transactions_folder.mkdir(parents=True, exist_ok=True)
    labels_folder.mkdir(parents=True, exist_ok=True)
    payments = _by_day(simulated.transactions, "tx_time")
    labels = _by_day(simulated.labels, "known_at")
    last = max(payments, default=date.min)
    written: list[Path] = []
    for day in sorted(payments.keys() | {day for day in labels if day <= last}):
        if day in payments:
            path = transactions_folder / f"transactions-{day}.{file_format}"
            written += _write_once(payments[day], path)
        if day in labels:
            written += _write_once(labels[day], labels_folder / f"labels-{day}.{file_format}")
        if on_day is not None:
            on_day(day)
    return written


def _by_day(frame: "pl.DataFrame", time: str) -> "dict[date, pl.DataFrame]":
    import polars as pl

    days = frame.with_columns(day=pl.col(time).dt.date())
    parts = days.partition_by("day", maintain_order=True, as_dict=True, include_key=False)
    return {key[0]: part for key, part in parts.items()}


def _write_once(frame: "pl.DataFrame", path: Path) -> list[Path]:
    if path.exists():
        if not _holds(path, frame):
            raise FileExistsError(
                f"{path} holds other rows than this simulation, so it was made with other knobs: "
                "use the same knobs again, or an empty folder"
            )
        return []
    # The reader of a landing folder skips names that begin with a dot.
    partial = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".csv":
        frame.write_csv(partial, datetime_format=CSV_TIME)
    else:
        frame.write_parquet(partial)
    partial.replace(path)
    return [path]


def _holds(path: Path, frame: "pl.DataFrame") -> bool:
    import polars as pl

    if path.suffix == ".csv":
        return path.read_text(encoding="utf-8") == frame.write_csv(datetime_format=CSV_TIME)
    return pl.read_parquet(path).equals(frame)
