"""The bare loop beside `bench volume`: what one would write by hand to get the same rows into the same table.

    python -m mailecho.pipeline.bench.bare DATABASE ROWS

One process: aiokafka's getmany, orjson, the same mapping and hashes, JSONEachRow inserts of ROWS rows over the same
HTTP interface. It keeps no offsets, checks nothing, drops nothing that comes twice, knows no recipient's state and
loses or doubles rows when it dies. It reads what `bench.feed` writes and no other form of it. Failures are judged by
our rules, since the rows must be the same: the benchmark compares both tables.

Prints `ready`, then one JSON object: `rows`, and `cpu` in seconds of all its threads since then.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from mailecho.pipeline.classify.reply import RULES_VERSION, classify_reply
from mailecho.pipeline.classify.template import mask_addresses, template_hash, template_of
from mailecho.pipeline.config import Settings, load
from mailecho.pipeline.identity import KEY_FILE
from mailecho.pipeline.landing.database import write_client
from mailecho.pipeline.landing.insert import EVENTS, SETTINGS
from mailecho.pipeline.provider import provider_of
from mailecho.schemas.taxonomy import FAULT_OF
from mailecho.schemas.topics import RAW_DELIVERY

_POSTFIX = re.compile(
    r"(\S+) (\S+) postfix/smtp\[\d+\]: (\w+): to=<([^>]+)>, relay=(([^\[]+)\[([^\]]+)\]:25), delay=([\d.]+), "
    r"delays=\S+, dsn=([\d.]+), status=(\w+) \((?:host \S+ said: )?(.*?)(?: \(in reply to (.*) command\))?\)$"
)
_KINDS = {"sent": "delivery", "deferred": "delay", "bounced": "bounce"}
_STAGES = {"RCPT TO": "rcpt", "MAIL FROM": "mail", "end of DATA": "end_of_data", None: ""}
_SAME = ("message_id", "stream", "campaign", "pool", "source_host", "sending_ip", "remote_host", "remote_ip", "stage")
_ALSO = ("smtp_code", "status", "diagnostic", "attempt", "queue_seconds", "size_bytes", "tls")


def rows_of(record: ConsumerRecord, secret: bytes) -> list[bytes]:
    """The rows of one raw record."""
    value = record.value
    received = _time(record.timestamp)
    if dict(record.headers)["source"] == b"postfix":
        entries = [_from_line(line) for line in value.decode().split("\n")]
    elif value[0] == 0x5B:
        entries = [_from_json(entry) for entry in orjson.loads(value)]
    else:
        entries = [_from_json(orjson.loads(line)) for line in value.split(b"\n")]
    rows = []
    for index, (row, to, at, identity) in enumerate(entries):
        domain = to.rpartition("@")[2]
        key = hmac.digest(secret, to.encode(), "sha256")[:16].hex()
        row["event_id"] = (at.to_bytes(6, "big") + _hash("log", "", row["source"], *identity)[:10]).hex()
        row["recipient_key"] = key
        row["received_at"] = received
        row["occurred_at"] = _time(at)
        row["recipient_domain"] = domain
        row["provider"] = provider_of(domain, row.get("remote_host", ""))
        joined: str = row.get("message_id") or row["envelope_id"]
        dashed = f"{key[:8]}-{key[8:12]}-{key[12:16]}-{key[16:20]}-{key[20:]}"
        row["outcome_id"] = _hash("outcome", "", joined, dashed)[:16].hex()
        row["trust"] = "verified"
        row["rules_version"] = RULES_VERSION
        row["raw_topic"] = record.topic
        row["raw_partition"] = record.partition
        row["raw_offset"] = record.offset
        row["raw_index"] = index
        if row["kind"] in ("bounce", "delay"):
            _judge(row)
        rows.append(orjson.dumps(row))
    return rows


def _from_json(entry: dict[str, Any]) -> tuple[dict[str, Any], str, int, tuple[str, ...]]:
    row = {name: entry[name] for name in (*_SAME, *_ALSO) if name in entry}
    row["kind"], row["source"] = entry["kind"], "mailecho"
    row["mail_from_domain"] = entry["mail_from"].rpartition("@")[2]
    to, at = entry["recipient"].lower(), int(entry["occurred_at"] * 1000)
    status, attempt, host = entry.get("status", ""), str(entry.get("attempt", 0)), entry.get("remote_host", "")
    return row, to, at, (entry["kind"], entry["message_id"], to, str(at), status, attempt, host)


def _from_line(line: str) -> tuple[dict[str, Any], str, int, tuple[str, ...]]:
    match = _POSTFIX.match(line)
    assert match is not None, line
    stamp, source_host, queue, to, relay, host, ip, delay, status, word, text, command = match.groups()
    row = {
        "kind": _KINDS[word],
        "source": "postfix",
        "source_host": source_host,
        "envelope_id": f"{source_host}/{queue}",
        "remote_host": host,
        "remote_ip": ip,
        "status": status,
        "diagnostic": text,
        "smtp_code": int(text[:3]),
        "stage": _STAGES[command],
        "queue_seconds": float(delay),
    }
    at = int(datetime.fromisoformat(stamp).timestamp() * 1000)
    return row, to.lower(), at, (source_host, queue, to, "", stamp, status, relay)


def _judge(row: dict[str, Any]) -> None:
    text = row["diagnostic"]
    verdict = classify_reply(
        text,
        smtp_code=row["smtp_code"],
        status=row["status"],
        host=row["remote_host"],
        stage=row["stage"],
        source=row["source"],
    )
    row["cause"] = verdict.cause
    row["cause_detail"] = verdict.detail
    row["fault"] = FAULT_OF[verdict.cause] if verdict.cause else ""
    row["permanence"] = verdict.permanence
    row["confidence"] = round(verdict.confidence, 3)
    row["rule_id"] = verdict.rule_id
    row["status"] = verdict.status or row["status"]
    row["smtp_code"] = verdict.smtp_code or row["smtp_code"]
    row["stage"] = verdict.stage or row["stage"]
    row["diagnostic"] = mask_addresses(text)
    row["template"] = template_hash(template_of(text))


def _hash(*fields: str) -> bytes:
    encoded = [field.encode() for field in fields]
    return hashlib.sha256(b"".join([len(field).to_bytes(4, "big") + field for field in encoded])).digest()


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "milliseconds")[:23]


async def _run(settings: Settings, rows_each: int) -> None:
    secret = bytes.fromhex((settings.data_dir / KEY_FILE).read_text())
    client = write_client(settings)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=1024 * 1024,
    )
    await consumer.start()
    places = [TopicPartition(RAW_DELIVERY, partition) for partition in range(settings.kafka.partitions)]
    consumer.assign(places)
    left = {place: end for place, end in (await consumer.end_offsets(places)).items() if end}
    classify_reply("550 5.1.1 user unknown")  # the rules are loaded
    sys.stdout.write("ready\n")
    began, count = time.process_time(), 0
    rows: list[bytes] = []
    while left:
        for place, records in (await consumer.getmany(timeout_ms=1000)).items():
            for record in records:
                rows += rows_of(record, secret)
            if records and records[-1].offset + 1 >= left.get(place, 0):
                left.pop(place, None)
        while rows and (len(rows) >= rows_each or not left):
            body = b"\n".join(rows[:rows_each]) + b"\n"
            await asyncio.to_thread(client.raw_insert, EVENTS, insert_block=body, settings=SETTINGS, fmt="JSONEachRow")
            count += len(rows[:rows_each])
            del rows[:rows_each]
    spent = time.process_time() - began
    await consumer.stop()
    client.close()
    sys.stdout.write(orjson.dumps({"rows": count, "cpu": spent}).decode() + "\n")


def main() -> None:
    """Read the whole topic into the database."""
    settings = load()
    clickhouse = settings.clickhouse.model_copy(update={"database": sys.argv[1]})
    uvloop.run(_run(settings.model_copy(update={"clickhouse": clickhouse}), int(sys.argv[2])))


if __name__ == "__main__":
    main()
