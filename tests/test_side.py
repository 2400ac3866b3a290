"""Side readers: one consumer for many reads, also where a read is left early."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaProducer

from mailecho.pipeline.config import KafkaSettings, Settings
from mailecho.pipeline.side import side_reader
from mailecho.pipeline.topics import apply_topics
from mailecho.schemas.topics import RAW_DSN
from tests.fixtures_kafka import KafkaProcess

RECORDS = 50


async def _left_early(bootstrap: str) -> list[int]:
    await apply_topics(bootstrap, Settings(kafka=KafkaSettings(partitions=1)))
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    for number in range(RECORDS):
        await producer.send_and_wait(RAW_DSN, b"%d" % number, partition=0)
    await producer.stop()
    async with side_reader(bootstrap) as side:
        start, end = await side.span(RAW_DSN, 0)
        left = side.read(RAW_DSN, 0, start, end)
        assert await anext(left)  # and no more: it ends only when somebody closes it
        seen: list[int] = []
        async for records in side.read(RAW_DSN, 0, start, end):
            await left.aclose()  # type: ignore[attr-defined]  # an async generator
            seen += [record.offset for record in records]
        assert not side.consumer.assignment(), "who reads nothing fetches nothing"
        return seen


def test_a_read_that_was_left_early_does_not_end_the_next(fresh_kafka: KafkaProcess) -> None:
    seen = asyncio.run(asyncio.wait_for(_left_early(fresh_kafka.bootstrap), 60))
    assert seen == list(range(RECORDS))
