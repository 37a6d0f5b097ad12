"""The evaluation page of a model version: Evidently's report on a bounded sample, kept as snapshot.

For people to look at; nothing is decided by it (docs/decisions/0008).
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from mlcicd_assets.io.bundle import Bundle, load_bundle
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split
from mlcicd_assets.ml.errors import PageError
from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.features import LABEL
from mlcicd_assets.ml.scoring import decide
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.values import ModelVersionRef

if TYPE_CHECKING:
    import polars as pl

SAMPLE_ROWS: Final = 10_000
SAMPLE_SEED: Final = 20_260_103
MOST_SECONDS: Final = 300


@dataclass(frozen=True)
class Page:
    """Where the snapshot is, how far each input drifted, and what it took (0: it was there)."""

    snapshot: Path
    drift: dict[str, float]
    drifted: int
    seconds: float


def page_path(settings: Settings, model: str, digest: str) -> Path:
    """Return where the snapshot of a bundle's page is, or will be."""
    return settings.home / "pages" / model / f"{digest}.json.gz"


def make_page(settings: Settings, spec: PipelineSpec, candidate: ModelVersionRef) -> Page:
    """Compare holdout with training rows, both as the candidate scores them.

    Raises:
        PageError: Evidently failed or took too long; its last words are given.
    """
    path = page_path(settings, spec.name, candidate.digest)
    beside = path.with_suffix(".drift")
    if path.is_file() and beside.is_file():
        return Page(path, **msgspec.json.decode(beside.read_bytes()), seconds=0.0)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mlcicd-page-") as name:
        folder = Path(name)
        _write_frames(settings, spec, candidate, folder)
        _run(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "snapshot.json.gz", path)
        shutil.copy(folder / "drift.json", beside)
        told = msgspec.json.decode((folder / "drift.json").read_bytes())
    return Page(path, **told, seconds=time.monotonic() - started)


def render_page(settings: Settings, model: str, digest: str) -> str:
    """Return a kept page as HTML.

    Raises:
        PageError: there is none of this bundle.
    """
    from mlcicd_assets.io.page_worker import as_html

    path = page_path(settings, model, digest)
    if not path.is_file():
        raise PageError(
            f"'{model}' has no page of bundle {digest[:12]}: materialize its evaluation_page"
        )
    return as_html(path)


def _write_frames(
    settings: Settings, spec: PipelineSpec, candidate: ModelVersionRef, folder: Path
) -> None:
    split = load_split(candidate.data, spec)
    bundle = load_bundle(settings.releases, spec.name, candidate.digest)
    for part, rows in (("reference", split.train), ("current", split.holdout)):
        few = rows.sample(min(SAMPLE_ROWS, rows.height), seed=SAMPLE_SEED)
        _scored(few, bundle).write_parquet(folder / f"{part}.parquet")
    told = {
        "target": spec.label.target,
        "classes": [str(name) for name in bundle.classes],
        "numbers": [column.name for column in bundle.columns if column.kind == "number"],
        "categories": [column.name for column in bundle.columns if column.kind == "category"],
    }
    (folder / "columns.json").write_bytes(msgspec.json.encode(told))


def _scored(rows: "pl.DataFrame", bundle: Bundle) -> "pl.DataFrame":
    """Inputs, label, decision, and score (of several classes one column each, by its name)."""
    import polars as pl

    scores = bundle.scorer.score(column_arrays(rows, bundle.columns))
    decisions = decide(scores, bundle.threshold)
    names = [str(name) for name in bundle.classes]
    label = pl.col(LABEL)
    if names:
        label = label.replace_strict(range(len(names)), names)
        told = {
            "decision": [names[index] for index in decisions],
            **dict(zip(names, scores.T, strict=True)),
        }
    elif bundle.threshold is None:
        told = {"score": scores}
    else:
        told = {"decision": decisions.astype("i8"), "score": scores}
    inputs = [column.name for column in bundle.columns]
    return rows.select(*inputs, label.alias(LABEL)).with_columns(
        pl.Series(name, values) for name, values in told.items()
    )


def _run(folder: Path) -> None:
    words = [sys.executable, "-m", "mlcicd_assets.io.page_worker", str(folder)]
    environment = {**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            words,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PageError(
            f"Evidently took over {MOST_SECONDS} s and was stopped: materialize evaluation_page "
            "again when the machine is less busy"
        ) from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise PageError(f"Evidently failed: {last}. No release depends on it")
