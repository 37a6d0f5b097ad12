"""Rebuild: make a version again from its record alone, keep nothing of it, and compare."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.feature_run import make_features
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.record import Record, environment, origins, read_record
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.training_run import load_split, make_bundle
from mlcicd_assets.ml.errors import BundleError, DataError
from mlcicd_assets.ml.estimator import column_arrays
from mlcicd_assets.ml.scoring import largest_difference
from mlcicd_assets.ml.search import chosen_spec
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.splitting import Split
from mlcicd_assets.ml.training import fit, key_parts
from mlcicd_assets.ml.values import FeatureSet, TableVersion

Line = tuple[str, str, str]  # what is compared, as recorded, as it is now
# These must be equal; machine, libraries and commit only explain why they are not.
CONTENT, KEY, SCORES, THRESHOLD = MUST = ("content of", "key:", "scores of", "threshold")


def is_equal(lines: list[Line]) -> bool:
    """Tell whether data, training key and every prediction are equal, bit for bit."""
    return all(was == now for what, was, now in lines if what.startswith(MUST))


def rebuild(settings: Settings, ledger: Ledger, model: str, version: int | None) -> list[Line]:
    """Make a version, the live one by default, again; lake and releases are only read.

    Raises:
        BundleError: there is no such version, or it has no record that this package can read.
        DataError: neither the features nor what they were made from is there.
    """
    live, made = ledger.live(model), origins(settings, ledger, model)
    wanted = live.version if live and version is None else version
    digests = {one.version: one.digest for one in made if one.version}
    if wanted not in digests:
        known = ", ".join(f"v{one}" for one in sorted(digests)) or "none"
        raise BundleError(f"'{model}' has no such version to make again; it has: {known}")
    record = read_record(settings.releases, model, digests[wanted])
    if record is None:
        raise BundleError(f"{model} v{wanted} has no record: it was trained before there were any")
    with tempfile.TemporaryDirectory(prefix="mlcicd-rebuild-") as name:
        home = Path(name)
        own = replace(settings, home=home, lake=f"{home}/lake", releases=home / "releases")
        return _made_again(settings, own, digests[wanted], record)


def _made_again(settings: Settings, own: Settings, digest: str, record: Record) -> list[Line]:
    try:
        spec = PipelineSpec.model_validate(record.spec)
    except ValidationError as error:
        raise BundleError(f"its record is of another release of this package: {error}") from error
    here = environment()
    lines = [(name, was, here.get(name, "-")) for name, was in record.environment.items()]
    data, content = _checked_data(own, spec, record.data)
    lines += content
    if any(was != now for _, was, now in content):
        return lines
    split = load_split(data, spec)
    parts = key_parts(split.train, spec)
    for name in sorted({*record.key_parts, *parts}):
        lines.append((f"{KEY} {name}", _text(record.key_parts.get(name)), _text(parts.get(name))))
    return lines + _compared(settings, own, digest, spec, split, record.chosen)


def _checked_data(
    own: Settings, spec: PipelineSpec, data: FeatureSet
) -> tuple[FeatureSet, list[Line]]:
    """Read every pinned row again, so that a flipped bit is found; make lost features again."""
    raw = data.raw
    try:
        return data, [_content(table) for table in (data.features, raw.labels) if table]
    except DataError as error:
        lines = [_content(table) for table in (raw.events, raw.labels) if table]
        made = make_features(own, spec, raw, run_id="rebuild").data
        what = f"{CONTENT} {data.features}, gone and made again from {raw.events} ({error})"
        return made, [*lines, (what, data.features.fingerprint, made.features.fingerprint)]


def _content(table: TableVersion) -> Line:
    found = pin(table.uri, version=table.version)
    return f"{CONTENT} {table}", table.fingerprint, found.fingerprint


def _compared(
    settings: Settings,
    own: Settings,
    digest: str,
    spec: PipelineSpec,
    split: Split,
    chosen: dict[str, Any],
) -> list[Line]:
    """Train with what a search chose then; score the golden rows and the holdout with both."""
    new = make_bundle(own, spec, split, fit(split.train, chosen_spec(spec, chosen)))
    old = load_bundle(settings.releases, spec.name, digest)
    holdout = column_arrays(split.holdout, old.columns)
    lines = [("bundle", digest, new.digest), (THRESHOLD, str(old.threshold), str(new.threshold))]
    for what, rows in (("the golden rows", old.golden_columns), ("the holdout", holdout)):
        before, after = old.scorer.score(rows), new.scorer.score(rows)
        told = now = f"{len(before)} rows, bit-equal"
        if before.tobytes() != after.tobytes():
            now = f"off by up to {largest_difference(before, after):.3g}"
        lines.append((f"{SCORES} {what}", told, now))
    return lines


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
