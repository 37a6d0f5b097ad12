"""Check an evidence file with plain Python: check_evidence.py EVIDENCE.json BUNDLE_FOLDER."""

# ruff: noqa: T201
import json
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

evidence, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
verdicts, summary, _ = (one["predicate"] for one in evidence["statements"])
policy, rows = (
    summary["policy"]["digest"]["sha256"],
    {row["seq"]: row for row in evidence["ledger"]},
)
said = {n: {"entry": n, "kind": row["kind"], **json.loads(row["body"])} for n, row in rows.items()}
final, head = said[verdicts["decision"]], evidence["head"]
result, at = "PASSED" if final["outcome"] == "released" else "FAILED", rows[final["entry"]]["at"]
files = sorted((path.name, sha256(path.read_bytes()).hexdigest()) for path in folder.iterdir())
bundle = sha256("".join(f"{name} {digest}\n" for name, digest in files).encode()).hexdigest()
subjects = {one["subject"][0]["digest"]["sha256"] for one in evidence["statements"]}
intent = said.get(final["intent_seq"], {})
holds = {
    "bundle": subjects == {bundle} == {final["digest"]},
    "policy": policy
    == sha256(evidence["policy"].encode()).hexdigest()
    == intent.get("policy", policy),
    "decision": (summary["verificationResult"], summary["timeVerified"]) == (result, at),
    "required": verdicts["required"] == final.get("required", []),
    "head": not head or rows.get(head["ledger_seq"], {}).get("hash") == head["ledger_hash"],
}
for n, row in rows.items():
    text = json.dumps(
        {k: row[k] for k in row if k != "hash"}, sort_keys=True, separators=(",", ":")
    )
    holds[f"hash of entry {n}"] = sha256(text.encode()).hexdigest() == row["hash"]
for one, two in pairwise(rows.values()):
    link = (one["seq"] + 1, one["seq"], one["hash"])
    holds[f"link to entry {two['seq']}"] = (two["seq"], two["prev_seq"], two["prev_hash"]) == link
for told in verdicts["rests_on"]:
    holds[f"copy of entry {told['entry']}"] = told == said.get(told["entry"])
for gate in verdicts["required"] if result == "PASSED" else []:
    wanted = {**gate, "policy": policy}.items()
    judged = [one for one in said.values() if one["kind"] == "verdict" and wanted <= one.items()]
    forgiven = [
        one
        for one in said.values()
        if one["kind"] == "override"
        and one["expires"] > at
        and all(one[k] == dict(wanted)[k] for k in ("gate", "subject", "policy"))
    ]
    holds[f"gate {gate['gate']}"] = bool(judged) and (
        judged[-1]["passed"] is True or bool(forgiven)
    )
    for one in forgiven:
        print(f"gate {one['gate']} was overridden by {one['by']}: {one['reason']}")
wrong = [name for name, is_so in holds.items() if not is_so]
print(f"evidence does not hold: {', '.join(wrong)}" if wrong else f"evidence holds: {result}")
sys.exit(bool(wrong))
