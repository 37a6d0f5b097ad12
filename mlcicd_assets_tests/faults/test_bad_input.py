"""Bad input: files, types, columns and amounts that no contract asks for (faults.md 13 to 19)."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlcicd_assets.io.delta import Batch, append_files
from mlcicd_assets.io.ingest import ingest
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import DataError, SchemaMismatch
from mlcicd_assets.ml.values import FeatureSet
from mlcicd_assets_tests.small_model import (
    MODEL,
    deliver_days,
    failed_checks,
    ledger,
    run_job,
    small_spec,
    stored_value,
    write_batch,
)

ASSETS = ("raw_data", "validated_features", "trained_model")


def landing() -> Path:
    return Settings.from_env().landing / "card_transactions"


def parquet(frame: pl.DataFrame, **how: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(frame.to_arrow(), buffer, **how)
    return buffer.getvalue()


def corpus(good: pl.DataFrame) -> dict[str, bytes]:
    """Files that somebody might really deliver, or send to do harm."""
    csv, whole = good.write_csv().encode(), parquet(good)
    header, first = csv.split(b"\n")[:2]
    wide = b",".join(b"c%d" % n for n in range(20_000))
    damaged = {f"flip{at}.parquet": flipped(whole, at) for at in (5, -5, -300)}
    as_text = {
        f"{name}.parquet": parquet(good.with_columns(pl.col(name).cast(pl.String)))
        for name in ("transaction_id", "amount", "customer_id")
    }
    lacking = {f"no_{name}.parquet": parquet(good.drop(name)) for name in good.columns}
    bomb = good.head(1).select(pl.all().sample(2_000_000, with_replacement=True))
    return {
        "empty.csv": b"",
        "empty.parquet": b"",
        "spaces.csv": b"   \n \n",
        "header.csv": header,
        "nul.csv": csv[:500] + b"\0" * 50 + csv[500:],
        "nul_only.csv": b"\0" * 1_000,
        "binary.csv": bytes(range(256)) * 50,
        "utf16.csv": csv.decode().encode("utf-16"),
        "latin.csv": header
        + b"\n"
        + first.replace(b"chip", b"ch\xefp").replace(b"online", b"\xef"),
        "semicolons.csv": csv.replace(b",", b";"),
        "tabs.csv": csv.replace(b",", b"\t"),
        "cut.csv": csv[: len(csv) - 20],
        "quote.csv": header + b'\n"' + first,
        "long_line.csv": header + b"\n" + b"x" * 20_000_000,
        "wide.csv": wide + b"\n" + wide,
        "json.csv": b'{"transaction_id": 1}',
        "html.csv": b"<html><body>503 Service Unavailable</body></html>",
        "gzip.csv": gzip.compress(csv),
        "zeros.csv": gzip.compress(b"0" * 5_000_000),
        "twice.csv": header + b"," + header + b"\n" + first + b"," + first,
        "words.csv": header + b"\n" + b",".join([b"many"] * len(good.columns)),
        "formula.csv": header + b"\n" + first.replace(b",", b",=1+1,", 1),
        "infinite.csv": header + (b"\n" + first.replace(first.split(b",")[4], b"1e999")) * 200,
        "is_csv.parquet": csv,
        "is_zip.parquet": gzip.compress(whole),
        "cut.parquet": whole[: len(whole) // 2],
        "tail.parquet": whole[len(whole) // 2 :],
        "magic.parquet": b"PAR1" + b"\0" * 100 + b"PAR1",
        "footer.parquet": whole[:-8] + b"\xff\xff\xff\x7fPAR1",
        "null.parquet": parquet(good.with_columns(pl.lit(None).alias("amount"))),
        "nested.parquet": parquet(good.with_columns(pl.struct("amount").alias("amount"))),
        "list.parquet": parquet(good.with_columns(pl.concat_list("amount").alias("amount"))),
        "date.parquet": parquet(good.with_columns(pl.col("tx_time").dt.date())),
        "whole.parquet": parquet(good.with_columns(pl.col("amount").cast(pl.Int64))),
        "float_key.parquet": parquet(good.with_columns(pl.col("transaction_id") + 0.5)),
        "bomb.parquet": parquet(bomb, compression="zstd"),
        "few.parquet": parquet(good.head(3)),
        **damaged,
        **as_text,
        **lacking,
    }


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0xFF
    return bytes(changed)


def test_no_file_of_the_corpus_crashes_or_lands_and_each_is_refused_with_a_reason(
    home: Path,
) -> None:
    """Row 19: and the good file among them is taken."""
    deliver_days(2)
    newest = pl.read_parquet(max(landing().glob("*.parquet")))
    for file in landing().iterdir():
        file.unlink()
    good = landing() / "good.parquet"
    newest.write_parquet(good)
    files = corpus(newest)
    for name, content in files.items():
        (landing() / name).write_bytes(content)
    done = ingest(Settings.from_env(), ledger(), small_spec(), run_id="r")
    assert [name for name in done.taken if not name.startswith("labels")] == [good.name]
    reasons = {name: str(verdict) for name, verdict in done.refused}
    assert reasons.keys() == files.keys()
    assert all("gate 'contract' FAILED" in reason for reason in reasons.values())
    assert {name for name, reason in reasons.items() if len(reason) > 3_000} == set()
    raw = pl.read_delta(str(home / "lake" / MODEL / "raw"))
    assert raw.sort("transaction_id").equals(newest.select(raw.columns).sort("transaction_id"))
    assert len(files) >= 50


def test_a_small_file_of_very_many_rows_or_columns_costs_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 19: its rows are counted before they are read, its columns before they are compared."""
    deliver_days(1)
    most = pl.read_parquet(max(landing().glob("*.parquet"))).height - 1
    path = landing() / "wide.csv"
    path.write_text(2 * (",".join(f"c{n}" for n in range(200)) + "\n"))
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: 1 / 0)
    strict = small_spec(contract__rows={"min": 0, "max": most}, label__source={"landing": "none"})
    with pytest.raises(DataError, match="land data first"):
        ingest(Settings.from_env(), ledger(), strict, run_id="r")
    seen = ledger().seen_files(str(landing()))
    assert {file.status for file in seen.values()} == {"refused"}
    assert f"deliver at most {most:,} in a file" in seen[max(seen.keys() - {path.name})].detail
    assert "wide.csv has 200 columns" in seen[path.name].detail


