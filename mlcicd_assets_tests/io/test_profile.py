"""Looking at a table: types, times and keys as ingest would read them, and what is written."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mlcicd_assets.io import profile as module
from mlcicd_assets.io.profile import files_at, look, write_model
from mlcicd_assets.ml.errors import DataError, SpecError
from mlcicd_assets.ml.proposal import Choices, Seen
from mlcicd_assets.ml.spec_text import parse_spec
from mlcicd_assets_tests.io.tables import FORMS, KINDS, machines, store

DAYS = [datetime(2026, 1, day, 5, 6, tzinfo=UTC) for day in (1, 2, 3)]


def seen(values: list[Any], folder: Path, *, name: str = "c", form: str = "csv") -> Seen:
    frame = pl.DataFrame({"n": range(len(values)), name: values})
    return look(store(frame, folder, form)).columns[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_and_target_gives_a_model_that_loads(
    kind: str, form: str, tmp_path: Path
) -> None:
    place = store(machines(kind, 400), tmp_path, form)
    folder = tmp_path / "models" / "machines"
    path = write_model(folder, "machines", place, Choices(label="outcome"))
    spec = parse_spec(path.read_text(), str(path))
    assert (spec.label.target, spec.key, spec.time.column) == (kind, ("reading_id",), "read_at")
    assert spec.features.columns == ("heat", "load", "starts", "is_new", "mode")
    types = {name: column.type for name, column in spec.contract.columns.items()}
    assert [types[name] for name in ("read_at", "heat", "starts", "is_new", "mode")] == [
        *("timestamp", "number", "integer", "boolean", "string")
    ]
    assert spec.contract.columns["load"].nullable
    is_table = form == "delta"
    assert (spec.source.table, spec.source.landing) == (
        (place, None) if is_table else (None, "machines")
    )
    assert "Cost of errors" in (folder / "README.md").read_text()
    with pytest.raises(SpecError, match="is there already"):
        write_model(folder, "machines", place, Choices(label="outcome"))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", None], "integer"),
        (["0", "1", "1"], "integer"),
        (["1", "2.5", "3"], "number"),
        (["true", "false", "true"], "boolean"),
        (["2026-01-01", "2026-01-02T03:04:05", "2026-01-03 03:04"], "timestamp"),
        (["1", "x", None], "string"),
    ],
)
def test_texts_of_a_csv_are_the_first_type_that_all_can_land_as(
    values: list[str | None], kind: str, tmp_path: Path
) -> None:
    found = seen(values, tmp_path)
    assert found.kind == kind
    assert found.null_share == pytest.approx(values.count(None) / 3)


@pytest.mark.parametrize(
    ("name", "values", "form"),
    [
        ("c", DAYS, "iso"),
        ("c", [f"0{day}.01.2026" for day in (1, 2, 3)], "%d.%m.%Y"),
        ("c", [f"0{day}.01.2026 05:06" for day in (1, 2, 3)], "%d.%m.%Y %H:%M"),
        ("c", ["01/13/2026", "01/14/2026"], "%m/%d/%Y"),
        ("c", ["20260101", "20260102"], "%Y%m%d"),
        ("created_at", [int(day.timestamp()) for day in DAYS], "epoch_s"),
        ("TIMESTAMP", [1_000 * int(day.timestamp()) for day in DAYS], "epoch_ms"),
        ("amount", [int(day.timestamp()) for day in DAYS], ""),
        ("flat", [int(day.timestamp()) for day in DAYS], ""),
        ("update_count", [1, 2, 3], ""),
        ("c", ["01.01.2026", "soon"], ""),
    ],
)
@pytest.mark.parametrize("stored", ["csv", "parquet"])
def test_a_time_is_known_by_its_form(
    name: str, values: list[Any], form: str, stored: str, tmp_path: Path
) -> None:
    found = seen(values, tmp_path, name=name, form=stored)
    assert found.written == form
    assert (found.span is not None) == bool(form)
    if found.span:
        assert found.span[0].date() in {DAYS[0].date(), datetime(2026, 1, 13, tzinfo=UTC).date()}


def test_the_most_frequent_values_come_first_and_of_equals_the_smaller(tmp_path: Path) -> None:
    assert seen([3, 1, 3, 0], tmp_path, form="parquet").values == ((3, 2), (0, 1), (1, 1))


def test_a_key_must_identify_every_row_not_only_those_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    columns = {"a": [1, 1, 2, 3, 4], "b": [None, 1, 2, 3, 4], "c": [5, 4, 3, 2, 1], "x": [1] * 5}
    place = store(pl.DataFrame(columns), tmp_path, "parquet")
    found = look(place)
    assert (found.rows, found.looked_at, found.unique) == (5, 3, ("c",))
    assert [one.low for one in found.columns[:2]] == [2, 2]
    assert look(place, ("a", "c")).unique == ("a",)
    for key in (("a",), ("b",), ("a", "x")):
        with pytest.raises(DataError, match="empty or repeated"):
            look(place, key)
    with pytest.raises(DataError, match="there is no column z, only a, b, c, x"):
        look(place, ("z",))


def test_what_cannot_land_is_named(tmp_path: Path) -> None:
    odd = store(pl.DataFrame({"a.b": [1], "1c": [2], "fine": [3]}), tmp_path / "1", "parquet")
    with pytest.raises(DataError, match=r"rename 'a\.b', '1c'"):
        look(odd)
    dates = store(pl.DataFrame({"day": [DAYS[0].date()]}), tmp_path / "2", "parquet")
    with pytest.raises(DataError, match="'day' is Date, which cannot land: convert it"):
        look(dates)
    broken = tmp_path / "broken.parquet"
    broken.write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        look(str(broken))
    (tmp_path / "table" / "_delta_log").mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read"):
        look(str(tmp_path / "table"))
    (tmp_path / "table" / "_delta_log").rmdir()
    for nothing in ("none.csv", "none", "table"):
        with pytest.raises(DataError, match="no CSV or Parquet file, folder of them, or Delta"):
            files_at(str(tmp_path / nothing))


def test_a_folder_of_files_is_one_table(tmp_path: Path) -> None:
    frame = machines(rows=100)
    for place, part in enumerate((frame.head(60), frame.tail(40))):
        part.write_parquet(tmp_path / f"{place}.parquet")
    assert look(str(tmp_path)).rows == 100


def test_nothing_is_written_when_something_is_not_clear(tmp_path: Path) -> None:
    place = store(machines(rows=100), tmp_path, "csv")
    for name, label in (("machines", None), ("No name", "outcome")):
        with pytest.raises(SpecError):
            write_model(tmp_path / "m", name, place, Choices(label=label))
    assert not (tmp_path / "m").exists()


@pytest.mark.real_data
def test_the_handbook_is_understood_and_its_leak_left_out(
    handbook_file: Path, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "fraud", "fraud", str(handbook_file), Choices())
    spec = parse_spec(path.read_text(), str(path))
    assert (spec.key, spec.time.column) == (("TRANSACTION_ID",), "TX_DATETIME")
    assert (spec.label.column, spec.label.positive) == ("TX_FRAUD", 1)
    assert spec.features.columns == ("TX_AMOUNT",)
    assert "# left out: TX_FRAUD_SCENARIO, by its name it may know the label" in path.read_text()
