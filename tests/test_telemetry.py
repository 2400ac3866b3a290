"""Log lines, what reaches Sentry, the sign of life, metrics."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline import metrics, telemetry
from mailecho.pipeline.config import Settings


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("to anna.b+c@example.com now", "to ***@example.com now"),
        ("<anna@example.com>,<bob@example.org>", "<***@example.com>,<***@example.org>"),
        ('"anna b"@example.com', "***@example.com"),
        ("GET /v1/suppressions/anna%40example.com?tenant=", "GET ***@example.com?tenant="),
        ("bounces+anna=example.net@example.com", "***@example.com"),
        ("ännä＠bücher.example", "***@bücher.example"),
        ("anna@[192.0.2.1]: no", "***@[192.0.2.1]: no"),
        (r"b'To: x\r\nanna@example.com'", r"b'To: ***@example.com'"),
        ("no address @ all, 100%", "no address @ all, 100%"),
    ],
)
def test_mask(text: str, masked: str) -> None:
    assert telemetry.mask(text) == masked


@given(
    st.from_regex(r"[A-Za-z0-9.!#$%&*+/=?^_{|}~-]{3,20}", fullmatch=True), st.text(max_size=20), st.text(max_size=20)
)
def test_no_local_part_survives(local: str, before: str, after: str) -> None:
    local = f"Q7{local}7Q"
    assert local not in telemetry.mask(f"{before} {local}@example.com {after}")


@pytest.mark.parametrize("text", ["a" * 200_000, "a@" * 100_000, '"' * 200_000, "a%40" * 50_000, "'\\" * 100_000])
def test_scrubbing_is_linear(text: str) -> None:
    telemetry.scrub(text)  # quadratic would outlast the suite's timeout


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("cannot read b'Dear Anna, it\\'s' of anna@example.com", "cannot read '…' of ***@example.com"),
        ("first line\nDear Anna", "first line"),
        ("cut off: 'Dear Anna", "cut off: '…'"),
        ("", ""),
        ("x" * 999, "x" * 200),
    ],
)
def test_scrub(text: str, scrubbed: str) -> None:
    assert telemetry.scrub(text) == scrubbed


def record(message: str, *args: object, name: str = "aiokafka.conn", level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file.py", 1, message, args, None)


def test_noisy_loggers_are_limited_and_counted() -> None:
    now = [0.0]
    repeats = telemetry.Repeats(clock=lambda: now[0])
    passed = [repeats.filter(record("node %s is away", node)) for node in range(1000)]
    assert passed == [True] + [False] * 999
    assert repeats.filter(record("another message"))
    assert repeats.filter(record("node %s is away", 1, level=logging.INFO))
    now[0] = 5.0
    later = record("node %s is away", 2)
    assert repeats.filter(later)
    assert telemetry.LineFormatter("classify/0").format(later).endswith("node 2 is away (and 999 more like it before)")
    ours = [repeats.filter(record("same", name="mailecho.pipeline.landing")) for _ in range(5)]
    assert all(ours)


def test_the_limiter_does_not_grow() -> None:
    repeats = telemetry.Repeats(clock=lambda: 0.0)
    for number in range(5000):
        repeats.filter(record(f"formatted {number}"))
    assert len(repeats._seen) <= 513


def test_a_record_is_one_line_in_utc_with_addresses_masked() -> None:
    formatter = telemetry.LineFormatter("serve/pod-1")
    try:
        raise ValueError("bad address anna@example.com")
    except ValueError:
        entry = record("line\r\n2026 INFO forged \x1b[31m %s", "bob@example.org")
        entry.exc_info = sys.exc_info()
        entry.created, entry.msecs = 0.0, 7.0
    line = formatter.format(entry)
    assert line.startswith("1970-01-01T00:00:00.007Z ERROR serve/pod-1 aiokafka.conn: line | 2026 INFO forged ")
    assert line.endswith("ValueError: bad address ***@example.com")
    assert not re.search(r"[\r\n\x1b]|anna|bob", line)
    long = formatter.format(record("x" * 100_000))
    assert len(long) < 10_000


class Inbox(ThreadingHTTPServer):
    """A Sentry that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.envelopes: list[bytes] = []

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of all envelopes (https://develop.sentry.dev/sdk/data-model/envelopes/)."""
        events = []
        for envelope in self.envelopes:
            lines = envelope.split(b"\n")
            for header, payload in zip(lines[1::2], lines[2::2], strict=False):
                assert json.loads(header)["type"] == "event", header
                events.append(json.loads(payload))
        return events


class _Handler(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.envelopes.append(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with Inbox() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


#: Secrets come from the environment, so that source lines in the stack do not hold them.
SCRIPT = """
import logging, os, threading
import sentry_sdk
from mailecho.pipeline import config, telemetry

telemetry.setup("ledger", config.load())
address, body = os.environ["ADDRESS"], os.environ["BODY"]
log = logging.getLogger("mailecho.pipeline.ledger")

log.info("read %s", address, extra={"body": body})
sentry_sdk.add_breadcrumb(category="mail", message=body, data={"to": address})
sentry_sdk.set_extra("message", body)
sentry_sdk.set_user({"email": address})
sentry_sdk.set_context("mail", {"body": body})

def fold(to, text):
    local = [to, {"text": text}]
    raise ValueError(f"cannot fold {text} for {to}: {local}")

def caught(what):
    try:
        fold(address, body)
    except ValueError as error:
        error.add_note(body)
        log.exception(what, address, body)

caught("fold failed for %s: %s")
log.error("no exception, to %s: %r", address, body.encode())
log.error(f"formatted before: {address} {body!r}")
log.critical("%s", "refused: see " + address, extra={"speaks": True})
sentry_sdk.capture_message(address + chr(10) + body)
thread = threading.Thread(target=fold, args=(address, body))
thread.start()
thread.join()
for _ in range(50):
    logging.getLogger("aiokafka").error("broker %s away", address)
try:
    open("/nonexistent/" + address)
except OSError as error:
    raise RuntimeError(body) from error
"""

ADDRESS = "anna.secretlocal@example.com"
BODY = "Dear Anna, your order of red shoes"


def run(script: str, data_dir: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MAILECHO_DATA_DIR": str(data_dir), "ADDRESS": ADDRESS, "BODY": BODY, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_sentry_gets_what_happened_and_no_mail(inbox: Inbox, tmp_path: Path) -> None:
    done = run(
        SCRIPT,
        tmp_path,
        MAILECHO_SENTRY__DSN=f"http://key@127.0.0.1:{inbox.server_port}/1",
        MAILECHO_SENTRY__ENVIRONMENT="staging",
        MAILECHO_INSTANCE="ledger-3",
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"RuntimeError: {BODY}")
    sent = b"\n".join(inbox.envelopes).decode()
    for secret in ("secretlocal", "Anna", "red shoes", "order of"):
        assert secret not in sent
    assert "secretlocal" not in done.stderr, "addresses are masked in the log too"

    events = inbox.events
    assert len(events) == 8, [event.get("logentry") for event in events]
    for event in events:
        assert event["tags"] == {"role": "ledger", "instance": "ledger-3"}
        assert re.fullmatch(r"mailecho@\d+\.\d+\.\d+.*", event["release"])
        assert event["environment"] == "staging"
        assert not {"extra", "user", "request", "modules", "transaction"} & event.keys()

    first = events[0]
    assert first["logentry"] == {"message": "fold failed for %s: %s"}
    [exception] = first["exception"]["values"]
    assert exception["type"] == "ValueError"
    assert [frame["function"] for frame in exception["stacktrace"]["frames"]] == ["caught", "fold"]
    assert [crumb["message"] for crumb in first["breadcrumbs"]["values"]] == ["read %s", ""]
    assert events[1]["logentry"] == {"message": "no exception, to %s: %r"}
    assert events[2]["logentry"] == {"message": "formatted before: ***@example.com '…'"}

    assert events[3]["logentry"] == {"message": "refused: see ***@example.com"}

    last = {value["type"]: value["value"] for value in events[-1]["exception"]["values"]}
    assert last["FileNotFoundError"] == "[Errno 2] No such file or directory: '…'"
    assert last["RuntimeError"] == "(text removed: it may quote mail)"


def test_without_a_dsn_nothing_is_set_up(tmp_path: Path) -> None:
    done = run(
        "import logging, sentry_sdk\n"
        "from mailecho.pipeline import config, telemetry\n"
        "telemetry.setup('serve', config.load())\n"
        "assert not sentry_sdk.is_initialized()\n"
        "logging.getLogger('x').info('hello'); logging.getLogger('x').debug('not this')\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\S+Z INFO serve/0 x: hello\n", done.stderr)


def test_an_unreachable_sentry_does_not_hold_up_the_exit(tmp_path: Path) -> None:
    with socket.socket() as silent:  # accepts and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        done = run(
            "import logging, time\n"
            "from mailecho.pipeline import config, telemetry\n"
            "telemetry.setup('serve', config.load())\n"
            "logging.getLogger('x').error('lost')\n",
            tmp_path,
            MAILECHO_SENTRY__DSN=f"http://key@127.0.0.1:{silent.getsockname()[1]}/1",
        )
    assert done.returncode == 0, done.stderr
    assert "Sentry is attempting" not in done.stderr


def test_a_wrong_dsn_is_refused_by_name(tmp_path: Path) -> None:
    done = run(
        "from mailecho.pipeline import config, telemetry\ntelemetry.setup('serve', config.load())\n",
        tmp_path,
        MAILECHO_SENTRY__DSN="not a dsn",
    )
    assert "ValueError: sentry.dsn (MAILECHO_SENTRY__DSN)" in done.stderr


def test_alive_file(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, instance="ledger-1")
    telemetry.touch_alive(settings, "ledger")
    assert telemetry.alive_path(settings, "ledger") == tmp_path / "run" / "alive-ledger-ledger-1"
    assert (tmp_path / "run" / "alive-ledger-ledger-1").is_file()


def test_heartbeat_stops_when_progress_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "HEARTBEAT_SECONDS", 0.001)
    path = tmp_path / "run" / "alive-x-0"
    asked = 0

    async def main() -> None:
        nonlocal asked
        done = asyncio.Event()

        def progressing() -> bool:
            nonlocal asked
            asked += 1
            if asked == 2:
                path.unlink()  # touched once; from now on no progress
            if asked == 5:
                done.set()
            return asked < 2

        task = asyncio.create_task(telemetry.heartbeat(path, progressing))
        await asyncio.wait_for(done.wait(), 30)
        task.cancel()

    asyncio.run(main())
    assert asked >= 5
    assert not path.exists()


def test_heartbeat_outlives_a_disk_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telemetry, "HEARTBEAT_SECONDS", 0.001)
    (tmp_path / "run").write_text("a file, not a directory")

    async def main() -> None:
        asked = asyncio.Event()
        turns = 0

        def progressing() -> bool:
            nonlocal turns
            turns += 1
            if turns == 4:
                asked.set()
            return turns < 4

        task = asyncio.create_task(telemetry.heartbeat(tmp_path / "run" / "alive-x-0", progressing))
        await asyncio.wait_for(asked.wait(), 30)
        task.cancel()

    asyncio.run(main())
    assert caplog.text.count("cannot touch") == 3


def test_metrics_are_served_on_loopback() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stop = metrics.serve_metrics(str(port))
    assert stop is not None
    try:
        metrics.DEAD_LETTERS.labels("feedback.raw.dsn", "empty").inc()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'mailecho_dead_letters_total{reason="empty",topic="feedback.raw.dsn"} 1.0' in text
        with pytest.raises(OSError, match="in use"):
            metrics.serve_metrics(port)
    finally:
        stop()


@pytest.mark.parametrize("off", [None, "", 0, "0"])
def test_metrics_are_off(off: str | int | None) -> None:
    assert metrics.serve_metrics(off) is None


@pytest.mark.parametrize("wrong", ["port", "99999", "host:", "-1"])
def test_metrics_address_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(ValueError, match="MAILECHO_METRICS_PORT"):
        metrics.serve_metrics(wrong)
