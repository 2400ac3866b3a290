"""The most frequent unknown replies, from a real engine, and only those."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from mailecho.pipeline.classify.template import template_hash, template_of
from mailecho.pipeline.templates import unknown_templates
from tests.fixtures_clickhouse import EmbeddedClickHouse

pytestmark = pytest.mark.clickhouse

UNKNOWN = "550 5.7.0 <***@example.com> the moon is not right, session 4F1A2B{}"
OTHER = "451 back after lunch at mx{}.example.org"


def row(number: int, diagnostic: str, cause: str, confidence: float = 0.0, days: float = 0, **more: object) -> bytes:
    when = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.000}"
    return orjson.dumps(
        {
            "event_id": str(uuid.UUID(int=number)),
            "recipient_key": str(uuid.UUID(int=number % 3 + 1)),
            "kind": "bounce",
            "received_at": when,
            "occurred_at": when,
            "provider": "google" if number % 2 else "yahoo",
            "status": "5.7.0",
            "diagnostic": diagnostic,
            "template": template_hash(template_of(diagnostic)),
            "cause": cause,
            "confidence": confidence,
            "raw_topic": "t",
            "raw_partition": 0,
            "raw_offset": number,
            **more,
        }
    )


def test_the_most_frequent_unknown_replies_come_first(clickhouse: EmbeddedClickHouse) -> None:
    rows = [row(n, UNKNOWN.format(n + 10), "undetermined") for n in range(5)]
    rows += [row(n, OTHER.format(n), "policy_other", 0.4) for n in range(10, 12)]
    rows += [row(n, "550 user unknown", "mailbox_unknown", 0.96) for n in range(20, 30)]
    rows += [row(n, "550 long ago", "undetermined", days=30) for n in range(30, 40)]
    rows += [row(n, "250 whatever", "", kind="delivery") for n in range(40, 50)]
    clickhouse.write_client().raw_insert("events", insert_block=b"\n".join(rows), fmt="JSONEachRow")
    client = clickhouse.read_client()

    first, second = unknown_templates(client, days=7, limit=10, below=0.5)
    assert (first.count, first.recipients, first.providers) == (5, 3, ["google", "yahoo"])
    assert first.example == UNKNOWN.format(10)
    assert first.template == template_hash(template_of(first.example))
    assert first.draft is not None
    assert first.draft.pattern == r"\bthe moon is not right, session"
    assert (second.count, second.confidence, second.statuses) == (2, 0.4, ["5.7.0"])

    assert len(unknown_templates(client, days=60, limit=1, below=0.5)) == 1
    assert [one.count for one in unknown_templates(client, days=7, limit=10, below=0.0)] == [5]
