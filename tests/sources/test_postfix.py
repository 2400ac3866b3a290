"""Golden table of Postfix lines, written for this project, and what a line must never do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mailecho.pipeline.finding import Finding
from mailecho.pipeline.sources import Rejected, read_delivery
from mailecho.schemas.taxonomy import Kind, Trust
from tests.sources.postfix_lines import GOLDEN, NONE, delivery

RECEIVED = int(datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp() * 1000)


def read(line: str | bytes, **options: Any) -> list[Finding | Rejected]:
    value = line.encode() if isinstance(line, str) else line
    return list(read_delivery(value, source="postfix", received_at_ms=RECEIVED, **options))


@pytest.mark.parametrize(("line", "expected"), [pytest.param(g[1], g[2], id=g[0]) for g in GOLDEN])
def test_golden(line: str, expected: dict[str, Any]) -> None:
    (finding,) = read(line)
    assert isinstance(finding, Finding)
    assert finding.trust is Trust.VERIFIED
    assert finding.source == "postfix"
    assert finding.occurred_at_ms == int(datetime(2026, 3, 1, 10, 20, 30, 123000, tzinfo=UTC).timestamp() * 1000)
    if expected is NONE:
        assert finding.kind is Kind.NOT_FEEDBACK
        return
    assert {name: getattr(finding, name) for name in expected} == expected
    assert finding.identity


def test_a_chunk_gives_its_events_and_nothing_for_the_rest() -> None:
    chunk = "\n".join(line for _, line, _ in GOLDEN) + "\n"
    found = read(chunk)
    assert [f.kind for f in found if isinstance(f, Finding)] == [e["kind"] for _, _, e in GOLDEN if e is not NONE]


def test_identities_differ_for_all_events() -> None:
    found = [f for _, line, expected in GOLDEN if expected is not NONE for f in read(line)]
    # same queue id and time everywhere: what differs is recipient, code and relay
    lines = {(f.recipient, f.status, f.remote_ip, f.kind, f.mail_from) for f in found if isinstance(f, Finding)}
    assert len({f.identity for f in found if isinstance(f, Finding)}) >= len(lines)


@pytest.mark.parametrize(
    ("stamp", "received", "expected"),
    [
        ("Mar  1 10:20:30", datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)),
        ("Mar 01 10:20:30", datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC)),
        ("Dec 31 23:59:59", datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC), datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("Jan  1 00:00:05", datetime(2025, 12, 31, 23, 59, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC)),
        ("Mar  3 00:00:00", datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2025, 3, 3, tzinfo=UTC)),
        ("Feb 29 08:00:00", datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2024, 2, 29, 8, tzinfo=UTC)),
        (
            "2026-03-01T11:20:30+0100",
            datetime(2026, 3, 1, 12, tzinfo=UTC),
            datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC),
        ),
        ("2026-03-01T10:20:60Z", datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 10, 20, 59, tzinfo=UTC)),
    ],
)
def test_times(stamp: str, received: datetime, expected: datetime) -> None:
    line = f"{stamp} mx1 postfix/qmgr[1]: 3F2A1: from=<a@example.org>, status=expired, returned to sender"
    (finding,) = read_delivery(line.encode(), source="postfix", received_at_ms=int(received.timestamp() * 1000))
    assert isinstance(finding, Finding)
    assert finding.occurred_at_ms == int(expected.timestamp() * 1000)
    assert finding.occurred_at_raw == stamp


def test_zone_of_stamps_without_one() -> None:
    line = "Mar  1 11:20:30 mx1 postfix/qmgr[1]: 3F2A1: from=<a@example.org>, status=expired, returned to sender"
    (finding,) = read(line, utc_offset_minutes=60)
    assert isinstance(finding, Finding)
    assert finding.occurred_at_ms == int(datetime(2026, 3, 1, 10, 20, 30, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("line", "reason", "word"),
    [
        (delivery("smtp", "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=0.5"), "unreadable", "cut"),
        (delivery("smtp", "to=<user@exam"), "unreadable", "cut"),
        ("not a log line at all", "unreadable", "syslog"),
        (
            delivery("smtp", "to=<a@example.com>, relay=none, delay=1, dsn=2.0.0, status=dancing (x)"),
            "invalid",
            "dancing",
        ),
        ("Xyz 99 99:99:99 mx1 postfix/qmgr[1]: 3F2A1: from=<>, status=expired", "invalid", "time"),
    ],
)
def test_rejected(line: str, reason: str, word: str) -> None:
    good = delivery("smtp", "to=<a@example.com>, relay=none, delay=1, dsn=2.0.0, status=sent (ok)")
    found = read(f"{good}\n\n{line}\n{good}")
    assert [f.__class__ for f in found] == [Finding, Rejected, Finding]
    bad = found[1]
    assert isinstance(bad, Rejected)
    assert (bad.index, bad.reason, bad.entry) == (1, reason, line.encode())
    assert word in bad.detail


def test_a_recipient_that_is_no_address_is_left_out() -> None:
    (finding,) = read(delivery("smtp", "to=<>, relay=none, delay=1, dsn=5.1.3, status=bounced (bad address)"))
    assert isinstance(finding, Finding)
    assert (finding.kind, finding.recipient) == (Kind.BOUNCE, "")


def test_hostile_lines_take_no_time() -> None:
    hostile = [
        delivery("smtp", 'to=<"' + "\\" * 500_000),
        delivery("smtp", "to=<" + '"a"' * 200_000),
        delivery("smtp", "to=<a@example.com>, relay=" + "x=, " * 200_000),
        delivery("smtp", "to=<a@example.com>, relay=none, status=bounced (" + "host a[b] said: " * 60_000),
        delivery("smtp", "to=<" + "a>, " * 200_000),
        "Mar  1 10:20:30 " + "a" * 900_000,
    ]
    for line in hostile:
        assert len(read(line)) == 1
