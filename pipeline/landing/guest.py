"""Another lander's range, read because it is to land with one of ours (`bundle.py`)."""

from __future__ import annotations

import asyncio

from aiokafka import TopicPartition

from mailecho.pipeline.landing.intents import Intent, Progress, Span
from mailecho.pipeline.landing.partition import Partition
from mailecho.pipeline.side import side_reader

#: It takes no longer, or is tried again.
GUEST_SECONDS = 30.0


class Gone(Exception):
    """The records have expired."""


async def read_guest(bootstrap: str, topic: str, span: Span) -> Partition:
    """The span's partition with its range's records fetched. Raises Gone, TimeoutError and KafkaError."""
    intent = Intent(span.end, span.timestamp, at=0)
    part = Partition(TopicPartition(topic, span.partition), span.start, Progress(span.watermark, intent=intent))
    async with asyncio.timeout(GUEST_SECONDS), side_reader(bootstrap) as side:
        first, _ = await side.span(topic, span.partition)
        if first > span.start:
            raise Gone(f"{topic}[{span.partition}]: offsets {span.start} to {first - 1} have expired")
        async for records in side.read(topic, span.partition, span.start, span.end):
            part.fetched(records)
    return part
