"""The small frozen values that assets hand on; each names exactly what it was made from."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["released", "kept", "blocked", "awaiting", "rolled_back"]


@dataclass(frozen=True)
class TableVersion:
    """One immutable state of a Delta table; `fingerprint` is equal for equal content."""

    uri: str
    table_id: str
    version: int
    fingerprint: str
    rows: int

    def __str__(self) -> str:
        """Short form for messages and metadata."""
        return f"{self.uri}@v{self.version}"


@dataclass(frozen=True)
class RawData:
    """The pinned inputs: events, and labels where they have a table of their own."""

    events: TableVersion
    labels: TableVersion | None

    def versions(self) -> dict[str, tuple[str, int]]:
        """Return table id and version by table: the data that an outcome in the ledger is about."""
        named = {"raw": self.events, "labels": self.labels}
        return {name: (table.table_id, table.version) for name, table in named.items() if table}


@dataclass(frozen=True)
class FeatureSet:
    """The pinned feature table; labels with a source of their own are joined when it is read.

    `as_of` is ISO 8601 UTC and comes from the data: the newest known_at of the pinned labels.
    """

    features: TableVersion
    raw: RawData
    as_of: str

    @property
    def fingerprint(self) -> str:
        """Name the content of features and labels: what verdicts on the data are about."""
        labels = self.raw.labels.fingerprint if self.raw.labels else ""
        return hashlib.sha256(f"{self.features.fingerprint} {labels}".encode()).hexdigest()


@dataclass(frozen=True)
class Trial:
    """Parameters that a search tried: mean score over its folds (more is better), CPU seconds."""

    number: int
    parameters: dict[str, Any]
    score: float
    seconds: float


@dataclass(frozen=True)
class ModelVersionRef:
    """A registered model version and the digest of the bundle that serves it.

    `chosen` are the parameters that a search found, beside those that the spec gives.
    """

    model: str
    version: int
    digest: str
    training_key: str
    mlflow_run_id: str
    data: FeatureSet
    chosen: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class ReportRef:
    """The evaluation of one candidate against one champion under one policy."""

    candidate: ModelVersionRef
    champion_digest: str | None
    policy: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class ImageRef:
    """A container image (`registry/repository@sha256:...`) that serves one bundle."""

    model: str
    version: int
    digest: str
    image: str


@dataclass(frozen=True)
class ReleaseRef:
    """What is live after a run (None: nothing), and how the run ended."""

    model: str
    outcome: Outcome
    reason: str
    live_version: int | None
    live_digest: str | None
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """One gate's answer about one subject under one policy; only `passed` passes.

    `subject` is a bundle digest (model gates) or a data fingerprint (data gates); `context`
    names what else was judged with: table versions, the champion's digest.
    """

    gate: str
    gate_version: int
    subject: str
    policy: str
    passed: bool
    observed: str
    threshold: str
    sample_size: int
    detail: str = ""
    context: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """The one-line form shown to people: gate, observed value, threshold."""
        word = "passed" if self.passed else "FAILED"
        line = f"gate '{self.gate}' {word}: observed {self.observed}, threshold {self.threshold}"
        return f"{line} ({self.detail})" if self.detail else line
