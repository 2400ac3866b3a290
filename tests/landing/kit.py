"""What the lander's tests share: records as the ledger writes them, a lander as a process, what landed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import CommitFailedError
from clickhouse_connect.driver.client import Client

from mailecho.pipeline.landing.reconcile import reconcile
from mailecho.schemas import headers as h

CHILD = """
import logging, sys
from mailecho.pipeline.config import load
from mailecho.pipeline.landing.lander import serve
logging.basicConfig(level="INFO")
serve(load(), topic=sys.argv[1], group=sys.argv[1])
"""

TODAY = f"{datetime.now(UTC):%Y-%m-%d}"


@dataclass
class Record:
    """A record of the topic, for the pure parts."""

    offset: int
    value: bytes | None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    timestamp: int = 1_700_000_000_000
    partition: int = 0


def row(topic: str, number: int, **fields: object) -> bytes:
    """A row of `events`: its id follows from topic and number, its tenant is the topic."""
    return orjson.dumps(
        {
            "event_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{topic}/{number}")),
            "kind": "bounce",
            "received_at": f"{TODAY} 00:00:01.000",
            "occurred_at": f"{TODAY} 00:00:00.500",
            "tenant": topic,
            "provider": "example",
            "diagnostic": f"550 5.1.1 <***@example.com> unknown, number {number}",
            "raw_topic": topic,
            "raw_partition": 0,
            "raw_offset": number,
            **fields,
        }
    )


def change(topic: str, number: int) -> bytes:
    """A row of `suppression_changes`."""
    return orjson.dumps(
        {
            "time": f"{TODAY} 00:00:01.000",
            "scope": "tenant",
            "scope_id": topic,
            "subject": "address",
            "subject_key": str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
            "state": "active",
            "version": number,
            "partition": 0,
        }
    )


def emission(n: int, rows: Iterable[bytes] = (), changes: Iterable[bytes] = ()) -> tuple[bytes, h.Headers]:
    """Value and headers of a record as the ledger writes it."""
    events = b"".join(line + b"\n" for line in rows)
    at = len(events)
    rows_header = events.count(b"\n")
    return events + b"".join(line + b"\n" for line in changes), [
        h.schema_header("event"),
        (h.EMISSION, str(n).encode()),
        (h.ROWS, str(rows_header).encode()),
        (h.CHANGES_AT, str(at).encode()),
    ]


def usual(topic: str, numbers: Iterable[int], rows: int = 10) -> list[tuple[bytes, h.Headers]]:
    """Emissions of `rows` rows each; every third has a change, every seventh is empty."""
    return [
        emission(n)
        if n % 7 == 6
        else emission(n, [row(topic, n * rows + i) for i in range(rows)], [change(topic, n)] if n % 3 == 0 else [])
        for n in numbers
    ]


def produce(bootstrap: str, topic: str, records: Iterable[tuple[bytes, h.Headers]], partition: int = 0) -> None:
    """Append the records, acknowledged, in order."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
            sent = [await producer.send(topic, v, headers=hs, partition=partition) for v, hs in records]
            await asyncio.gather(*sent)

    asyncio.run(send())


def consume(bootstrap: str, topic: str, count: int, seconds: float = 30) -> list[Any]:
    """The first `count` records of a topic's partition 0."""

    async def read() -> list[Any]:
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            found: list[Any] = []
            async with asyncio.timeout(seconds):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
            return found

    return asyncio.run(read())


def until(
    condition: Callable[[], object], what: str, seconds: float = 60, alive: Callable[[], bool] | None = None
) -> None:
    """Poll until the condition holds; fail with `what`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        assert alive is None or alive(), f"the process ended before: {what}"
        time.sleep(0.05)


class LanderProcess:
    """A lander as a process of its own, with small ranges."""

    def __init__(self, directory: Path, bootstrap: str, url: str, token: str, topic: str, **env: str) -> None:
        self.log = directory / f"lander-{uuid.uuid4().hex[:6]}.log"
        environment = {
            **os.environ,
            "MAILECHO_DATA_DIR": str(directory),
            "MAILECHO_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "MAILECHO_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "MAILECHO_CLICKHOUSE__URL": url,
            "MAILECHO_CLICKHOUSE__PASSWORD": token,
            "MAILECHO_LANDER__FLUSH_SECONDS": "0.3",
            "MAILECHO_LANDER__FLUSH_ROWS": "100",
            **env,
        }
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, topic], env=environment, stdout=out, stderr=out
            )

    def alive(self) -> bool:
        return self.process.poll() is None

    def text(self) -> str:
        return self.log.read_text()

    def ends(self, seconds: float = 60) -> int:
        """Its exit status, once it ends by itself."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, once it has joined its group; its exit status."""
        until(lambda: "Joined group" in self.text(), "it has joined", alive=self.alive)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """kill -9, where it still runs."""
        self.process.kill()
        self.process.wait()


