from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from mlcicd_assets.simulation.cards import Simulated, simulate
from mlcicd_assets.simulation.config import CardSimulation
from mlcicd_assets.simulation.landing import FileFormat, write_landing

CONFIG = CardSimulation(3, customers=200, terminals=100, start=date(2026, 1, 30), leak_rate=0.05)


@pytest.fixture(scope="module")
def ten_days() -> Simulated:
    return simulate(CONFIG, 10)


def write(simulated: Simulated, folder: Path, file_format: FileFormat = "parquet") -> list[str]:
    written = write_landing(
        simulated,
        transactions_folder=folder / "card_transactions",
        labels_folder=folder / "card_labels",
        file_format=file_format,
    )
    return [path.name for path in written]


def state(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


def test_one_file_a_day_with_all_rows_in_order(ten_days: Simulated, tmp_path: Path) -> None:
    names = write(ten_days, tmp_path)
    paths = sorted((tmp_path / "card_transactions").iterdir())
    assert [path.name for path in paths[:3]] == [
        "transactions-2026-01-30.parquet",
        "transactions-2026-01-31.parquet",
        "transactions-2026-02-01.parquet",
    ]
    assert len(paths) == 10
    assert pl.concat([pl.read_parquet(path) for path in paths]).equals(ten_days.transactions)
    assert sorted(names) == sorted(state(tmp_path))


def test_a_label_file_holds_what_became_known_that_day(ten_days: Simulated, tmp_path: Path) -> None:
    write(ten_days, tmp_path)
    known = []
    for path in sorted((tmp_path / "card_labels").iterdir()):
        labels = pl.read_parquet(path)
        assert {f"labels-{day}.parquet" for day in labels["known_at"].dt.date()} == {path.name}
        known.append(labels)
    until = pl.datetime(2026, 2, 9, time_zone="UTC")
    assert pl.concat(known).equals(ten_days.labels.filter(pl.col("known_at") < until))
    assert ten_days.labels.filter(pl.col("known_at") >= until).height > 0


def test_a_quiet_day_has_no_label_file(tmp_path: Path) -> None:
    calm = replace(CONFIG, leak_rate=0, compromise_rate=0, fraud_above=1e9)
    assert write(simulate(calm, 1), tmp_path) == ["transactions-2026-01-30.parquet"]


def test_labels_are_written_on_a_day_without_payments(ten_days: Simulated, tmp_path: Path) -> None:
    holiday = pl.col("tx_time").dt.date() != date(2026, 2, 6)
    names = write(replace(ten_days, transactions=ten_days.transactions.filter(holiday)), tmp_path)
    assert "labels-2026-02-06.parquet" in names
    assert "transactions-2026-02-06.parquet" not in names


def test_nothing_simulated_writes_nothing(ten_days: Simulated, tmp_path: Path) -> None:
    assert write(replace(ten_days, transactions=ten_days.transactions.clear()), tmp_path) == []


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_equal_files_are_left_alone(
    ten_days: Simulated, tmp_path: Path, file_format: FileFormat
) -> None:
    assert write(ten_days, tmp_path, file_format)
    before = state(tmp_path)
    assert write(simulate(CONFIG, 10), tmp_path, file_format) == []
    assert state(tmp_path) == before


def test_a_further_day_adds_its_own_files_only(ten_days: Simulated, tmp_path: Path) -> None:
    write(ten_days, tmp_path)
    before = state(tmp_path)
    names = write(simulate(CONFIG, 11), tmp_path)
    assert names == ["transactions-2026-02-09.parquet", "labels-2026-02-09.parquet"]
    assert {name: at for name, at in state(tmp_path).items() if name in before} == before


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_a_file_of_another_world_is_never_replaced(
    ten_days: Simulated, tmp_path: Path, file_format: FileFormat
) -> None:
    write(ten_days, tmp_path, file_format)
    before = state(tmp_path)
    with pytest.raises(FileExistsError, match=r"transactions-2026-01-30.* other knobs"):
        write(simulate(replace(CONFIG, seed=4), 10), tmp_path, file_format)
    assert state(tmp_path) == before


def test_what_a_crash_left_behind_is_harmless(ten_days: Simulated, tmp_path: Path) -> None:
    folder = tmp_path / "card_transactions"
    folder.mkdir()
    (folder / ".transactions-2026-01-30.parquet.tmp").write_bytes(b"half a file")
    write(ten_days, tmp_path)
    assert not [name for name in state(tmp_path) if name.startswith(".")]
    assert pl.read_parquet(folder / "transactions-2026-01-30.parquet").height > 0


def test_csv_is_plain_text_with_utc_times(ten_days: Simulated, tmp_path: Path) -> None:
    write(ten_days, tmp_path, "csv")
    lines = (tmp_path / "card_transactions" / "transactions-2026-01-30.csv").read_text().split()
    assert lines[0] == "transaction_id,tx_time,customer_id,terminal_id,amount,channel,card_limit"
    first = ten_days.transactions.row(0, named=True)
    assert lines[1] == (
        f"0,{first['tx_time']:%Y-%m-%dT%H:%M:%SZ},{first['customer_id']},{first['terminal_id']},"
        f"{first['amount']},{first['channel']},{first['card_limit']}"
    )
    labels = (tmp_path / "card_labels" / "labels-2026-02-03.csv").read_text().split()
    assert labels[0] == "transaction_id,is_fraud,known_at"
    assert labels[1].split(",")[2].startswith("2026-02-03T")


def test_progress_is_told_day_by_day(ten_days: Simulated, tmp_path: Path) -> None:
    told: list[date] = []
    write_landing(
        ten_days, transactions_folder=tmp_path, labels_folder=tmp_path, on_day=told.append
    )
    assert told == ten_days.transactions["tx_time"].dt.date().unique().sort().to_list()
