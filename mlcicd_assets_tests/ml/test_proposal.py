"""What `mlcicd new` concludes from columns as they were seen, and when it rather asks."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from mlcicd_assets.ml.errors import SpecError
from mlcicd_assets.ml.proposal import Choices, Profile, Seen, propose
from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets.ml.spec_text import parse_spec

SPAN = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC))
AT = Seen("at", "timestamp", written="iso", span=SPAN)
ID = Seen("order_id", "integer", low=5, high=900)
LABEL = Seen("y", "integer", distinct=2, values=((0, 90), (1, 10)), low=0, high=1)
PLAIN = (ID, AT, Seen("size", "number", low=0.5, high=8.25), LABEL)


def proposal(*columns: Seen, rows: int = 5_000, unique: Any = None, **choices: Any) -> str:
    names = ["order_id"] if unique is None else unique
    profile = Profile(rows, rows, columns or PLAIN, tuple(names))
    return propose("orders", {"landing": "orders"}, profile, Choices(**choices))


def proposed(*columns: Seen, **settings: Any) -> PipelineSpec:
    return parse_spec(proposal(*columns, **settings), "proposal")


def seen(*more: Seen, label: Seen = LABEL) -> tuple[Seen, ...]:
    return (*PLAIN[:-1], *more, label)


def test_a_plain_table_becomes_a_whole_spec() -> None:
    spec = proposed()
    assert (spec.key, spec.time.column, spec.label.column) == (("order_id",), "at", "y")
    assert (spec.label.target, spec.label.positive) == ("binary", 1)
    assert spec.features.columns == ("size",)
    assert spec.gates.floors == {"roc_auc": 0.6, "average_precision": 0.12}
    assert spec.split.holdout_days == 12
    size = spec.contract.columns["size"]
    assert (size.min, size.max, size.nullable) == (0, 16, False)
    assert "# seen 0.5 to 8.25" in proposal()
    # An id grows for ever, and what is predicted may be anything.
    assert spec.contract.columns["order_id"].max is None
    assert spec.contract.columns["y"].max is None


@pytest.mark.parametrize(
    ("label", "target", "floor", "estimators"),
    [
        (LABEL, "binary", "roc_auc", ("HistGradientBoostingClassifier", "LogisticRegression")),
        (
            Seen("y", "string", 0, 3, (("no", 5), ("b", 3), ("a", 2))),
            "multiclass",
            "roc_auc",
            ("HistGradientBoostingClassifier", "LogisticRegression"),
        ),
        (
            Seen("y", "number", 0, 90),
            "regression",
            "r2",
            ("HistGradientBoostingRegressor", "Ridge"),
        ),
        (
            Seen("y", "integer", 0, 90),
            "regression",
            "r2",
            ("HistGradientBoostingRegressor", "Ridge"),
        ),
    ],
)
def test_the_label_decides_target_floors_and_estimator(
    label: Seen, target: str, floor: str, estimators: tuple[str, str]
) -> None:
    for rows, estimator in zip((2_000, 1_999), estimators, strict=True):
        spec = proposed(*seen(label=label), rows=rows)
        assert (spec.label.target, spec.training.estimator) == (target, estimator)
        assert floor in spec.gates.floors
        assert spec.label.classes == (("a", "b", "no") if target == "multiclass" else ())


@pytest.mark.parametrize(
    ("kind", "values", "positive", "told"),
    [
        ("string", (("no", 9), ("yes", 1)), None, "yes"),
        ("string", (("no", 9), ("yes", 1)), "no", "no"),
        ("string", (("1", 9), ("2", 1)), None, "2"),
        ("boolean", ((True, 9), (False, 1)), None, False),
        ("number", ((0.0, 9), (1.0, 1)), None, 1),
        ("integer", ((7, 9), (3, 1)), "7", 7),
    ],
)
def test_the_rarer_value_is_positive_unless_told(
    kind: Any, values: Any, positive: str | None, told: object
) -> None:
    spec = proposed(*seen(label=Seen("y", kind, 0, 2, values)), positive=positive)
    assert spec.label.positive == told
    assert type(spec.label.positive) is type(told)


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (Seen("customer_id", "integer", low=1, high=2), "an identifier"),
        (Seen("seen_at", "timestamp"), "a time"),
        (Seen("day", "string", 0, 40, span=SPAN, written="%d.%m.%Y"), "a time"),
        (Seen("y_reason", "integer"), "by its name it may know the label"),
        (Seen("site", "string", 0, 1, (("x", 9),)), "it never varies"),
        (Seen("note", "string", 0, 31), "31 texts are too many"),
    ],
)
def test_what_is_no_feature_is_left_out_with_the_reason(column: Seen, why: str) -> None:
    times = {"time": "at"}
    assert f"# left out: {column.name}, {why}" in proposal(*seen(column), **times)
    assert proposed(*seen(column), **times).features.columns == ("size",)


def test_thirty_texts_are_categories_and_odd_ones_are_quoted() -> None:
    texts = ["no", "a, b", "1", "null", "2026-01-01", "it's", "#x", *map(str, range(100, 123))]
    spec = proposed(*seen(Seen("mode", "string", 0.5, 30, tuple((text, 1) for text in texts))))
    mode = spec.contract.columns["mode"]
    assert mode.categories == tuple(sorted(texts))
    assert mode.nullable
    assert spec.gates.features.max_null_share == 0.6


def test_windows_of_what_comes_again_are_shown_as_a_comment() -> None:
    text = proposal(*seen(Seen("customer_id", "integer", low=1, high=9)))
    (line,) = (line for line in text.splitlines() if "windows" in line)
    shown = text.replace(line, f"    windows{line.partition('windows')[2]}")
    (windows,) = parse_spec(shown, "shown").features.windows
    assert (windows.entity, windows.stats) == ("customer_id", ("count",))


def test_of_several_keys_the_one_called_so_is_taken_and_odd_names_are_quoted() -> None:
    columns = (Seen("no", "integer"), *seen(label=replace(LABEL, name="yes")))
    spec = proposed(*columns, unique=["no", "at", "order_id"], label="yes")
    assert (spec.key, spec.label.column) == (("order_id",), "yes")
    assert proposed(*columns, unique=["no", "at"], label="yes").key == ("no",)


def test_a_short_time_is_split_by_share() -> None:
    short = replace(AT, span=(SPAN[0], datetime(2026, 1, 30, tzinfo=UTC)))
    assert proposed(ID, short, *PLAIN[2:]).split.holdout_share == 0.2


@pytest.mark.parametrize(
    ("columns", "settings", "words"),
    [
        ((ID, *PLAIN[2:]), {}, "the time column is needed, but not clear: none reads as a time"),
        (PLAIN, {"time": "size"}, "the time column cannot be 'size': choose from at"),
        (seen(replace(AT, name="b")), {}, "choose from at, b (--time)"),
        (PLAIN, {"unique": []}, "the key column is needed, but not clear"),
        (PLAIN, {"unique": ["at"]}, "(--key)"),
        (
            seen(replace(LABEL, name="a"), label=replace(LABEL, name="b")),
            {},
            "choose from a, b (--",
        ),
        (seen(replace(LABEL, name="class")), {}, "choose from class, y (--label)"),
        (PLAIN[:-1], {}, "none has two values (--label)"),
        (PLAIN, {"label": "z"}, "the label column cannot be 'z': choose from size, y"),
        (PLAIN, {"label": "at"}, "the label column cannot be 'at'"),
        (PLAIN, {"positive": "2"}, "'y' has no value '2', only 0 and 1"),
        ((ID, AT, LABEL), {}, "no column is left for a feature"),
        (seen(label=Seen("y", "string", 0, 21)), {}, "is no target"),
        (seen(label=Seen("y", "boolean", 0, 1, ((True, 9),))), {}, "is no target"),
        (seen(label=Seen("y", "number", 0, 2, ((0.5, 9), (1.5, 1)))), {}, "is no target"),
        (seen(label=Seen("y", "timestamp", 0, 2)), {}, "is no target"),
    ],
)
def test_what_is_not_clear_is_asked_for_by_its_option(
    columns: tuple[Seen, ...], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        proposal(*columns, **settings)
    assert words in str(caught.value)


def test_what_it_writes_is_yaml_with_comments() -> None:
    text = proposal()
    assert yaml.safe_load(text)["attributes"]["name"] == "orders"
    assert text.count("#") > 8
