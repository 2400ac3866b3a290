"""Feeds the demo's traffic to the raw topics: a day's history at once, then a modest live stream."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mailecho.pipeline.demo_traffic import Raw, Traffic
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.schemas.headers import SOURCE
from mailecho.schemas.topics import RAW

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

log = logging.getLogger(__name__)

#: Enough for every table and plot to have something, in seconds even on two cores.
HISTORY_MESSAGES = 5_000

#: Messages a second after that: numbers move, and a laptop stays cool.
LIVE_PER_SECOND = 50

TICK_SECONDS = 0.2


async def feed(settings: Settings) -> None:
    """Feed until cancelled. The history comes only where the raw topics are empty. Raises NotRunning, KafkaError."""
    from aiokafka import AIOKafkaProducer

    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_bootstrap(settings), enable_idempotence=True, acks="all", linger_ms=20
    )
    await producer.start()
    try:
        with suppress(asyncio.CancelledError):
            await _feed(producer, settings)
        await producer.flush()
    finally:
        await producer.stop()


async def _feed(producer: Any, settings: Settings) -> None:
    start = time.time()
    traffic = Traffic(start)
    if await _empty(kafka_bootstrap(settings)):
        for records in traffic.history(HISTORY_MESSAGES):
            await _send(producer, records)
        await producer.flush()
        log.info("fed the history of a day: %s messages", HISTORY_MESSAGES)
    loop = asyncio.get_running_loop()
    began, fed = loop.time(), 0
    while True:
        # by the clock, not by the tick: a slow broker delays traffic and does not thin it out
        due = int((loop.time() - began) * LIVE_PER_SECOND)
        for _ in range(min(due - fed, LIVE_PER_SECOND * 10)):
            await _send(producer, traffic.message(time.time()))
        fed = due
        await asyncio.sleep(TICK_SECONDS)


async def _send(producer: Any, records: list[Raw]) -> None:
    for record in records:
        headers = [(SOURCE, record.source.encode())] if record.source else []
        await producer.send(record.topic, record.value, headers=headers)


async def _empty(bootstrap: str) -> bool:
    """Whether nothing was ever put on the raw topics."""
    from aiokafka import AIOKafkaConsumer

    from mailecho.pipeline.partitions import partitions_of

    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        await consumer.start()
        places, _ = await partitions_of(bootstrap, RAW)
        return not any((await consumer.end_offsets(places)).values())
    finally:
        await consumer.stop()