def offset_landed(client: Client, topic: str, partition: int = 0) -> int:
    """How far a partition has landed."""
    return int(
        client.query(
            "SELECT max(e) FROM landed WHERE topic = {t:String} AND partition = {p:UInt32}",
            parameters={"t": topic, "p": partition},
        ).result_rows[0][0]
    )


def assert_exact(client: Client, topic: str, numbers: Iterable[int], changes: int, rejected: int = 0) -> None:
    """The rows with these numbers are there once each, in the table, in all rollups and in `landed`."""
    wanted = sorted(numbers)
    found = client.query(
        "SELECT raw_offset FROM events WHERE tenant = {t:String} ORDER BY raw_offset", parameters={"t": topic}
    ).result_rows
    assert [number for (number,) in found] == wanted
    for rollup, counter in (
        ("rollup_minute_provider", "bounce"),
        ("rollup_minute_ip_cause", "events"),
        ("rollup_quarter", "events"),
        ("rollup_hour_campaign", "bounce"),
        ("rollup_hour_provider", "bounce"),
        ("rollup_day", "events"),
    ):
        total = client.query(
            f"SELECT sum({counter}) FROM {rollup} WHERE tenant = {{t:String}}", parameters={"t": topic}
        ).result_rows[0][0]
        assert (rollup, total) == (rollup, len(wanted))
    assert reconcile(client, [TODAY]) == []
    assert client.query(
        "SELECT count() FROM suppression_changes WHERE scope_id = {t:String}", parameters={"t": topic}
    ).result_rows == [(changes,)]
    assert client.query(
        "SELECT sum(rows), sum(changes), sum(rejected) FROM landed WHERE topic = {t:String}", parameters={"t": topic}
    ).result_rows == [(len(wanted), changes, rejected)]


def lands(client: Client, topic: str, lander: LanderProcess, end: int) -> None:
    """Wait until the topic's partition 0 has landed up to `end`, then stop the lander cleanly."""
    until(lambda: offset_landed(client, topic) >= end, f"landed up to {end}: {lander.log}", alive=lander.alive)
    assert lander.stop() == 0, lander.text()


def make_topic(bootstrap: str, name: str) -> None:
    """Create a topic of this name with one partition."""
    administrate(bootstrap, lambda admin: admin.create_topics([NewTopic(name, 1, 1)]))


def grow(bootstrap: str, topic: str, parts: int) -> None:
    """Give a topic so many partitions."""
    administrate(bootstrap, lambda admin: admin.create_partitions({topic: NewPartitions(parts)}))


def expire(bootstrap: str, topic: str, before: int, partition: int = 0) -> None:
    """Delete the records below an offset, as retention does."""
    where = TopicPartition(topic, partition)
    administrate(bootstrap, lambda admin: admin.delete_records({where: RecordsToDelete(before)}))


def committed(bootstrap: str, group: str) -> tuple[int, str]:
    """The group's offset and metadata for its topic's only partition."""
    ((offset, metadata),) = administrate(bootstrap, lambda admin: admin.list_consumer_group_offsets(group)).values()
    return offset, metadata


def set_offset(bootstrap: str, group: str, offset: int, metadata: str = "") -> None:
    """Commit for the group's topic, which has its name, once Kafka has forgotten its members."""

    async def commit() -> bool:
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False) as consumer:
            where = TopicPartition(group, 0)
            consumer.assign([where])
            try:
                await consumer.commit({where: (offset, metadata)})
            except CommitFailedError:
                return False
            return True

    until(lambda: asyncio.run(commit()), "the group has no members")


def administrate(bootstrap: str, call: Callable[[AIOKafkaAdminClient], Any]) -> Any:
    """Await what `call` makes of an admin client."""

    async def run() -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            return await call(admin)
        finally:
            await admin.close()

    return asyncio.run(run())
