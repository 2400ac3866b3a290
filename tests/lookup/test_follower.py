from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from mailecho.pipeline.endpoints import NotRunning
from mailecho.pipeline.identity import IdentityKeyError
from mailecho.pipeline.lookup.client import Lookup
from mailecho.pipeline.lookup.follower import Follower
from mailecho.pipeline.lookup.store import Store
from tests.fixtures_kafka import KafkaProcess
from tests.lookup.entries import DAY, IDENTITY, entry, record, tombstone

pytestmark = pytest.mark.kafka

COMPACTED: dict[str, Any] = {"cleanup_policy": "compact", "delete_retention_ms": 30 * DAY}


async def until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)


async def send(bootstrap: str, topic: str, *records: dict[str, Any], partition: int = 0) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
    await producer.start()
    try:
        for one in records:
            await producer.send(topic, partition=partition, **one)
        await producer.flush()
    finally:
        await producer.stop()


@asynccontextmanager
async def following(directory: Path, bootstrap: str, topic: str, **more: Any) -> AsyncIterator[Follower]:
    store = Store(directory)
    follower = Follower(
        store,
        bootstrap=more.pop("ask", lambda: bootstrap),
        fingerprint=IDENTITY.fingerprint,
        topic=topic,
        pace_ms=10,
        **more,
    )
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        follower.stop()
        await asyncio.wait_for(task, 5)
        store.close()


def allowed(follower: Follower, address: str) -> bool:
    return Lookup.over(follower.store, IDENTITY).check(address)["allowed"]


def test_follows_from_the_start_and_resumes_where_it_stood(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(2, **COMPACTED)

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")), record(entry("b@example.com")))
        await send(kafka.bootstrap, topic, record(entry("c@example.com")), partition=1)
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
            assert not any(allowed(follower, f"{name}@example.com") for name in "abc")
            assert (follower.applied, follower.lag, follower.reason) == (3, 0, "")
            await send(kafka.bootstrap, topic, record(entry("d@example.com", version=3)))
            await until(lambda: not allowed(follower, "d@example.com"), "a new entry is seen")
            await send(kafka.bootstrap, topic, tombstone(entry("a@example.com"), 4))
            await until(lambda: allowed(follower, "a@example.com"), "a removal is seen")
        await send(kafka.bootstrap, topic, record(entry("e@example.com")), partition=1)
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up again")
            assert follower.applied == 1, "what was there already was not read again"
            assert follower.store.offsets() == {0: 4, 1: 2}
            assert [allowed(follower, f"{name}@example.com") for name in "abcde"] == [True, *[False] * 4]

    asyncio.run(main())


def test_a_lower_version_that_comes_later_changes_nothing(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)
    zombie = [record(entry("a@example.com", version=3)), tombstone(entry("b@example.com"), 3)]

    async def main() -> None:
        now = [tombstone(entry("a@example.com"), 9), record(entry("b@example.com", version=9))]
        await send(kafka.bootstrap, topic, *now, *zombie)
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
            assert allowed(follower, "a@example.com")
            assert not allowed(follower, "b@example.com")
            assert (follower.applied, follower.outdated) == (2, 2)

    asyncio.run(main())


def test_a_record_that_is_no_entry_is_counted_and_passed_over(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)

    async def main() -> None:
        await send(kafka.bootstrap, topic, {"key": b"k", "value": b"{"}, record(entry("a@example.com")))
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
            assert (follower.applied, follower.rejected) == (1, 1)

    asyncio.run(main())


def test_a_newer_schema_stops_it_with_the_reason_and_the_map_still_answers(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)
    newer = record(entry("b@example.com")) | {"headers": [("schema", b"suppression/2.0")]}

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")))
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
            await send(kafka.bootstrap, topic, newer)
            await until(lambda: "suppression/2.0" in follower.reason, "the refusal is named")
            assert not follower.ready
            assert not allowed(follower, "a@example.com")
            assert follower.store.offsets() == {0: 1}

    asyncio.run(main())


def test_starts_afresh_when_its_place_has_expired(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, cleanup_policy="compact,delete", delete_retention_ms=30 * DAY)

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")))
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
        await send(kafka.bootstrap, topic, tombstone(entry("a@example.com"), 2), record(entry("b@example.com")))
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=2)})
        finally:
            await admin.close()
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
            assert allowed(follower, "a@example.com"), "its removal was missed, so nothing old may stay"
            assert not allowed(follower, "b@example.com")

    asyncio.run(main())


