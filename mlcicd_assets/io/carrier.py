"""Carrying out: an intent in the ledger becomes the pointer, the server's answer, the outcome.

Each step can be repeated, so a crash anywhere is finished by the next run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mlcicd_assets.io.alerts import alert_if_blocked
from mlcicd_assets.io.bundle import load_bundle
from mlcicd_assets.io.card import release_card
from mlcicd_assets.io.images import check_image
from mlcicd_assets.io.ledger import MAKES_LIVE, Entry, Head, Ledger
from mlcicd_assets.io.releases import (
    Pointer,
    failure_note,
    read_pointer,
    remove_pointer,
    swap_pointer,
    write_release_note,
)
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.io.smoke import await_release, smoke_test
from mlcicd_assets.io.store import remove
from mlcicd_assets.ml.errors import (
    BundleError,
    LedgerMoved,
    PointerMoved,
    ReleaseError,
)
from mlcicd_assets.ml.values import Outcome


@dataclass(frozen=True)
class Carrier:
    """Carries one intent after the other out; `mark_champion` moves the alias that people see."""

    settings: Settings
    ledger: Ledger
    run_id: str
    mark_champion: Callable[[str, int], None]

    def settled_head(self, model: str) -> Head:
        """Finish, or take back, what another run has begun; return a head without an open intent.

        An intent appended to that head is the only open one: two would release over each other.
        """
        while True:
            head, intent = self.ledger.head(), self.ledger.unfinished_intent(model)
            if intent is None:
                return head
            self.carry_out(intent)

    def carry_out(self, intent: Entry) -> None:
        """Do what an intent says; safe to repeat from any point.

        Raises:
            ReleaseError, BundleError: it failed; the previous version is live again.
        """
        model, body = intent.model, intent.body
        action = body.get("action", "release")
        is_release = action == "release"
        # After a rollback the version before is the bad one: nobody should go back to it.
        before = (body["previous_version"], body["previous_digest"]) if is_release else (None, None)
        made = (model, body["version"], body["digest"], intent.seq, intent.hash)
        target = Pointer(*made, *before)
        try:
            bundle = load_bundle(self.settings.releases, model, target.digest)
            # The way back must not need a registry; that image was asked for at its release.
            check_image(self.settings, self.ledger, model, target.digest, inside=is_release)
            # What an earlier try met says nothing about this one.
            remove(failure_note(self.settings.releases, model, target.digest))
            note = {"ledger_seq": intent.seq, "ledger_hash": intent.hash, **body}
            write_release_note(self.settings.releases, model, target.digest, note)
            self._point_at(target, body["previous_digest"])
            smoke_test(self.settings, target, bundle)
        except (ReleaseError, BundleError) as error:
            if self._is_open(intent):
                self._take_back(intent)
            self._close(intent, "blocked", f"{action} failed: {error}")
            raise
        release_card(self.settings.releases, self.ledger, intent)
        more: dict[str, Any] = {"alias": self._mark(model, target.version)}
        if not is_release:
            more |= {"withdrawn": body["previous_digest"]}
        self._close(intent, "released" if is_release else "rolled_back", body["reason"], **more)

    def mark_due(self, model: str) -> None:
        """Move the alias where MLflow could not be reached when the version became live."""
        for entry in reversed(self.ledger.entries(model=model, kinds=("outcome",))):
            if entry.body["outcome"] in MAKES_LIVE:
                if entry.body.get("alias") == "due":
                    self._mark(model, entry.body["version"])
                return

    def _mark(self, model: str, version: int) -> Literal["set", "due"]:
        try:
            self.mark_champion(model, version)
        except Exception as error:  # people see the alias, nothing obeys it: a release goes on
            logging.getLogger(__name__).warning("MLflow alias of %s is due: %s", model, error)
            return "due"
        return "set"

    def _point_at(self, target: Pointer, expected: str | None) -> None:
        try:
            swap_pointer(self.settings.releases, target, expected_digest=expected)
        except PointerMoved:
            # Already there: by the run that was cut off, or by one that overlaps with this one.
            current = read_pointer(self.settings.releases, target.model)
            if current is None or current.digest != target.digest:
                raise

    def _take_back(self, intent: Entry) -> None:
        """Point at the previous release again, unless a person has moved the pointer."""
        model, body = intent.model, intent.body
        current = read_pointer(self.settings.releases, model)
        if current is None or current.digest != body["digest"]:
            return
        if body["previous_digest"] is None:
            remove_pointer(self.settings.releases, model, expected_digest=body["digest"])
            return
        previous = Pointer(
            model=model,
            version=body["previous_version"],
            digest=body["previous_digest"],
            ledger_seq=intent.seq,
            ledger_hash=intent.hash,
            previous_version=None,
            previous_digest=None,
        )
        swap_pointer(self.settings.releases, previous, expected_digest=body["digest"])

    def check_live(self, model: str, digest: str | None) -> None:
        """What the ledger calls live must be what the pointer says and every server answers.

        Raises:
            PointerMoved: somebody moved the pointer by hand; it is not moved back.
            ReleaseError: a server does not come to answer with that version.
        """
        pointer = read_pointer(self.settings.releases, model)
        found = pointer.digest if pointer else None
        if found != digest:
            raise PointerMoved(
                f"{model}: the ledger says {digest} is live, the release pointer says {found}. It "
                "was moved by hand and is left so; put it back, or book the change"
            )
        if found is None:
            return  # nothing is live, as it should be
        for url in self.settings.endpoints_of(model):
            await_release(self.settings, url, model, found)

    def _is_open(self, intent: Entry) -> bool:
        """Tell whether no run has booked how this intent ended; an overlapping one may have."""
        unfinished = self.ledger.unfinished_intent(intent.model)
        return unfinished is not None and unfinished.seq == intent.seq

    def _close(self, intent: Entry, outcome: Outcome, reason: str, **more: Any) -> None:
        """Book how an intent ended, once, also when two runs carry it out at the same time."""
        while True:
            head = self.ledger.head()
            if not self._is_open(intent):
                return
            try:
                booked = self.ledger.record_outcome(
                    intent.model,
                    outcome=outcome,
                    version=intent.body["version"],
                    digest=intent.body["digest"],
                    reason=reason,
                    data=intent.body["data"],
                    run_id=self.run_id,
                    intent_seq=intent.seq,
                    expected_seq=head.seq,
                    by=intent.body.get("by"),
                    definition=intent.body.get("definition"),
                    lineage=intent.body.get("lineage"),
                    required=intent.body.get("required", []),
                    **more,
                )
            except LedgerMoved:
                continue
            alert_if_blocked(self.settings, self.ledger, booked)
            return
