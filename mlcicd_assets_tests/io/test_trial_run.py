"""A model tried on a sample: every gate, the rows of production's windows, nothing left behind."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from mlcicd_assets.io import trial_run
from mlcicd_assets.io.evaluation_run import Evaluation
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.trial_run import draw, try_out
from mlcicd_assets.ml.data_gates import DATA_GATES
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.model_gates import MODEL_GATES
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import Verdict
from mlcicd_assets_tests.small_model import deliver_days, metadata, run_job, small_spec

GATES = {"serving": {"requests": 20}, "floors": {"roc_auc": 0.5}, "calibration": None}
SPEC = small_spec(gates=GATES)


def tried(
    spec: PipelineSpec = SPEC, *, rows: int = 50_000, data: str | None = None
) -> tuple[Evaluation, dict[str, Verdict], list[str]]:
    steps: list[str] = []
    verdicts: list[Verdict] = []

    def tell(step: str, judged: Sequence[Verdict]) -> None:
        steps.append(step)
        verdicts.extend(judged)

    made = try_out(Settings.from_env(), spec, rows=rows, data=data, tell=tell)
    return made, {verdict.gate: verdict for verdict in verdicts}, steps


def landing() -> Path:
    return Settings.from_env().landing / "card_transactions"


def test_on_all_rows_it_says_what_the_job_says(
    server: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    deliver_days()
    before = sorted(home.rglob("*"))
    made, verdicts, _ = tried()
    assert sorted(home.rglob("*")) == before
    assert not list(temporary.iterdir())
    asked = {gate.name for gate in (*DATA_GATES, *MODEL_GATES) if gate.is_on(SPEC.gates)}
    assert set(verdicts) == asked
    assert all(verdict.passed for verdict in verdicts.values())
    shown = metadata(run_job(SPEC), "evaluation_report")
    for name in ("roc_auc", "average_precision", "rows"):
        assert made.metrics[name] == shown[name]


@pytest.mark.ci
def test_a_sample_keeps_whole_windows_and_all_the_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_days()
    whole, _, _ = tried()
    made, verdicts, steps = tried(rows=9_000)
    split, everything = made.scored.split, whole.scored.split
    assert split.train.height + split.holdout.height < 9_000
    assert (split.holdout_from, split.holdout_until) == (
        everything.holdout_from,
        everything.holdout_until,
    )
    # What was drawn has the features that it has among all rows.
    assert everything.train.join(split.train, on=split.train.columns, nulls_equal=True).height == (
        split.train.height
    )
    assert verdicts["feature_sanity"].sample_size > 9_000
    assert "drew 9,000 rows" in steps[3]
    monkeypatch.setattr(trial_run, "FEATURE_ROWS", 2)
    newest = tried(rows=22_500)
    assert newest[2][0].endswith("rows, kept the newest 45,000: see --rows")
    assert newest[0].scored.split.train_from > everything.train_from


@pytest.mark.ci
def test_a_search_is_cut_short_and_says_so(home: Path) -> None:
    deliver_days()
    searching = small_spec(
        gates=GATES,
        label__matures_after_days=2,
        training__parameters={"learning_rate": 0.1},
        training__search={
            "trials": 50,
            "parameters": {"max_iter": {"low": 20, "high": 90, "integer": True}},
        },
    )
    made, verdicts, steps = tried(searching)
    assert "tried 3 of the 50 trials of its search" in steps
    assert verdicts["leakage"].passed
    assert made.metrics["roc_auc"] > 0.6


def test_a_draw_is_the_same_every_time_and_of_all_times() -> None:
    features = pl.DataFrame({"transaction_id": range(1_000)})
    drawn = draw(features, SPEC, 100)
    assert drawn.equals(draw(features, SPEC, 100))
    assert drawn.height == 100
    assert drawn["transaction_id"].is_sorted()
    assert 300 < drawn["transaction_id"].mean() < 700
    assert draw(features, SPEC, 1_000).height == 1_000


def test_a_file_that_would_be_refused_fails_the_contract_by_name(home: Path) -> None:
    deliver_days()
    newest = max(landing().iterdir())
    pl.read_parquet(newest).rename({"amount": "sum"}).write_parquet(newest)
    _, verdicts, _ = tried()
    failed = {name: verdict.detail for name, verdict in verdicts.items() if not verdict.passed}
    assert "contract" not in failed  # the last word is of the rows that were taken
    steps: list[Verdict] = []
    try_out(
        Settings.from_env(),
        SPEC,
        rows=9_000,
        data=None,
        tell=lambda _, judged: steps.extend(judged),
    )
    assert not steps[0].passed
    assert f"file {newest.name} would be refused: schema" in steps[0].detail
    one = landing().parent / "one"
    one.mkdir()
    newest.rename(one / newest.name)
    with pytest.raises(DataError, match="every file is refused; the first: gate 'contract' FAILED"):
        tried(data=str(one))


@pytest.mark.ci
def test_data_before_they_are_landed_may_be_a_file_a_folder_or_a_table(home: Path) -> None:
    with pytest.raises(DataError, match=r"card_transactions holds no CSV or Parquet file: land"):
        tried()
    deliver_days()
    frame = pl.read_parquet(landing() / "*.parquet")
    for file in landing().iterdir():
        file.unlink()
    spec = small_spec(gates=GATES, contract__rows={})
    frame.write_parquet(home / "all.parquet")
    frame.write_delta(home / "table")
    (landing().parent / "folder").mkdir()
    frame.write_csv(landing().parent / "folder" / "all.csv")
    places = (home / "all.parquet", home / "table", landing().parent / "folder")
    found = [tried(spec, data=str(place))[0].metrics["roc_auc"] for place in places]
    assert len(set(found)) == 1
    foreign = small_spec(gates=GATES, source={"table": str(home / "table")})
    assert tried(foreign)[0].metrics["roc_auc"] == found[0]
