"""Good candidates: they differ in estimator, days, size and data set, and none may be blocked."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from mlcicd_assets.ml.spec import PipelineSpec
from mlcicd_assets_tests.orchestration.test_second_model import CHURN, as_written, contacts
from mlcicd_assets_tests.selftest.bench import WEAK, Bench, Case
from mlcicd_assets_tests.selftest.planted_data import arrives
from mlcicd_assets_tests.selftest.planted_models import LINEAR
from mlcicd_assets_tests.selftest.world import World

OTHER = "other_cards"
ELSEWHERE = {
    "name": OTHER,
    "source__landing": f"{OTHER}_transactions",
    "label__source__landing": f"{OTHER}_labels",
}


def own_world(name: str, days: int, *, seed: int = 3, scale: float = 1, **changes: Any) -> Case:
    """A model of its own, without a champion, on a world of its own."""

    def plant(bench: Bench, _: pytest.MonkeyPatch) -> None:
        world = World(seed, days, scale)
        world.land(bench.settings.landing, range(1, days + 1), prefix=OTHER)

    return Case(name, changes={**ELSEWHERE, **changes}, plant=plant)


def estimator(name: str, **parameters: Any) -> Case:
    changes = {"training__estimator": name, "training__parameters": parameters}
    return Case(f"estimator_{name}", changes=changes)


def training(name: str, **fields: Any) -> Case:
    return Case(name, changes={f"training__{field}": value for field, value in fields.items()})


def churn_spec(changes: Mapping[str, Any]) -> PipelineSpec:
    plain = yaml.safe_load(CHURN.format(source="{landing: churn}"))["attributes"]
    plain["training"] = changes["training"]
    plain["gates"] |= {"fairness": {"group": "region"}, "poisoning": {"source": "plan"}}
    return PipelineSpec.model_validate(plain)


def churn(name: str, estimator: str, **parameters: Any) -> Case:
    """Another data set: a plain table with its labels in a column."""

    def plant(bench: Bench, _: pytest.MonkeyPatch) -> None:
        folder = bench.settings.landing / "churn"
        folder.mkdir(parents=True)
        as_written(contacts()).write_csv(folder / "contacts.csv")

    section = {"estimator": estimator, "parameters": parameters}
    return Case(name, changes={"training": section}, plant=plant, spec=churn_spec)


GOOD = (
    Case("as_it_is"),
    Case("the_champion_again", changes=WEAK),
    estimator("HistGradientBoostingClassifier", max_iter=100, max_leaf_nodes=8),
    estimator("RandomForestClassifier", n_estimators=60, min_samples_leaf=10),
    estimator("ExtraTreesClassifier", n_estimators=60, min_samples_leaf=10),
    estimator("DecisionTreeClassifier", max_depth=5, min_samples_leaf=50),
    estimator("LogisticRegression", max_iter=1_000),
    training("other_seed", seed=8),
    Case("two_threads", changes={**LINEAR, "training__threads": 2}),
    training("later_threshold", threshold_slice=0.3),
    Case("one_day_more", plant=arrives(lambda day: day, 1)),
    Case("three_days_more", plant=arrives(lambda day: day, 3)),
    Case("a_week_more", plant=arrives(lambda day: day, 7)),
    Case("half_a_day_more", plant=arrives(lambda day: day.head(day.height // 2), 1)),
    Case("shorter_holdout", changes={"split__holdout_days": 7}),
    Case("longer_windows", changes={"features__calendar": ["hour", "weekday", "month"]}),
    Case("without_region", changes={"features__columns": ["amount", "channel"]}),
    own_world("days_36", 36),
    own_world("days_52_other_seed", 52, seed=4),
    own_world("days_60_smaller", 60, seed=5, scale=0.6),
    own_world("days_40_larger", 40, seed=6, scale=2),
    churn("churn_linear", "LogisticRegression", max_iter=500),
    churn("churn_boosted", "HistGradientBoostingClassifier", max_iter=40, min_samples_leaf=40),
)
