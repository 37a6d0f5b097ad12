"""Alerts on what was blocked: to the log, a file and a webhook, not twice for the same reason."""

import fcntl
import html
import json
import logging
import re
import urllib.request
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Final

from mlcicd_assets.io.ledger import Entry, Ledger
from mlcicd_assets.io.ledger_tables import utc_now
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gates import GATES

QUIET: Final = timedelta(hours=24)
TAIL_BYTES: Final = 256 * 1024
REASON_LENGTH: Final = 800
WEBHOOK_SECONDS: Final = 5.0
LOG: Final = logging.getLogger(__name__)


def alert_if_blocked(settings: Settings, ledger: Ledger, outcome: Entry) -> None:
    """Tell people of an outcome *blocked*; its reason names the gates, or says what else failed."""
    if outcome.body["outcome"] != "blocked":
        return
    reason, version = outcome.body["reason"], outcome.body["version"]
    gates = sorted(set(re.findall(r"gate '(\w+)'", reason)) & set(GATES))
    # Without what has digits: the same failure of another version or port is the same alert.
    failure, live = re.sub(r"\w*\d[\w.]*", "#", reason)[:100], ledger.live(outcome.model)
    cut = reason if len(reason) <= REASON_LENGTH else f"{reason[:REASON_LENGTH]} ..."
    fact = f"v{live.version}, as before" if live else "nothing yet"
    alert(
        settings,
        outcome.model,
        title=f"blocked by {', '.join(gates)}" if gates else failure,
        reason=f"{f'v{version}: ' if version else ''}{cut}\nLive: {fact}",
        remedy="; ".join(GATES[name].remedy for name in gates)
        or "remove the cause, then materialize deployed_endpoint again",
    )


def alert(settings: Settings, model: str, *, title: str, reason: str, remedy: str) -> None:
    """Tell every sink, unless this title reached people within 24 hours; never raises."""
    text = f"{model}: {title}\nWhy: {reason}\nTo do: {remedy}"
    path = settings.home / "alerts.jsonl"
    told = {"model": model, "title": title, "reason": reason, "remedy": remedy}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # of two runs at once the second finds the first's
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            if any(_is_same(line, told) for line in file.read().splitlines()):
                return
            LOG.warning("%s", text)
            sent = settings.alert_webhook is None or _post(settings.alert_webhook, text)
            file.write(json.dumps({"at": utc_now(), **told, "sent": sent}).encode() + b"\n")
    except OSError as error:
        LOG.warning("%s\n(could not be kept in %s: %s)", text, path, error)


def _is_same(line: bytes, told: dict[str, str]) -> bool:
    """Tell whether people have this alert; one that the webhook did not take is tried again."""
    try:
        known = json.loads(line)
        is_recent = abs(datetime.now(UTC) - datetime.fromisoformat(known["at"])) < QUIET
        is_same = all(known[name] == told[name] for name in ("model", "title"))
        return is_same and is_recent and known["sent"] is True
    except (ValueError, KeyError, TypeError):
        return False  # cut by the start of the tail, or by a crash


def _post(url: str, text: str) -> bool:
    """Send Slack's form; no message names the address, which is a secret."""
    # Escaped as Slack asks: a value out of the data must not become a link or a mention.
    body = json.dumps({"text": html.escape(text, quote=False)}).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):  # noqa: S310 - see Settings
            return True
    except (OSError, HTTPException, ValueError) as error:
        kind, status = type(error).__name__, getattr(error, "code", "")
        LOG.warning("the alert webhook did not take this alert: %s %s", kind, status)
        return False
