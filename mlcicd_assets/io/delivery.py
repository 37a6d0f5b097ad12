"""Delivery: from verdicts to a live version, or a reason why not; the same on every entry way.

A release is an intent in the ledger, then the pointer, then the server's answer and a smoke
test, then the outcome in the ledger. Each step can be repeated, so a crash anywhere is
finished by the next run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlcicd_assets.io.bundle import Bundle, load_bundle
from mlcicd_assets.io.endpoint import model_status, score_rows, wait_until_live
from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.releases import (
    Pointer,
    read_pointer,
    remove_pointer,
    swap_pointer,
    write_release_note,
)
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.errors import (
    BundleError,
    GateBlocked,
    LedgerMoved,
    PointerMoved,
    ReleaseError,
    SmokeTestFailed,
)
from mlcicd_assets.ml.gates import NOT_WORSE, refusals
from mlcicd_assets.ml.promotion import comparison_of, decide
from mlcicd_assets.ml.values import Outcome, ReleaseRef, ReportRef

MAX_SCORE_DIFFERENCE = 1e-12


@dataclass(frozen=True)
class Delivery:
    """Carries one model's releases out; `mark_champion` moves the alias that people see."""

    settings: Settings
    ledger: Ledger
    run_id: str
    mark_champion: Callable[[str, int], None]

    def deliver(self, report: ReportRef, *, policy: str) -> ReleaseRef:
        """Release the candidate or keep the live version; `policy` is today's policy digest.

        Raises:
            EndpointUnreachable: no server; nothing was written.
            GateBlocked: a verdict is missing, failed, or made for something else.
            ReleaseError: the release failed; the old version is live again.
        """
        model = report.candidate.model
        for url in self.settings.endpoints:
            model_status(url, model, token=self.settings.token)
        self.finish_interrupted(model)
        while True:
            try:
                return self._decide_once(report, policy)
            except LedgerMoved:
                continue  # someone decided meanwhile: look again at what is live now

    def finish_interrupted(self, model: str) -> None:
        """Complete, or take back, a release that a crash left between intent and outcome."""
        intent = self.ledger.unfinished_intent(model)
        if intent is not None:
            self._carry_out(intent)

    def _decide_once(self, report: ReportRef, policy: str) -> ReleaseRef:
        candidate, head = report.candidate, self.ledger.head()
        live = self.ledger.live(candidate.model)
        champion = live.digest if live else None
        data_subject = candidate.data.features.fingerprint
        verdicts = self.ledger.latest_verdicts(
            candidate.model, subjects={candidate.digest, data_subject}, policy=policy
        )
        refused = refusals(
            verdicts=verdicts,
            data_subject=data_subject,
            model_subject=candidate.digest,
            policy=policy,
            champion_digest=champion,
        )
        if refused:
            reason = "; ".join(refused)
            self._book("blocked", report, reason=reason, expected_seq=head.seq)
            raise GateBlocked(f"{candidate.model} v{candidate.version} is blocked: {reason}")
        decision = decide(
            comparison=comparison_of(verdicts.get((NOT_WORSE, candidate.digest))),
            champion_digest=champion,
            candidate_digest=candidate.digest,
        )
        if decision.outcome == "kept":
            self._check_live(candidate.model, champion)
            self._book("kept", report, reason=decision.reason, expected_seq=head.seq)
            return self._ref(candidate.model, "kept", decision.reason)
        intent = self.ledger.append(
            kind="intent",
            model=candidate.model,
            body={
                "version": candidate.version,
                "digest": candidate.digest,
                "previous_version": live.version if live else None,
                "previous_digest": champion,
                "reason": decision.reason,
                "policy": policy,
                "features": candidate.data.features.fingerprint,
                "data": candidate.data.raw.versions(),
            },
            run_id=self.run_id,
            expected_seq=head.seq,
        )
        self._carry_out(intent)
        return self._ref(candidate.model, "released", decision.reason)

    def _carry_out(self, intent: Entry) -> None:
        """Do what an intent says; safe to repeat from any point."""
        model, body = intent.model, intent.body
        target = Pointer(
            model=model,
            version=body["version"],
            digest=body["digest"],
            ledger_seq=intent.seq,
            ledger_hash=intent.hash,
            previous_version=body["previous_version"],
            previous_digest=body["previous_digest"],
        )
        try:
            bundle = load_bundle(self.settings.releases, model, target.digest)
            note = {"ledger_seq": intent.seq, "ledger_hash": intent.hash, **body}
            write_release_note(self.settings.releases, model, target.digest, note)
            self._point_at(target)
            self._smoke_test(target, bundle)
        except (ReleaseError, BundleError) as error:
            if self._is_open(intent):
                self._take_back(target)
            self._close(intent, "blocked", f"release failed: {error}")
            raise
        self.mark_champion(model, target.version)
        self._close(intent, "released", body["reason"])

    def _point_at(self, target: Pointer) -> None:
        try:
            swap_pointer(self.settings.releases, target, expected_digest=target.previous_digest)
        except PointerMoved:
            # Already there: by the run that was cut off, or by one that overlaps with this one.
            current = read_pointer(self.settings.releases, target.model)
            if current is None or current.digest != target.digest:
                raise

    def _smoke_test(self, target: Pointer, bundle: Bundle) -> None:
        """Every server answers with the new version, and scores as offline."""
        token = self.settings.token
        for url in self.settings.endpoints:
            wait_until_live(url, target.model, target.digest, token=token)
            scores = score_rows(url, target.model, bundle.golden_columns, token=token)
            difference = float(np.max(np.abs(scores - bundle.golden_scores)))
            if not difference <= MAX_SCORE_DIFFERENCE:
                raise SmokeTestFailed(
                    f"{target.model} v{target.version} at {url}: scores differ from offline by "
                    f"{difference:.3g} (allowed {MAX_SCORE_DIFFERENCE:g}); taken back"
                )

    def _take_back(self, target: Pointer) -> None:
        """Point at the previous release again, unless a person has moved the pointer."""
        current = read_pointer(self.settings.releases, target.model)
        if current is None or current.digest != target.digest:
            return
        if target.previous_digest is None or target.previous_version is None:
            remove_pointer(self.settings.releases, target.model, expected_digest=target.digest)
            return
        previous = Pointer(
            model=target.model,
            version=target.previous_version,
            digest=target.previous_digest,
            ledger_seq=target.ledger_seq,
            ledger_hash=target.ledger_hash,
            previous_version=None,
            previous_digest=None,
        )
        swap_pointer(self.settings.releases, previous, expected_digest=target.digest)

    def _check_live(self, model: str, digest: str | None) -> None:
        """What the ledger calls live must be what the pointer says and every server answers.

        Raises:
            PointerMoved: somebody moved the pointer by hand; it is not moved back.
            ReleaseError: a server does not come to answer with that version.
        """
        pointer = read_pointer(self.settings.releases, model)
        found = pointer.digest if pointer else None
        if found is None or found != digest:
            raise PointerMoved(
                f"{model}: the ledger says {digest} is live, the release pointer says {found}. It "
                "was moved by hand and is left so; put it back, or book the change"
            )
        for url in self.settings.endpoints:
            wait_until_live(url, model, found, token=self.settings.token)

    def _is_open(self, intent: Entry) -> bool:
        """Tell whether no run has booked how this intent ended; an overlapping one may have."""
        unfinished = self.ledger.unfinished_intent(intent.model)
        return unfinished is not None and unfinished.seq == intent.seq

    def _close(self, intent: Entry, outcome: Outcome, reason: str) -> None:
        """Book how an intent ended, once, also when two runs carry it out at the same time."""
        while True:
            head = self.ledger.head()
            if not self._is_open(intent):
                return
            try:
                self.ledger.record_outcome(
                    intent.model,
                    outcome=outcome,
                    version=intent.body["version"],
                    digest=intent.body["digest"],
                    reason=reason,
                    data=intent.body["data"],
                    run_id=self.run_id,
                    intent_seq=intent.seq,
                    expected_seq=head.seq,
                )
                return
            except LedgerMoved:
                continue

    def _book(self, outcome: Outcome, report: ReportRef, *, reason: str, expected_seq: int) -> None:
        self.ledger.record_outcome(
            report.candidate.model,
            outcome=outcome,
            version=report.candidate.version,
            digest=report.candidate.digest,
            reason=reason,
            data=report.candidate.data.raw.versions(),
            run_id=self.run_id,
            expected_seq=expected_seq,
        )

    def _ref(self, model: str, outcome: Outcome, reason: str) -> ReleaseRef:
        live = self.ledger.live(model)
        if live is None:
            raise PointerMoved(f"{model}: nothing is live after '{outcome}'")
        return ReleaseRef(
            model, outcome, reason, live.version, live.digest, self.settings.endpoints
        )
