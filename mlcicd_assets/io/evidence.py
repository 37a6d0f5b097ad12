"""Evidence on one version: a file in the shapes of in-toto and SLSA, checkable without us."""

import json
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import msgspec

from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.readings import Case, case_of, entries_of, lineage
from mlcicd_assets.io.releases import bundle_folder
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.store import read
from mlcicd_assets.ml.errors import ReleaseError

OURS = "urn:mlcicd-assets"
STATEMENT = "https://in-toto.io/Statement/v1"


def evidence(settings: Settings, ledger: Ledger, model: str, version: int) -> dict[str, Any]:
    """Return the statements about a version, its policy, and the ledger rows that they rest on.

    The rows are without gap from the first that is used to the decision, or to the head that
    pointer and release note stand on where that is later.

    Raises:
        ReleaseError: nothing was decided about the version, or its policy cannot be read.
    """
    entries = entries_of(ledger, model)
    case, made = case_of(entries, version), lineage(entries, version)
    texts = [_canonical(e.body["gates"]) for e in entries if e.kind == "policy"]
    texts = [text for text in texts if sha256(text.encode()).hexdigest() == case.policy]
    if not texts:
        raise ReleaseError(f"the ledger does not hold the policy that judged {model} v{version}")
    head = _head(settings, model, case.digest)
    last = max(case.decision.seq, head["ledger_seq"] if head else 0)
    basis = [*case.verdicts, *(e for e in case.said if e.seq < case.decision.seq)]
    first = min(e.seq for e in (*basis, case.decision))
    name = f"{OURS}:{model}:{version}"
    predicates = {
        f"{OURS}:verdicts:v1": {
            "decision": case.decision.seq,
            "required": case.decision.body.get("required", []),
            "rests_on": [{"entry": e.seq, "kind": e.kind, **e.body} for e in basis],
        },
        "https://slsa.dev/verification_summary/v1": _summary(case, name),
        "https://slsa.dev/provenance/v1": _provenance(made),
    }
    subject = [{"name": name, "digest": {"sha256": case.digest}}]
    return {
        "statements": [
            {"_type": STATEMENT, "subject": subject, "predicateType": kind, "predicate": predicate}
            for kind, predicate in predicates.items()
        ],
        "policy": texts[0],
        "head": head,
        # As stored: the body is a text, and the hash is over that text.
        "ledger": [
            {**asdict(e), "body": _canonical(e.body)}
            for e in ledger.entries()
            if first <= e.seq <= last
        ],
    }


def _summary(case: Case, resource: str) -> dict[str, Any]:
    passed = case.decision.body["outcome"] == "released"
    return {
        "verifier": {"id": OURS},
        "timeVerified": case.decision.at,
        "resourceUri": resource,
        "policy": {"uri": f"{OURS}:policy", "digest": {"sha256": case.policy}},
        "inputAttestations": [
            {"uri": f"{OURS}:ledger:{e.seq}", "digest": {"sha256": e.hash}} for e in case.verdicts
        ],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": ["SLSA_BUILD_LEVEL_UNEVALUATED" if passed else "FAILED"],
    }


def _provenance(made: dict[str, Any]) -> dict[str, Any]:
    line, data = made["lineage"], made["data"].items()
    used = [{"name": name, "uri": f"{OURS}:table:{id_}:{at}"} for name, (id_, at) in data]
    tables = [name for name in ("features", "events", "labels") if line.get(name)]
    used += [{"name": name, "uri": line[name]} for name in tables]
    if line:
        used.append({"name": "source", "digest": {"gitCommit": line["git_commit"]}})
        used.append({"name": "dependencies", "digest": {"sha256": line["lock_sha256"]}})
    build = {"buildType": f"{OURS}:training:v1", "externalParameters": line}
    run = {"builder": {"id": OURS}, "metadata": {"invocationId": line.get("mlflow_run_id")}}
    return {"buildDefinition": {**build, "resolvedDependencies": used}, "runDetails": run}


def _head(settings: Settings, model: str, digest: str) -> dict[str, Any] | None:
    """Return the ledger's head as the release note keeps it, outside of the ledger."""
    note = bundle_folder(settings.releases, model, digest).with_name(f"{digest}.release.json")
    content = read(note)
    said = None if content is None else msgspec.json.decode(content)
    return said and {name: said[name] for name in ("ledger_seq", "ledger_hash")}


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
