"""Delivery: from verdicts to a live version, or a reason why not; the same on every entry way."""

from dataclasses import dataclass
from typing import Any

from mlcicd_assets.io.alerts import alert_if_blocked
from mlcicd_assets.io.carrier import Carrier
from mlcicd_assets.io.decisions import (
    approval_of,
    author_of,
    freeze_in_force,
    overrides_in_force,
    recalls,
    verdicts_digest,
    withdrawals,
)
from mlcicd_assets.io.endpoint import model_status
from mlcicd_assets.io.git_approvals import book_git_approvals
from mlcicd_assets.io.ledger import Head
from mlcicd_assets.io.operators import require_operator
from mlcicd_assets.io.provenance import commit_author, lineage_of
from mlcicd_assets.io.recall import bad_data, carry_out_recalls
from mlcicd_assets.io.rollback import book_offline
from mlcicd_assets.io.store import check_store
from mlcicd_assets.ml.errors import GateBlocked, LedgerMoved
from mlcicd_assets.ml.gate import policy_digest
from mlcicd_assets.ml.gates import refusals, required
from mlcicd_assets.ml.model_gates import NOT_WORSE
from mlcicd_assets.ml.policy import Gates
from mlcicd_assets.ml.promotion import Decision, comparison_of, decide
from mlcicd_assets.ml.values import ModelVersionRef, Outcome, ReleaseRef, ReportRef, Verdict

Verdicts = dict[tuple[str, str], Verdict]


