"""A consumer's fetches wait at the broker: for more while records come, for one byte when none do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.protocol.fetch import FetchRequest

from mailecho.pipeline.paced import BACKLOG_BYTES, IDLE_MS, Pace
from tests.fixtures_kafka import KafkaProcess

pytestmark = pytest.mark.kafka

PACE_MS = 20


async def _fetches(bootstrap: str, topic: str, pace_ms: int) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Values of three records with a silence between the second and the third; (min bytes, wait) of the fetches."""
    asked: list[tuple[int, int]] = []
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    send = consumer._client.send

    async def noting(node: Any, request: Any, **more: Any) -> Any:
        if isinstance(request, FetchRequest):
            asked.append((request._min_bytes, request._max_wait_ms))
        return await send(node, request, **more)

    consumer._client.send = noting
    consumer.assign([TopicPartition(topic, 0)])
    pace = Pace(pace_ms)
    got: list[bytes] = []

    async def turn() -> bool:
        fetched = await consumer.getmany(timeout_ms=200)
        pace.after(consumer, bool(fetched))
        got.extend(record.value for records in fetched.values() for record in records)
        return bool(fetched)

    try:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
            for value in (b"1", b"2", b"3"):
                await producer.send_and_wait(topic, value)
                while value not in got:
                    await turn()
                while value == b"2" and (await turn() or asked[-1][0] == BACKLOG_BYTES):
                    pass  # until a fetch was sent after a silence
    finally:
        await consumer.stop()
    return got, asked


def test_fetches_wait_for_more_while_records_come_and_for_one_byte_after_a_silence(kafka: KafkaProcess) -> None:
    got, asked = asyncio.run(_fetches(kafka.bootstrap, kafka.topic(), PACE_MS))
    assert got == [b"1", b"2", b"3"]
    busy, idle = (BACKLOG_BYTES, PACE_MS), (1, IDLE_MS)
    assert set(asked[1:]) == {busy, idle}, "the first is aiokafka's own default"
    assert idle in asked[asked.index(busy) :]


def test_without_a_pace_every_fetch_returns_with_the_first_byte(kafka: KafkaProcess) -> None:
    got, asked = asyncio.run(_fetches(kafka.bootstrap, kafka.topic(), 0))
    assert got == [b"1", b"2", b"3"]
    assert {min_bytes for min_bytes, _ in asked} == {1}
