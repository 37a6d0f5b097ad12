"""A scene with a real raw table: each model version is made from the rows of its days."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake

from mlcicd_assets.io import recall
from mlcicd_assets.io.bundle import Bundle
from mlcicd_assets.io.delta import pin
from mlcicd_assets.io.recall import Found, Suspect, find
from mlcicd_assets.ml.values import FeatureSet, RawData, ReportRef, TableVersion
from mlcicd_assets_tests.io.scene import Scene, pass_every_gate, report
from mlcicd_assets_tests.io.tiny import MODEL

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY_ROWS = 5


def rows_of_day(day: int) -> pl.DataFrame:
    keys = [100 * day + number for number in range(DAY_ROWS)]
    times = [START + timedelta(days=day, minutes=number) for number in range(DAY_ROWS)]
    columns = {"k": keys, "at": times, "x": [0.5] * DAY_ROWS, "note": [None] * DAY_ROWS}
    return pl.DataFrame(columns, schema_overrides={"note": pl.String}).with_columns(
        pl.col("at").dt.cast_time_unit("us")
    )


class Days(Scene):
    """A model made anew from each day's rows; `pins` is the raw version of each model version."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.uri = f"{self.settings.lake}/{MODEL}/raw"
        self.pins: dict[int, int] = {}
        self.features: dict[int, str] = {}
        self.bundles: dict[int, Bundle] = {}

    @property
    def raw(self) -> DeltaTable:
        return DeltaTable(self.uri)

    def land(self, *days: int, as_file: str | None = None) -> int:
        """Append these days in one commit, each as a landing file; return the commit."""
        files = {as_file or f"day-{day}.csv": "digest" for day in days}
        write_deltalake(
            self.uri,
            pl.concat(rows_of_day(day) for day in days).to_arrow(),
            mode="append",
            commit_properties=CommitProperties(custom_metadata={"mlcicd.files": json.dumps(files)}),
        )
        return self.raw.version()

    def made(
        self, version: int, *, of: Bundle | None = None, labels: TableVersion | None = None
    ) -> ReportRef:
        """A candidate that passed every gate, made from the raw table as it is now."""
        champion = self.ledger.live(MODEL)
        ref = report(of or self.bundle(version), version)
        uri = f"{self.settings.lake}/{MODEL}/features"
        pl.DataFrame({"version": [version]}).write_delta(uri, mode="append")
        raw, features = RawData(pin(self.uri), labels), pin(uri)
        data = FeatureSet(features, raw, ref.candidate.data.as_of)
        candidate = replace(ref.candidate, data=data, mlflow_run_id=f"run{version}")
        made = replace(
            ref, candidate=candidate, champion_digest=champion.digest if champion else None
        )
        self.pins[version], self.features[version] = raw.events.version, str(features)
        pass_every_gate(self.ledger, made)
        return made

    def release(self, version: int) -> Bundle:
        made = self.made(version)
        assert self.deliver(made) == "released"
        self.bundles[version] = self.bundle(version)
        return self.bundles[version]

    def recall(self, suspect: Suspect) -> Found:
        def mark(_: str, version: int) -> None:
            self.aliases.append(version)

        return recall.recall(
            self.settings,
            self.ledger,
            MODEL,
            suspect,
            reason="terminal 7 sent nonsense",
            mark_champion=mark,
        )

    def find(self, suspect: Suspect) -> Found:
        return find(self.settings, self.ledger, MODEL, suspect)[1]

    def bad_by_oracle(self, keys: set[int]) -> set[int]:
        """Model versions whose pinned raw version holds one of these keys, read by pyarrow."""
        held = {
            at: set(DeltaTable(self.uri, version=at).to_pyarrow_table()["k"].to_pylist())
            for at in set(self.pins.values())
        }
        return {version for version, at in self.pins.items() if held[at] & keys}


DAY_2 = Suspect(where="k >= 200 and k < 300")


def three_days(url: str) -> Days:
    """Three releases; the rows of day 2 are bad, so are v2 and v3."""
    scene = Days(url)
    for day in (1, 2, 3):
        scene.land(day)
        scene.release(day)
    return scene
