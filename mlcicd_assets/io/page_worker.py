"""Run Evidently on two frames, in a process of its own: its import alone costs seconds of CPU.

`python -m mlcicd_assets.io.page_worker FOLDER` reads `reference.parquet`, `current.parquet` and
`columns.json` there, and writes `snapshot.json.gz` and `drift.json` (column: drift score).
"""

import gzip
import os
import sys
import warnings
from pathlib import Path
from typing import Any, Final

import msgspec

NICE: Final = 10  # the release that runs beside it goes first


def report_on(folder: Path) -> None:
    """Compare both frames and write the snapshot."""
    import polars as pl
    from evidently import DataDefinition, Dataset, Report
    from evidently import presets as of

    told = msgspec.json.decode((folder / "columns.json").read_bytes())
    quality, roles = _roles(told)
    definition = DataDefinition(
        numerical_columns=told["numbers"], categorical_columns=told["categories"], **roles
    )
    current, reference = (
        Dataset.from_pandas(
            pl.read_parquet(folder / f"{part}.parquet").to_pandas(), data_definition=definition
        )
        for part in ("current", "reference")
    )
    columns = [*told["numbers"], *told["categories"]]
    drift = of.DataDriftPreset(columns=columns)
    summary = of.DataSummaryPreset(columns=columns)
    snapshot = Report([summary, drift, quality()]).run(current, reference)
    with gzip.open(folder / "snapshot.json.gz", "wt", encoding="utf-8") as file:
        file.write(snapshot.dumps())
    found = {
        one["config"]["column"]: float(one["value"])
        for one in snapshot.dict()["metrics"]
        if one["metric_name"].startswith("ValueDrift(")
    }
    drifted = next(
        one["value"]["count"]
        for one in snapshot.dict()["metrics"]
        if one["metric_name"].startswith("DriftedColumnsCount(")
    )
    answer = {"drift": found, "drifted": int(drifted)}
    (folder / "drift.json").write_bytes(msgspec.json.encode(answer))


def as_html(snapshot: Path) -> str:
    """Render a snapshot; the page needs no network."""
    with warnings.catch_warnings(), gzip.open(snapshot, "rt", encoding="utf-8") as file:
        warnings.simplefilter("ignore")  # its libraries use deprecated parts of others
        from evidently.core.report import Snapshot

        return Snapshot.loads(file.read()).get_html_str(as_iframe=False)


def _roles(told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the preset of quality, and which columns are label, decision and score."""
    from evidently import BinaryClassification, MulticlassClassification, Regression, presets

    if told["target"] == "regression":
        roles = Regression(target="label", prediction="score")
        return presets.RegressionPreset, {"regression": [roles]}
    if told["target"] == "multiclass":
        several = MulticlassClassification(
            target="label", prediction_labels="decision", prediction_probas=told["classes"]
        )
        return presets.ClassificationPreset, {"classification": [several]}
    positive: Any = 1
    yes_no = BinaryClassification(
        target="label", prediction_labels="decision", prediction_probas="score", pos_label=positive
    )
    return presets.ClassificationPreset, {"classification": [yes_no]}


if __name__ == "__main__":
    os.nice(NICE)
    # Constant columns and rare classes make its libraries warn; the report stands them.
    warnings.simplefilter("ignore")
    report_on(Path(sys.argv[1]))
