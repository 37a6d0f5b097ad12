"""A table that lost commits stops the pipeline; repaired, lost landing files come in again."""

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from mlcicd_assets.cli.main import typer_app
from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.table_guard import check_not_rewound, remember_seen
from mlcicd_assets.ml.errors import DataError, TableRewound
from mlcicd_assets.ml.values import TableVersion
from mlcicd_assets_tests.small_model import deliver_days, ledger, small_spec, write_batch


def land() -> pl.DataFrame:
    taken = ingest(Settings.from_env(), ledger(), small_spec(), run_id="r")
    return pl.read_delta(taken.raw.events.uri).sort("transaction_id")


def raw() -> Path:
    return Path(Settings.from_env().lake) / "card_fraud" / "raw"


def head() -> Path:
    return max((raw() / "_delta_log").glob("*.json"))


def lose() -> None:
    head().unlink()


def empty() -> None:
    head().write_bytes(b"")


def replace() -> None:
    lose()
    write_deltalake(raw(), pl.read_delta(str(raw())).head(1).to_arrow(), mode="append")


@pytest.fixture
def before(home: Path) -> pl.DataFrame:
    deliver_days(3)
    land()
    write_batch("more.parquet")
    return land()


@pytest.mark.parametrize(
    ("damage", "message", "repaired"),
    [
        (lose, "is at version 1, version 2 was seen before", "accepted"),
        (empty, "is empty, as after a power loss", "removed the empty commit"),
        (replace, "has another commit 2 than was seen before", "accepted"),
    ],
)
def test_lost_commits_stop_the_pipeline_until_someone_repairs(
    before: pl.DataFrame, damage: Callable[[], None], message: str, repaired: str
) -> None:
    damage()
    for _ in range(2):
        with pytest.raises(DataError, match=message) as stopped:
            land()
        assert "mlcicd repair" in str(stopped.value)
    done = CliRunner().invoke(typer_app, ["repair"])
    assert done.exit_code == 0, done.output
    assert repaired in done.output.replace("\n", " ")
    # The rows that `replace` put there stay: whose they are is not for us to say.
    assert before.join(land(), on=before.columns, how="anti", nulls_equal=True).is_empty()
    again = CliRunner().invoke(typer_app, ["repair"])
    assert again.output.count("nothing to repair") == 2


def test_a_dropped_table_is_made_again_from_its_landing_files(before: pl.DataFrame) -> None:
    shutil.rmtree(raw())
    assert land().equals(before)


def test_what_a_person_deleted_does_not_come_back(before: pl.DataFrame) -> None:
    DeltaTable(raw()).delete("amount > 10")
    assert land().equals(before.filter(~(pl.col("amount") > 10)))


def test_an_older_sight_does_not_hide_a_newer_one(before: pl.DataFrame) -> None:
    seen = ledger().seen_table(str(raw()))
    assert seen is not None
    remember_seen(ledger(), TableVersion(seen.uri, seen.table_id, 1, "v1:0:0:0", 0))
    assert ledger().seen_table(str(raw())) == seen
    lose()
    with pytest.raises(TableRewound):
        check_not_rewound(ledger(), str(raw()))


def test_a_log_cleaned_up_behind_a_checkpoint_is_no_loss(before: pl.DataFrame) -> None:
    table = DeltaTable(raw())
    table.create_checkpoint()
    for commit in (raw() / "_delta_log").glob("*.json"):
        commit.unlink()
    assert land().equals(before)
