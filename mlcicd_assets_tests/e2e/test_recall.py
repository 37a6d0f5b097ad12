"""Ten versions of a model, one batch of them bad: found, recalled, and the live one made again."""

import time
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.values import FeatureSet
from mlcicd_assets_tests.e2e.test_rollback import LAX, WEAK, mlcicd
from mlcicd_assets_tests.small_model import (
    DAYS,
    MODEL,
    deliver_days,
    ledger,
    metadata,
    outcomes,
    run_job,
    small_spec,
    stored_value,
)

pytestmark = pytest.mark.ci
VERSIONS, BAD, COMPACTED, DELETED = 10, 4, 6, 8
BAD_IDS = 10_000_000


def land_bad_rows() -> None:
    """What a terminal sent that writes each amount a little too large: no gate sees it."""
    folder = Settings.from_env().landing / "card_transactions"
    newest = pl.read_parquet(max(folder.glob("transactions-*.parquet")))
    bad = newest.head(120).with_columns(
        pl.col("transaction_id") + BAD_IDS,
        pl.col("tx_time") + pl.duration(seconds=1),
        pl.col("amount") * 1.01,
    )
    bad.write_parquet(folder / "terminal-7.parquet")


def bad_by_oracle(uri: str, pins: dict[int, int]) -> set[int]:
    """Read each pinned version by another library, and look for the bad keys."""
    found: set[int] = set()
    for version, at in pins.items():
        keys = DeltaTable(uri, version=at).to_pyarrow_table(columns=["transaction_id"])
        if max(keys["transaction_id"].to_pylist()) >= BAD_IDS:
            found.add(version)
    return found


def test_a_bad_batch_is_recalled_from_a_history_of_ten(server: str, home: Path) -> None:
    weak, good = small_spec(**WEAK, **LAX), small_spec(**LAX)
    uri = f"{Settings.from_env().lake}/{MODEL}/raw"
    pins: dict[int, int] = {}
    for version in range(1, VERSIONS + 1):
        deliver_days(DAYS + version)
        if version == BAD:
            land_bad_rows()
        if version == COMPACTED:
            DeltaTable(uri).optimize.compact()
        if version == DELETED:
            DeltaTable(uri).delete(f"transaction_id >= {BAD_IDS}")
        result = run_job(weak if version < BAD else good)
        assert result.success, outcomes()
        assert metadata(result, "trained_model")["version"] == version
        pins[version] = stored_value(MODEL, "validated_features", FeatureSet).raw.events.version
    oracle = bad_by_oracle(uri, pins)
    assert oracle == set(range(BAD, DELETED))
    assert served(server) in oracle, outcomes()

    started = time.monotonic()
    done = mlcicd(
        "recall", MODEL, "--where", f"transaction_id >= {BAD_IDS}", "--reason", "bad", "--yes"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seconds = time.monotonic() - started
    (entry,) = ledger().entries(kinds=("recall",))
    found = set(entry.body["models"].values())
    print(f"figure recall_seconds {seconds:.1f}")
    print(f"figure recall_versions_missed {len(oracle - found)} == 0")
    print(f"figure recall_versions_too_many {len(found - oracle)} == 0")
    assert found == oracle
    assert served(server) == 1
    assert mlcicd("verify", MODEL).returncode == 0

    # The rows are gone from the table: the next day's model replaces the weak one.
    deliver_days(DAYS + VERSIONS + 1)
    assert run_job(good).success
    assert outcomes()[-1] == "released"
    rebuilt = mlcicd("rebuild", MODEL)
    assert rebuilt.returncode == 0, rebuilt.stdout + rebuilt.stderr
    assert rebuilt.stdout.endswith("bit-equal; what differs: nothing\n")


def served(url: str) -> int | None:
    status = model_status(url, MODEL, token=None)
    return status.version if status else None