KINDS = [pa.int64(), pa.int8(), pa.float64(), pa.float32(), pa.string(), pa.bool_(), pa.date32()]
VALUES = [1, 0, -1, 1.0, 1.5, 2.0**53, float("nan"), "1", "x", "", True, None]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_type_is_changed_on_its_way_into_a_table(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Row 14: a batch lands as it is, or not at all."""
    uri = str(tmp_path_factory.mktemp("table") / "t")

    def column() -> pa.Array:
        kind = data.draw(st.sampled_from(KINDS))
        values = [value for value in VALUES if fits(value, kind)]
        return pa.array(data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)), kind)

    first, second = (pa.table({"value": column()}) for _ in range(2))
    append_files(uri, [Batch("a", "a", first)], metadata={})
    expected = [first]
    try:
        append_files(uri, [Batch("b", "b", second)], metadata={})
        expected.append(second)
    except SchemaMismatch:
        assert first.schema != second.schema
    landed = pl.read_delta(uri)["value"].to_list()
    wanted = [value for table in expected for value in table["value"].to_pylist()]
    assert sorted(map(repr, landed)) == sorted(map(repr, wanted))
    assert str(pl.read_delta(uri).to_arrow().schema.field("value").type) in {
        str(first.schema.field("value").type),
        "large_string",
        "string_view",
    }


def fits(value: object, kind: pa.DataType) -> bool:
    try:
        return pa.array([value], kind).to_pylist()[0] is not None or value is None
    except (ValueError, TypeError, OverflowError):
        return False


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw.with_columns(tip=pl.lit(0.5)), "'tip' is double and must be left out"),
        (lambda raw: raw.drop("channel"), "'channel' is missing and must be string"),
        (lambda raw: raw.rename({"amount": "sum"}), "'amount' is missing and must be double"),
        (
            lambda raw: raw.with_columns(amount=pl.col("amount").cast(pl.String)),
            "is string and must",
        ),
    ],
)
def test_a_foreign_table_that_changed_its_columns_stops_the_run_with_the_difference(
    home: Path, change: Callable[[pl.DataFrame], pl.DataFrame], words: str
) -> None:
    """Row 13."""
    deliver_days(2)
    raw = pl.read_parquet(landing() / "*.parquet")
    change(raw).write_delta(home / "theirs")
    spec = small_spec(source={"table": str(home / "theirs")})
    assert run_job(spec, only="raw_data").success
    failed = run_job(spec, only="validated_features")
    (event,) = [event for event in failed.all_events if event.is_step_failure]
    assert words in str(event.event_specific_data.error)
    assert ledger().entries(kinds=("outcome",)) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [(0, "0 of 0 rows"), (1, "has 0 rows"), (200, "both classes are needed")],
)
def test_few_rows_or_one_class_make_no_model_and_say_why(home: Path, rows: int, words: str) -> None:
    """Row 16."""
    deliver_days(45)
    raw = pl.read_parquet(landing() / "*.parquet").sort("tx_time").tail(rows)
    raw.write_delta(home / "theirs")
    spec = small_spec(source={"table": str(home / "theirs")})
    results = [run_job(spec, only=asset) for asset in ASSETS]
    errors = "".join(str(failed_checks(result)) for result in results) + "".join(
        str(event.event_specific_data.error)
        for result in results
        for event in result.all_events
        if event.is_step_failure
    )
    assert not results[-1].success
    assert words in errors
    assert "NotEnoughData" in errors or "DataError" in errors
    assert not (home / "mlflow-artifacts").exists()


@pytest.mark.parametrize(("share", "blocks"), [(0.005, False), (0.05, True), (0.2, True)])
def test_a_flood_of_repeated_keys_is_put_aside_and_then_blocks(
    home: Path, share: float, blocks: bool
) -> None:
    """Row 17."""
    deliver_days(3)
    again = write_batch("transactions-again.parquet")
    rows = pl.read_parquet(again)
    many = np.arange(rows.height) < share * rows.height
    rows.with_columns(
        pl.when(pl.Series(many)).then(pl.col("transaction_id").max()).otherwise("transaction_id")
    ).write_parquet(again)
    result = run_job(small_spec(), only="raw_data")
    assert ("contract" in failed_checks(result)) == blocks
    if blocks:
        assert "unique_key quarantined" in failed_checks(result)["contract"]


@pytest.mark.ci
def test_rows_out_of_order_give_the_same_features(home: Path) -> None:
    """Row 18: also when the early ones come last."""
    deliver_days(20)
    raw = pl.read_parquet(landing() / "*.parquet")
    prints: list[str] = []
    for number, rows in enumerate(
        (raw, raw.reverse(), raw.sample(fraction=1, shuffle=True, seed=1))
    ):
        table = home / f"theirs{number}"
        rows.write_delta(table)
        spec = small_spec(source={"table": str(table)}, contract__rows={})
        assert all(run_job(spec, only=asset).success for asset in ASSETS[:2])
        prints.append(stored_value(MODEL, "validated_features", FeatureSet).features.fingerprint)
    assert len({*prints}) == 1
