"""From what a table looks like to the text of a commented defs.yaml."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from string import Template
from typing import Any, Final, Literal

import yaml

from mlcicd_assets.ml.errors import SpecError

Kind = Literal["integer", "number", "boolean", "timestamp", "string"]
MOST_TEXTS, MOST_CLASSES, FEW_ROWS = 30, 20, 2_000
LABELS: Final = re.compile(r"(?i)label|target|y|class")
IDS: Final = re.compile(r"(?i)(.*_)?(id|uuid|key)")
# Small regularised trees: equal retrains then differ by far less than the gate's margin.
TREES: Final = "{max_iter: 200, learning_rate: 0.05, max_leaf_nodes: 8, early_stopping: false}"
TEMPLATE: Final = Template("""\
# Proposed by `mlcicd new` from $looked_at of $rows rows. It knows only what it saw: correct it.
type: mlcicd_assets.components.ModelPipeline

attributes:
  name: $name
  description: Predicts $label.  # in words for people
  owners: [team:unknown]  # or e-mail addresses
  source: $source
  key: $key
  time: $time  # zone: of times that carry none

  label:
    column: $label
    $target
    # matures_after_days: 30  # where a label is final only so long after its row

  contract:
    columns:  # a row that differs is quarantined
$columns

  features:
    columns: $features  # are all of them known when the score is wanted?
$left_out    # calendar: [hour, weekday, month]

  split: $split  # $days days were seen

  training:
    estimator: $estimator
    parameters: $parameters
    seed: 0

  gates:
    features: {max_null_share: $nulls}
    floors: $floors  # little better than chance: raise them to what `mlcicd try` reaches
    # costs: {false_positive: 10, false_negative: 100}  # money chooses the threshold of yes or no