@dataclass(frozen=True)
class Delivery(Carrier):
    """Decides about candidates, and carries the releases out."""

    def deliver(self, report: ReportRef, *, gates: Gates) -> ReleaseRef:
        """Release the candidate or keep the live version; `gates` is today's policy.

        Raises:
            EndpointUnreachable: no server; nothing was written.
            GateBlocked: a verdict is missing, failed, or made for something else.
            NotAllowed: it would be released, and the caller is no operator.
            ReleaseError: the release failed; the old version is live again.
        """
        model = report.candidate.model
        check_store(self.settings.releases)
        for url in self.settings.endpoints_of(model):
            model_status(url, model, token=self.settings.token)
        book_offline(self.settings, self.ledger, model, run_id=self.run_id)
        carry_out_recalls(self, model)
        self.mark_due(model)
        if gates.approval is not None:
            book_git_approvals(self.settings, self.ledger, model, run_id=self.run_id)
        while True:
            try:
                return self._decide_once(report, gates)
            except LedgerMoved:
                continue  # someone decided meanwhile: look again at what is live now

    def _decide_once(self, report: ReportRef, gates: Gates) -> ReleaseRef:
        candidate = report.candidate
        head = self.settled_head(candidate.model)
        live = self.ledger.live(candidate.model)
        basis = _basis(candidate, gates)
        verdicts = self.ledger.latest_verdicts(
            candidate.model, subjects=basis.subjects, policy=basis.policy
        )
        overridden = overrides_in_force(self.ledger, candidate.model, gates)
        refused = refusals(
            verdicts=verdicts,
            data_subject=candidate.data.fingerprint,
            model_subject=candidate.digest,
            gates=gates,
            champion_digest=live.digest if live else None,
            overridden=overridden,
        )
        refused += bad_data(self.ledger, candidate)
        if refused:
            reason = "; ".join(refused)
            self._book("blocked", candidate, basis, reason=reason, head=head)
            raise GateBlocked(f"{candidate.model} v{candidate.version} is blocked: {reason}")
        compared = verdicts.get((NOT_WORSE.name, candidate.digest))
        decision = decide(
            comparison=comparison_of(compared),
            champion_digest=live.digest if live else None,
            candidate_digest=candidate.digest,
        )
        said = overridden.get((NOT_WORSE.name, candidate.digest))
        if said is not None and compared is not None and not compared.passed:
            # Worse, or not comparable (another label), and a person wants it all the same.
            decision = Decision("released", f"{said.body['by']} overrode the comparison")
        if live and live.digest in recalls(self.ledger, candidate.model):
            # Nothing clean was there to go back to: now there is, if it is safe.
            decision = Decision("released", "what is live was made from recalled rows")
        decision = self._held_back(candidate, decision)
        more: dict[str, Any] = {}
        if decision.outcome == "released" and gates.approval is not None:
            decision, more = self._approved(candidate, verdicts, decision, gates)
        if decision.outcome != "released":
            self.check_live(candidate.model, live.digest if live else None)
            reason = decision.reason
            return self._book(decision.outcome, candidate, basis, reason=reason, head=head, **more)
        intent = self.ledger.append(
            kind="intent",
            model=candidate.model,
            body={
                "action": "release",
                "version": candidate.version,
                "digest": candidate.digest,
                "previous_version": live.version if live else None,
                "previous_digest": live.digest if live else None,
                "reason": decision.reason,
                "by": require_operator(self.settings),
                **basis.body,
                **more,
            },
            run_id=self.run_id,
            expected_seq=head.seq,
        )
        self.carry_out(intent)
        return self._ref(candidate.model, "released", decision.reason)

    def _approved(
        self, candidate: ModelVersionRef, verdicts: Verdicts, decision: Decision, gates: Gates
    ) -> tuple[Decision, dict[str, Any]]:
        """Return the decision, or that it awaits approval; and what the ledger keeps of it."""
        model, said = candidate.model, verdicts_digest(verdicts.values())
        author = author_of(self.ledger, model, candidate.digest, now=commit_author())
        kept: dict[str, Any] = {"verdicts": said, "author": author}
        approval = approval_of(
            self.ledger,
            model,
            digest=candidate.digest,
            verdicts=said,
            author=author,
            gates=gates,
        )
        if approval is None:
            return Decision("awaiting", _how_to_approve(candidate, author, gates)), kept
        return decision, {**kept, "approval_seq": approval.seq}

    def _held_back(self, candidate: ModelVersionRef, decision: Decision) -> Decision:
        """Keep what is live where a person has said so, however good the candidate is."""
        if decision.outcome == "kept":
            return decision
        withdrawn = withdrawals(self.ledger, candidate.model).get(candidate.digest)
        if withdrawn is not None:
            said = f"{withdrawn.body['by']} at entry {withdrawn.seq}: {withdrawn.body['reason']}"
            how = "recalled" if withdrawn.kind == "recall" else "rolled back"
            return Decision("kept", f"this very model was {how} by {said}")
        frozen = freeze_in_force(self.ledger, candidate.model)
        if frozen is not None:
            body = frozen.body
            return Decision(
                "kept", f"frozen until {body['until']} by {body['by']}: {body['reason']}"
            )
        return decision

    def _book(
        self,
        outcome: Outcome,
        candidate: ModelVersionRef,
        basis: "_Basis",
        *,
        reason: str,
        head: Head,
        **more: Any,
    ) -> ReleaseRef:
        booked = self.ledger.record_outcome(
            candidate.model,
            outcome=outcome,
            version=candidate.version,
            digest=candidate.digest,
            reason=reason,
            run_id=self.run_id,
            expected_seq=head.seq,
            **basis.body,
            **more,
        )
        alert_if_blocked(self.settings, self.ledger, booked)
        return self._ref(candidate.model, outcome, reason)

    def _ref(self, model: str, outcome: Outcome, reason: str) -> ReleaseRef:
        live = self.ledger.live(model)
        version, digest = (live.version, live.digest) if live else (None, None)
        endpoints = self.settings.endpoints_of(model)
        return ReleaseRef(model, outcome, reason, version, digest, endpoints)


@dataclass(frozen=True)
class _Basis:
    """What a decision rests on: its policy, what was judged, and all that as the ledger's body."""

    policy: str
    subjects: set[str]
    body: dict[str, Any]


def _basis(candidate: ModelVersionRef, gates: Gates) -> _Basis:
    data_subject, policy = candidate.data.fingerprint, policy_digest(gates)
    asked = required(gates, data_subject=data_subject, model_subject=candidate.digest)
    body = {
        "policy": policy,
        "data": candidate.data.raw.versions(),
        "lineage": lineage_of(candidate),
        "required": [
            {"gate": gate.name, "gate_version": gate.version, "subject": subject}
            for gate, subject in asked.items()
        ],
    }
    return _Basis(policy, {data_subject, candidate.digest}, body)


def _how_to_approve(candidate: ModelVersionRef, author: str, gates: Gates) -> str:
    model, version = candidate.model, candidate.version
    if gates.approval and gates.approval.authenticated:
        way = f"commit the file that `mlcicd approve {model} {version} --write` makes"
    else:
        way = f"`mlcicd approve {model} {version}`, or a commit in the approvals folder"
    return (
        f"v{version} passed every gate and awaits approval by someone other than {author}: "
        f"{way}, then materialize deployed_endpoint"
    )