def test_starts_afresh_after_an_absence_longer_than_tombstones_are_kept(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")), record(entry("b@example.com")))
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
        for away, read_again in ((29 * DAY, 0), (31 * DAY, 2)):
            store = Store(tmp_path)
            seen_at = str(int(time.time() * 1000) - away).encode()
            store.apply([], {}, now_ms=0, forget_ms=0, meta={"seen_at": seen_at})
            store.close()
            async with following(tmp_path, kafka.bootstrap, topic) as follower:
                await until(lambda f=follower: f.ready, "caught up")  # type: ignore[misc]
                assert follower.applied == read_again

    asyncio.run(main())


def test_starts_afresh_on_another_cluster_and_on_a_recreated_topic(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")))
        for change in ({"cluster": b"another"}, {}):
            store = Store(tmp_path)
            about = {"identity": IDENTITY.fingerprint.encode(), "partitions": b"1", "complete": b"1"}
            about["seen_at"] = str(int(time.time() * 1000)).encode()
            if change:
                store.clear(about | change)
            store.apply([], {0: 5}, now_ms=0, forget_ms=0)  # the topic ends at 1
            store.close()
            async with following(tmp_path, kafka.bootstrap, topic) as follower:
                await until(lambda f=follower: f.ready, "caught up")  # type: ignore[misc]
                assert follower.applied == 1
                assert not allowed(follower, "a@example.com")

    asyncio.run(main())


def test_with_more_partitions_the_map_is_made_again_and_fewer_are_refused(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")))
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(2)})
        finally:
            await admin.close()
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up again")
            assert follower.applied == 1
            assert follower.partitions == 2
            assert not allowed(follower, "a@example.com")
        smaller = kafka.topic(1, **COMPACTED)
        async with following(tmp_path, kafka.bootstrap, smaller) as follower:
            await until(lambda: "1 partitions, and had 2" in follower.reason, "the refusal is named")
            assert not follower.ready

    asyncio.run(main())


def test_another_identity_key_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.clear({"identity": b"0123456789abcdef"})
    with pytest.raises(IdentityKeyError, match="identity_key"):
        Follower(store, bootstrap=lambda: "", fingerprint=IDENTITY.fingerprint)
    store.close()


def test_a_damaged_map_is_made_again_while_it_runs(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(1, **COMPACTED)

    async def main() -> None:
        await send(kafka.bootstrap, topic, record(entry("a@example.com")))
        async with following(tmp_path, kafka.bootstrap, topic) as follower:
            await until(lambda: follower.ready, "caught up")
            damaged = follower.store.env
            follower.rebuild("a reader found a bad page")
            await until(lambda: follower.store.env is not damaged and follower.ready, "made again")
            assert not allowed(follower, "a@example.com")

    asyncio.run(main())


def test_rides_out_outages_and_waits_for_a_broker(kafka_process: KafkaProcess, tmp_path: Path) -> None:
    broker = kafka_process
    topic = broker.topic(1, **COMPACTED)
    address: list[str] = []

    def ask() -> str:
        if not address:
            raise NotRunning("nothing runs yet")
        return address[0]

    async def main() -> None:
        async with following(tmp_path, "", topic, ask=ask) as follower:
            await until(lambda: "nothing runs yet" in follower.reason, "the reason is named")
            address.append(broker.bootstrap)
            await send(broker.bootstrap, topic, record(entry("a@example.com")))
            await until(lambda: follower.ready, "caught up once there is a broker")
            for version in (1, 2):
                await asyncio.to_thread(broker.kill)
                assert not allowed(follower, "a@example.com"), "the map answers during the outage"
                await asyncio.to_thread(broker.start)
                await send(broker.bootstrap, topic, record(entry(f"b{version}@example.com", version=version)))
                await until(lambda v=version: not allowed(follower, f"b{v}@example.com"), "it goes on")  # type: ignore[misc]
            assert follower.ready

    asyncio.run(main())