""")


@dataclass(frozen=True)
class Seen:
    """A column, its most frequent values with counts; format and span if it can be a time."""

    name: str
    kind: Kind
    null_share: float = 0
    distinct: int = 100
    values: tuple[tuple[Any, int], ...] = ()
    low: Any = None
    high: Any = None
    written: str = ""
    span: tuple[datetime, datetime] | None = None


@dataclass(frozen=True)
class Profile:
    """A table of which some rows were looked at; each `unique` column identifies a row."""

    rows: int
    looked_at: int
    columns: tuple[Seen, ...]
    unique: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """What a person has decided; all else is to be found."""

    label: str | None = None
    time: str | None = None
    key: tuple[str, ...] = ()
    positive: str | None = None


def propose(name: str, source: dict[str, str], profile: Profile, choices: Choices) -> str:
    """Return a defs.yaml with what can be concluded, and why.

    Raises:
        SpecError: what is key, time or label is not clear; names the option that tells it.
    """
    columns = {one.name: one for one in profile.columns}
    times = {one.name: one.span for one in profile.columns if one.span}
    time = columns[
        _choose(
            "--time",
            choices.time,
            [*times],
            "none reads as a time; add a column that says when each row happened",
        )
    ]
    ids = [one for one in profile.unique if one != time.name]
    ids = [one for one in ids if IDS.fullmatch(one)][:1] or ids[:1]
    key = choices.key or (_choose("--key", None, ids, "name those that identify a row together"),)
    free = [one for one in profile.columns if one.name not in {time.name, *key}]
    candidates = [one.name for one in free if choices.label or LABELS.fullmatch(one.name)]
    candidates = candidates or [one.name for one in free if one.distinct == 2]
    label = columns[_choose("--label", choices.label, candidates, "none has two values")]
    useless = {one.name: why for one in free if (why := _useless(one, label))}
    used = [one for one in free if one.name not in {*useless, label.name}]
    if not used:
        raise SpecError("no column is left for a feature, and a model needs one at least")
    target, floors, boosted, linear = _target(label, choices.positive)
    few, nulls = profile.rows < FEW_ROWS, max(one.null_share for one in used)
    days = (times[time.name][1] - times[time.name][0]).days
    return TEMPLATE.substitute(
        rows=f"{profile.rows:,}",
        looked_at=f"{profile.looked_at:,}",
        name=name,
        source=_flow(source),
        key=_flow(list(key)),
        time=_flow({"column": time.name, "format": time.written, "zone": "UTC"}),
        label=_flow([label.name])[1:-1],
        target=target,
        columns="\n".join(f"      {_rule(one, label, time, key)}" for one in profile.columns),
        features=_flow([one.name for one in used]),
        left_out="".join(f"    # left out: {name}, {why}\n" for name, why in useless.items()),
        split=_flow({"holdout_days": min(28, days // 5)} if days >= 30 else {"holdout_share": 0.2}),
        days=days,
        estimator=linear if few else boosted,
        parameters="{}" if few else TREES,
        nulls=max(0.2, min(1.0, round(nulls + 0.1, 1))),
        floors=_flow(floors),
    )


def _choose(option: str, wanted: str | None, found: list[str], otherwise: str) -> str:
    """Return what was wanted if it was found, or the only one found."""
    if wanted in found:
        return str(wanted)
    if wanted is None and len(found) == 1:
        return found[0]
    what = "is needed, but not clear" if wanted is None else f"cannot be '{wanted}'"
    which = f"choose from {', '.join(found)}" if found else otherwise
    raise SpecError(f"the {option[2:]} column {what}: {which} ({option})")


def _useless(one: Seen, label: Seen) -> str:
    """Say why a column is no feature, '' if it may be one."""
    reasons = {
        "": one is label,
        "a time": one.kind == "timestamp" or (one.kind == "string" and one.span),
        f"an identifier: perhaps windows: [{{entity: {one.name}, days: [7], stats: [count]}}]": (
            IDS.fullmatch(one.name)
        ),
        "by its name it may know the label": one.name.startswith(f"{label.name}_"),
        "it never varies": one.distinct < 2,
        f"{one.distinct} texts are too many": one.kind == "string" and one.distinct > MOST_TEXTS,
    }
    return next((why for why, applies in reasons.items() if applies), "")


def _target(label: Seen, positive: str | None) -> tuple[str, dict[str, float], str, str]:
    """Return the lines of the label, the floors, a boosted and a linear estimator."""
    values, counts = [value for value, _ in label.values], [count for _, count in label.values]
    classifiers = ("HistGradientBoostingClassifier", "LogisticRegression")
    is_whole = label.kind != "number" or all(value % 1 == 0 for value in values)
    if label.distinct == len(values) == 2 and is_whole:
        texts = [str(value) for value in values]
        if positive not in {None, *texts}:
            raise SpecError(f"'{label.name}' has no value '{positive}', only {' and '.join(texts)}")
        place = texts.index(positive) if positive else 1
        yes = _flow([values[place]])[1:-1]
        share = counts[place] / sum(counts)
        floors = {"roc_auc": 0.6, "average_precision": round(min(0.95, 1.2 * share), 4)}
        return f"positive: {yes}  # {share:.2%} of the rows", floors, *classifiers
    if label.kind in {"string", "integer"} and 2 < label.distinct <= MOST_CLASSES:
        lines = f"target: multiclass\n    classes: {_flow(sorted(values))}"
        return lines, {"roc_auc": 0.6}, *classifiers
    if label.kind in {"integer", "number"} and label.distinct > 2:
        return "target: regression", {"r2": 0.0}, "HistGradientBoostingRegressor", "Ridge"
    raise SpecError(
        f"'{label.name}' ({label.kind}, {label.distinct} values) is no target: it needs two, "
        f"3 to {MOST_CLASSES} classes, or numbers; name another with --label"
    )


def _rule(one: Seen, label: Seen, time: Seen, key: Sequence[str]) -> str:
    """Describe a column of the contract; bounds have room for as much again as was seen."""
    rule: dict[str, Any] = {"type": "timestamp" if one is time else one.kind}
    is_id, comment = one.name in key or IDS.fullmatch(one.name), ""
    if one.null_share:
        rule["nullable"] = True
    if rule["type"] in {"integer", "number"} and one is not label and one.low is not None:
        room = (one.high - one.low) or abs(one.high) or 1
        if one.low >= 0 or not is_id:
            rule["min"] = 0 if one.low >= 0 else math.floor(one.low - room)
        if not is_id:
            rule["max"] = math.ceil(one.high + room)
            comment = f"  # seen {one.low:g} to {one.high:g}"
    if rule["type"] == "string" and one.distinct <= MOST_TEXTS and not is_id:
        rule["categories"] = sorted(value for value, _ in one.values)
    return f"{_flow({one.name: rule})[1:-1]}{comment}"


def _flow(value: object) -> str:
    """Write a value as YAML in one line."""
    options: dict[str, Any] = {"width": math.inf, "allow_unicode": True, "sort_keys": False}
    return yaml.safe_dump(value, default_flow_style=True, **options).strip()
