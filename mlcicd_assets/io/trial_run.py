"""The whole pipeline on a sample, in a folder that is gone afterwards: for who writes the YAML."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlcicd_assets.io.delta import pin, scan
from mlcicd_assets.io.evaluation_run import Evaluation, evaluate
from mlcicd_assets.io.feature_run import make_features
from mlcicd_assets.io.ingest import judge_file, source_uri
from mlcicd_assets.io.landing import list_files, normalise
from mlcicd_assets.io.profile import files_at
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split, make_bundle
from mlcicd_assets.ml.contract import event_schema, label_schema
from mlcicd_assets.ml.errors import DataError
from mlcicd_assets.ml.search import chosen_spec, search
from mlcicd_assets.ml.sections import Source
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.training import fit, training_key
from mlcicd_assets.ml.values import ModelVersionRef, RawData, TableVersion, Verdict

if TYPE_CHECKING:
    import polars as pl

FEATURE_ROWS = 20
TRIALS = 3  # of a search, at most
Tell = Callable[[str, Sequence[Verdict]], None]


def try_out(
    settings: Settings, spec: PipelineSpec, *, rows: int, data: str | None, tell: Tell
) -> Evaluation:
    """Run every step and every gate on the source, or on `data`; tells of each step.

    Features see the newest `FEATURE_ROWS * rows` events, so that windows are those of production;
    the model then learns and is judged on `rows` of them, drawn from all the time there is.

    Raises:
        DataError: there are no data, too few, or they are not what the contract says.
    """
    with tempfile.TemporaryDirectory(prefix="mlcicd-try-") as folder:
        home = Path(folder)
        own = dataclasses.replace(
            settings, home=home, lake=f"{home}/lake", releases=home / "releases"
        )
        pinned: dict[str, TableVersion] = {}
        for source, name in spec.sources():
            every, refused = _read(settings, spec, source, name, data if name == "raw" else None)
            newest = every
            if name == "raw" and every.height > FEATURE_ROWS * rows:
                newest = every.top_k(FEATURE_ROWS * rows, by=spec.time.column)
            pinned[name] = _keep(f"{home}/lake/{name}", newest)
            kept = f", kept the newest {newest.height:,}: see --rows" if newest is not every else ""
            tell(f"read {name}: {every.height:,} rows{kept}", refused)
        raw = RawData(pinned["raw"], pinned.get("labels"))
        made = make_features(own, spec, raw, run_id="try")
        tell(f"made features of {made.data.features.rows:,} rows", made.verdicts)
        drawn = draw(scan(made.data.features).collect(), spec, rows)
        sample = _keep(f"{home}/lake/drawn", drawn)
        features = dataclasses.replace(made.data, features=sample)
        split = load_split(features, spec)
        chosen = _search(spec, split, tell)
        fitted = fit(split.train, chosen_spec(spec, chosen))
        bundle = make_bundle(own, spec, split, fitted)
        parts = f"{split.train.height:,} rows, held out {split.holdout.height:,}"
        tell(f"drew {drawn.height:,} rows, trained {spec.training.estimator} on {parts}", ())
        key = training_key(split.train, spec)
        model = ModelVersionRef(spec.name, 0, bundle.digest, key, "", features, chosen)
        evaluation = evaluate(own, spec, model, live=None, pipeline=fitted.pipeline)
        tell("judged the model, served it on trial", evaluation.verdicts)
        return evaluation


def _search(spec: PipelineSpec, split: Split, tell: Tell) -> dict[str, Any]:
    if (wanted := spec.training.search) is None:
        return {}
    few = wanted.model_copy(update={"trials": min(TRIALS, wanted.trials)})
    best = max(search(split.train, spec, few, {}), key=lambda trial: trial.score)
    tell(f"tried {few.trials} of the {wanted.trials} trials of its search", ())
    return best.parameters


def draw(features: "pl.DataFrame", spec: PipelineSpec, rows: int) -> "pl.DataFrame":
    """Keep `rows` rows whatever their time: the newest alone seldom reach back to the training."""
    import polars as pl

    if features.height <= rows:
        return features
    order = features.select(pl.struct(spec.key).hash()).to_series()
    return features.filter(order.rank("ordinal") <= rows)


def _keep(uri: str, frame: "pl.DataFrame") -> TableVersion:
    frame.write_delta(uri)
    return pin(uri)


def _read(
    settings: Settings, spec: PipelineSpec, source: Source, own: str, data: str | None
) -> "tuple[pl.DataFrame, list[Verdict]]":
    """Read all of a source as the types of its contract, with the verdicts on refused files."""
    import polars as pl

    is_events, folder = own == "raw", settings.landing / (source.landing or "")
    schema = event_schema(spec) if is_events else label_schema(spec)
    if data is None and source.landing and not list_files(folder):
        raise DataError(f"{folder} holds no CSV or Parquet file: land some, or give --data PATH")
    place = data or (str(folder) if source.landing else source_uri(settings, spec, source, own))
    if not (files := files_at(place)):
        version, time = pin(place), spec.time if is_events else None
        table = scan(version).collect().to_arrow()
        return pl.DataFrame(normalise(table, schema=schema, time=time, what=str(version))), []
    judged = [(file.name, *judge_file(file, "", spec, is_events=is_events)) for file in files]
    refused = [
        dataclasses.replace(verdict, detail=f"file {name} would be refused: {verdict.detail}")
        for name, _, verdict in judged
        if not verdict.passed
    ]
    if len(refused) == len(judged):
        raise DataError(f"every file is refused; the first: {refused[0]}")
    good = [pl.DataFrame(table) for _, table, verdict in judged if verdict.passed]
    return pl.concat(good), refused
