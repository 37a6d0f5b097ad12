"""Alerts: every sink, against a real HTTP server, and never the same one twice in a day."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlcicd_assets.io import alerts
from mlcicd_assets.io.alerts import alert, alert_if_blocked
from mlcicd_assets.io.ledger import Ledger
from mlcicd_assets.io.settings import Settings
from mlcicd_assets.ml.gates import GATES
from mlcicd_assets_tests.processes import free_port
from mlcicd_assets_tests.small_model import MODEL, deliver_days, run_job, small_spec

FLOOR = "gate 'metric_floors' FAILED: observed roc_auc 0.61, threshold roc_auc >= 0.8"
SLOW = "gate 'serving_trial' FAILED: observed p99 {} ms"


class Webhook:
    """A real server: `answer` is its status, or None to hang until the test ends."""

    def __init__(self) -> None:
        self.answer: int | None = 200
        self.seen: list[dict[str, str]] = []
        self.over = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.seen.append(json.loads(body))
                if hook.answer is None:
                    hook.over.wait(30)
                    return
                self.send_response(hook.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/SECRET"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def stop(self) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.stop()


@pytest.fixture
def settings(home: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("MLCICD_ALERT_WEBHOOK", webhook.url)
    return Settings.from_env()


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings.ledger_url)


def kept(home: Path) -> list[dict[str, Any]]:
    path = home / "alerts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tell(settings: Settings, title: str = "blocked by a gate", *, model: str = MODEL) -> None:
    alert(settings, model, title=title, reason="because", remedy="mend it")


def block(settings: Settings, ledger: Ledger, reason: str, *, version: int | None = 2) -> None:
    booked = ledger.record_outcome(
        MODEL, "blocked", version=version, reason=reason, data={}, run_id="r"
    )
    alert_if_blocked(settings, ledger, booked)


def test_an_alert_says_model_what_why_what_is_live_and_what_to_do(
    settings: Settings,
    ledger: Ledger,
    home: Path,
    webhook: Webhook,
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = ledger.record_outcome(
        MODEL, "released", version=4, digest="d" * 64, reason="better", data={}, run_id="r"
    )
    alert_if_blocked(settings, ledger, released)
    block(settings, ledger, FLOOR, version=5)
    expected = (
        f"{MODEL}: blocked by metric_floors\nWhy: v5: {FLOOR}\nLive: v4, as before\n"
        f"To do: {GATES['metric_floors'].remedy}"
    )
    assert caplog.messages == [expected]
    assert webhook.seen == [{"text": expected.replace(">", "&gt;")}]
    (line,) = kept(home)
    assert (line["model"], line["title"], line["sent"]) == (MODEL, "blocked by metric_floors", True)


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        (SLOW.format(612.1), SLOW.format(580), 1),
        (f"{FLOOR}; {SLOW.format(9)}", f"{SLOW.format(8)}; {FLOOR}", 1),
        (
            "release failed: v2 at http://h:80 differs by 0.5",
            "release failed: v3 at http://h:81 differs by 7",
            1,
        ),
        (FLOOR, f"{FLOOR}; gate 'contract' FAILED: observed 2", 2),
        ("release failed: no server answers", "release failed: bundle abcd1234 is damaged", 2),
    ],
)
def test_reasons_that_differ_only_in_numbers_are_one_alert(
    first: str, second: str, count: int, settings: Settings, ledger: Ledger, webhook: Webhook
) -> None:
    for reason in (first, second, first):
        block(settings, ledger, reason, version=2)
    assert len(webhook.seen) == count


def test_another_model_another_title_and_another_day_are_alerts_of_their_own(
    settings: Settings, home: Path, webhook: Webhook
) -> None:
    for _ in range(2):
        tell(settings)
        tell(settings, model="other")
        tell(settings, "something else")
    assert len(webhook.seen) == len(kept(home)) == 3
    for hours, count in ((25, 4), (-25, 5), (23, 5)):
        at = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        old = [json.dumps({**line, "at": at}) for line in kept(home)]
        (home / "alerts.jsonl").write_text("\n".join(old) + "\n")
        tell(settings)
        assert len(webhook.seen) == count, hours


@pytest.mark.parametrize("answer", [500, 403, None])
def test_a_webhook_that_fails_breaks_nothing_and_is_tried_again(
    answer: int | None,
    settings: Settings,
    home: Path,
    webhook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(alerts, "WEBHOOK_SECONDS", 0.3)
    webhook.answer = answer
    tell(settings)
    assert "webhook did not take" in caplog.text
    webhook.answer = 200
    for _ in range(3):
        tell(settings)
    assert [line["sent"] for line in kept(home)] == [False, True]
    assert len(webhook.seen) == 2


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/SECRET", "http://[SECRET", "http://a b/SECRET"]
)
def test_nothing_ever_names_the_address(
    url: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings.from_env({"MLCICD_HOME": str(home), "MLCICD_ALERT_WEBHOOK": "http://ok"})
    object.__setattr__(settings, "alert_webhook", url.format(port=free_port()))
    tell(settings)
    assert "webhook did not take" in caplog.text
    assert "SECRET" not in caplog.text + str(kept(home)) + repr(settings)


def test_without_a_webhook_log_and_file_tell_once(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        tell(Settings.from_env())
    assert len(kept(home)) == len(caplog.messages) == 1


def test_a_value_from_the_data_becomes_no_mention(settings: Settings, webhook: Webhook) -> None:
    tell(settings, "file <!channel> & co")
    assert "file &lt;!channel&gt; &amp; co" in webhook.seen[0]["text"]


def test_a_damaged_file_and_a_long_one_hide_nothing(
    settings: Settings, home: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(settings)
    line = (home / "alerts.jsonl").read_bytes()
    monkeypatch.setattr(alerts, "TAIL_BYTES", len(line) + 40)
    noise = b'{"at": 7, "model": []}\nnull\n[1]\n\xff\xfe{"at\n'
    (home / "alerts.jsonl").write_bytes(noise * 9 + line + b"null\n")
    tell(settings)
    assert len(webhook.seen) == 1, "it stands in the tail"
    (home / "alerts.jsonl").write_bytes(line + noise * 9)
    tell(settings)
    assert len(webhook.seen) == 2, "it is out of sight"


def test_a_file_that_cannot_be_written_breaks_nothing(
    settings: Settings, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "alerts.jsonl").mkdir()
    tell(settings)
    assert "could not be kept" in caplog.text


def test_a_long_reason_is_cut_and_still_says_what_is_live(
    settings: Settings, ledger: Ledger, webhook: Webhook
) -> None:
    block(settings, ledger, FLOOR + "x" * 50_000, version=None)
    text = webhook.seen[0]["text"]
    assert len(text) < 1_200
    assert "x ...\nLive: nothing yet\nTo do: " in text


def test_two_at_once_make_one_alert(settings: Settings, home: Path, webhook: Webhook) -> None:
    threads = [threading.Thread(target=tell, args=(settings,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(webhook.seen) == len(kept(home)) == 1


@pytest.mark.ci
def test_a_blocked_run_alerts_once_however_often_it_runs(
    server: str, settings: Settings, home: Path, webhook: Webhook
) -> None:
    deliver_days()
    strict = small_spec(gates__floors={"roc_auc": 0.999})
    for only in (None, None, "deployed_endpoint"):
        assert not run_job(strict, only=only).success
    (told,) = webhook.seen
    assert told["text"].startswith(f"{MODEL}: blocked by metric_floors\nWhy: v1: ")
    assert "Live: nothing yet" in told["text"]
    assert len(kept(home)) == 1
