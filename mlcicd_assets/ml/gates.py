"""All gates of a policy, and the one reading of their verdicts that allows a release."""

from collections.abc import Collection, Mapping

from mlcicd_assets.ml.data_gates import DATA_GATES
from mlcicd_assets.ml.gate import Gate, policy_digest
from mlcicd_assets.ml.model_gates import MODEL_GATES, NOT_WORSE
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.values import Verdict

GATES = {gate.name: gate for gate in (*DATA_GATES, *MODEL_GATES)}
Key = tuple[str, str]


def data_gates(gates: Gates) -> tuple[Gate, ...]:
    """Return the gates for data that this policy asks for."""
    return tuple(gate for gate in DATA_GATES if gate.is_on(gates))


def model_gates(gates: Gates) -> tuple[Gate, ...]:
    """Return the gates for models that this policy asks for."""
    return tuple(gate for gate in MODEL_GATES if gate.is_on(gates))


def required(gates: Gates, *, data_subject: str, model_subject: str) -> dict[Gate, str]:
    """Return each gate that this policy asks for, with what it must have judged."""
    subjects = dict.fromkeys(data_gates(gates), data_subject)
    return subjects | dict.fromkeys(model_gates(gates), model_subject)


def refusals(
    *,
    verdicts: Mapping[Key, Verdict],
    data_subject: str,
    model_subject: str,
    gates: Gates,
    champion_digest: str | None,
    overridden: Collection[Key] = (),
) -> list[str]:
    """Return every reason why these verdicts, by (gate, subject), allow no release.

    An empty list allows it: each gate that the policy asks for has passed, in its present
    version, for exactly this data or bundle under exactly this policy, and against the champion
    of this moment. The champion itself is compared with nothing. A failed verdict, and nothing
    else, may be `overridden` by a person.
    """
    subjects = required(gates, data_subject=data_subject, model_subject=model_subject)
    if model_subject == champion_digest:
        del subjects[NOT_WORSE]
    policy, reasons = policy_digest(gates), list[str]()
    for gate, subject in subjects.items():
        verdict = verdicts.get((gate.name, subject))
        run = f"run gate '{gate.name}' again"
        if verdict is None or verdict.policy != policy:
            reasons.append(
                f"gate '{gate.name}' has no verdict on {subject[:12]} and this policy: run it"
            )
        elif verdict.gate_version != gate.version:
            reasons.append(f"{run}: its verdict is of version {verdict.gate_version}")
        elif gate is NOT_WORSE and verdict.context.get("champion_digest", "") != champion_digest:
            reasons.append(f"{run}: the live model is not the one it compared with")
        elif verdict.passed is not True and (gate.name, subject) not in overridden:
            reasons.append(str(verdict))
    return reasons
