"""The classify worker on a real broker: nothing lost through kills at every step, poison and foreign records."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest

from mailecho.pipeline.side import committed_offsets
from mailecho.schemas import headers as h
from mailecho.schemas.classified import COMMAND_PREFIX, COPY_PREFIX, ROW_PREFIX
from mailecho.schemas.topics import (
    CLASSIFIED,
    COMMANDS,
    GROUP_CLASSIFY,
    RAW_ARF,
    RAW_DELIVERY,
    RAW_DSN,
    dlq,
    partition_of,
)
from tests.agents.harness import Cluster, wait_until

pytestmark = pytest.mark.kafka


def delivery(number: int, **more: Any) -> bytes:
    return orjson.dumps(
        {
            "kind": "delivery",
            "recipient": f"user{number}@example.org",
            "message_id": f"{number}@example.com",
            "occurred_at": "2026-11-20 10:00:00.000",
            **more,
        }
    )


SOURCE = [("source", b"mailecho")]


def lines(cluster: Cluster) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for partition in range(cluster.partitions):
        for record in cluster.records(CLASSIFIED, partition):
            found += [(partition, orjson.loads(line)) for line in (record.value or b"").split(b"\n") if line]
    return found


def all_committed(cluster: Cluster, topic: str) -> bool:
    committed = asyncio.run(committed_offsets(cluster.bootstrap, GROUP_CLASSIFY))
    return all(committed.get((topic, p), 0) >= end for p, end in enumerate(cluster.ends(topic)) if end)


def test_at_least_once_with_the_same_ids_through_kills(cluster: Cluster) -> None:
    total = 0
    for name in ("classify.before_send", "classify.after_send"):
        cluster.produce(RAW_DELIVERY, [delivery(total + n) for n in range(200)], total // 200 % 2, SOURCE)
        total += 200
        worker = cluster.worker("classify", faults=name)
        wait_until(lambda w=worker: not w.running, f"killed at {name}")  # type: ignore[misc]
    worker = cluster.worker("classify")
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "all is committed")
    assert worker.stop() == 0, worker.said()
    found = [line["row"] for _, line in lines(cluster)]
    ids = Counter(row["event_id"] for row in found)
    assert len(ids) == total
    assert len(found) > total, "the kill after the send made some of them come again"
    recipients = {(row["raw_partition"], row["raw_offset"]): row["event_id"] for row in found}
    assert len(recipients) == total, "each raw record has one id"
    for partition, line in lines(cluster):
        assert partition == partition_of(line["row"]["recipient_key"], 2)


def test_what_cannot_be_read_is_a_dead_letter_with_its_origin(cluster: Cluster) -> None:
    cluster.produce(
        RAW_DELIVERY, [b"", delivery(1), b'{"kind":"delivery","recip', delivery(2, kind="party")], 1, SOURCE
    )
    cluster.produce(RAW_DSN, [b"", b"\x00\xff" * 5000])
    cluster.produce(COMMANDS, [b'{"type":"add"}', b"nonsense"])
    cluster.produce(COMMANDS, [b"{}"], headers=[("schema", b"command/7.0")])
    worker = cluster.worker("classify")
    wait_until(lambda: all(all_committed(cluster, topic) for topic in (RAW_DELIVERY, RAW_DSN)), "all is committed")
    wait_until(lambda: len(cluster.records(dlq(COMMANDS))) == 3, "commands are refused")
    assert worker.stop() == 0, worker.said()
    found = [line["row"] for _, line in lines(cluster) if "row" in line]
    assert [row["kind"] for row in found if row["raw_topic"] == RAW_DELIVERY] == ["delivery"]
    letters = [dict(letter.headers) for letter in cluster.records(dlq(RAW_DELIVERY))]
    assert [(x["reason"], x["origin-offset"], x["origin-partition"]) for x in letters] == [
        (b"empty", b"0", b"1"),
        (b"unreadable", b"2", b"1"),
        (b"invalid", b"3", b"1"),
    ]
    assert b"kind" in letters[2]["detail"]
    assert letters[0]["source"] == b"mailecho", "the original's headers are kept"
    assert [dict(x.headers)["reason"] for x in cluster.records(dlq(COMMANDS))] == [b"invalid", b"invalid", b"schema"]
    assert len(cluster.records(dlq(RAW_DSN))) + len([r for r in found if r["raw_topic"] == RAW_DSN]) == 2


def test_a_record_on_which_three_workers_died_is_a_dead_letter(cluster: Cluster) -> None:
    cluster.produce(RAW_DELIVERY, [delivery(n) for n in range(10)], 0, SOURCE)
    # the 4th record that a process reads kills it: first in a chunk, then looked at one by one
    for _ in range(3):
        worker = cluster.worker("classify", faults="classify.record:4")
        wait_until(lambda w=worker: not w.running, "it dies")  # type: ignore[misc]
    worker = cluster.worker("classify")
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "all is committed")
    assert worker.stop() == 0, worker.said()
    (letter,) = cluster.records(dlq(RAW_DELIVERY))
    assert (dict(letter.headers)["reason"], dict(letter.headers)["origin-offset"]) == (b"poison", b"3")
    assert sorted({line["row"]["raw_offset"] for _, line in lines(cluster)}) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_commands_go_to_their_recipients_partition_and_a_policy_to_all(cluster: Cluster) -> None:
    add = {"type": "add", "id": "command-1", "address": "Ann@Example.org", "actor": "eve"}
    policy = {"type": "policy", "id": "command-2", "policy": {"version": "x", "rule": []}}
    cluster.produce(COMMANDS, [orjson.dumps(add), orjson.dumps(policy)])
    worker = cluster.worker("classify")
    wait_until(lambda: len(lines(cluster)) == 3, "all is written")
    assert worker.stop() == 0, worker.said()
    found = lines(cluster)
    (place, added) = next((p, line["command"]) for p, line in found if line["command"]["type"] == "add")
    assert place == partition_of(added["subject_key"], 2)
    assert (added["address"], added["domain"], added["subject"]) == ("ann@example.org", "example.org", "address")
    assert sorted(p for p, line in found if line["command"]["type"] == "policy") == [0, 1]


def test_a_domain_failure_is_copied_to_the_domains_partition(cluster: Cluster) -> None:
    failed = [
        delivery(n, kind="bounce", smtp_code=550, status="5.1.2", diagnostic="550 5.1.2 domain not found: NXDOMAIN")
        for n in range(6)
    ]
    cluster.produce(RAW_DELIVERY, [b"\n".join(failed)], 0, SOURCE)
    worker = cluster.worker("classify")
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "all is committed")
    assert worker.stop() == 0, worker.said()
    found = lines(cluster)
    assert sum("row" in line for _, line in found) == 6
    copies = [(p, line["copy"]) for p, line in found if "copy" in line]
    assert len(copies) == 6
    assert {p for p, _ in copies} == {copies[0][0]}, "one writer for a domain"
    assert {copy["domain"] for _, copy in copies} == {"example.org"}


def test_mail_is_read_by_its_content_not_by_its_topic(cluster: Cluster) -> None:
    dsn = b"\r\n".join(
        [
            b"From: MAILER-DAEMON@mx.example.net", b"To: bounces@example.com", b"Subject: Undelivered Mail",
            b"Date: Fri, 20 Nov 2026 10:00:00 +0000", b"MIME-Version: 1.0",
            b'Content-Type: multipart/report; report-type=delivery-status; boundary="b1"', b"",
            b"--b1", b"Content-Type: text/plain", b"", b"It failed.", b"",
            b"--b1", b"Content-Type: message/delivery-status", b"", b"Reporting-MTA: dns; mx.example.net", b"",
            b"Final-Recipient: rfc822; gone@example.org", b"Action: failed", b"Status: 5.1.1",
            b"Diagnostic-Code: smtp; 550 5.1.1 <gone@example.org>: User unknown", b"",
            b"--b1--", b"",
        ]
    )  # fmt: skip
    cluster.produce(RAW_ARF, [dsn], 0)
    worker = cluster.worker("classify")
    wait_until(lambda: all_committed(cluster, RAW_ARF), "all is committed")
    assert worker.stop() == 0, worker.said()
    ((_, line),) = lines(cluster)
    row = line["row"]
    assert (row["kind"], row["cause"], row["status"]) == ("bounce", "mailbox_unknown", "5.1.1")
    assert line["address"] == "gone@example.org"
    assert "gone@" not in orjson.dumps(row).decode(), "the row holds no clear address"


def test_every_line_is_of_a_known_kind_and_every_record_names_its_schema(cluster: Cluster) -> None:
    cluster.produce(RAW_DELIVERY, [delivery(n) for n in range(5)], 0, SOURCE)
    worker = cluster.worker("classify")
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "all is committed")
    assert worker.stop() == 0, worker.said()
    for partition in range(2):
        for record in cluster.records(CLASSIFIED, partition):
            assert h.get(record.headers, h.SCHEMA) == "classified/1.0"
            assert (h.get(record.headers, h.ORIGIN) or "").startswith(f"{RAW_DELIVERY}:0:")
            for line in (record.value or b"").split(b"\n"):
                assert line.startswith((ROW_PREFIX, COMMAND_PREFIX, COPY_PREFIX))
