"""What a gate is: its entry in the tables of gates, and the way to write its verdict."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import Verdict


def _always(_: Gates) -> bool:
    return True


@dataclass(frozen=True)
class Gate:
    """One gate: what it promises, and what to do when it fails.

    Raise `version` when it judges differently: verdicts of the old one count no more.
    `is_on` tells whether a policy asks for it.
    """

    name: str
    version: int
    promise: str
    remedy: str
    is_on: Callable[[Gates], bool] = _always


def policy_digest(gates: Gates) -> str:
    """Return the sha256 of the gates section, whatever its order or layout in the YAML."""
    text = json.dumps(gates.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def judge(
    gate: Gate,
    *,
    subject: str,
    gates: Gates,
    passed: bool,
    observed: str,
    threshold: str,
    sample_size: int,
    detail: str = "",
    context: Mapping[str, Any] | None = None,
) -> Verdict:
    """Write one gate's answer, bound to what was judged and to the policy."""
    return Verdict(
        gate=gate.name,
        gate_version=gate.version,
        subject=subject,
        policy=policy_digest(gates),
        passed=passed is True,  # nothing that is merely truthy
        observed=observed,
        threshold=threshold,
        sample_size=sample_size,
        detail=detail,
        context=dict(context or {}),
    )
