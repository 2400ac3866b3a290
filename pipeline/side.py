"""Side readers: plain consumers beside Faust's, for looking at ends of topics and for catching up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from mailecho.pipeline.members import offsets_of


class Side:
    """Reads given partitions, from given offsets, without a group."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self._reading: object = None  # which read the assignment belongs to

    async def span(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset that is still there, offset after the last)."""
        tp = TopicPartition(topic, partition)
        start = (await self.consumer.beginning_offsets([tp]))[tp]
        end = (await self.consumer.end_offsets([tp]))[tp]
        return start, end

    async def read(self, topic: str, partition: int, start: int, end: int) -> AsyncIterator[list[ConsumerRecord]]:
        """Records with offsets in [start, end), in order, in lists. What compaction took is not there."""
        if start >= end:
            return
        tp = TopicPartition(topic, partition)
        mine = self._reading = object()
        self.consumer.assign([tp])
        self.consumer.seek(tp, start)
        position = start
        try:
            while position < end:
                found = await self.consumer.getmany(tp, timeout_ms=1_000)
                records = [record for record in found.get(tp, ()) if record.offset < end]
                if records:
                    yield records
                # compaction may have taken the last ones: the position passes them
                position = await self.consumer.position(tp)
        finally:
            # else it goes on fetching, ten times a second, for nobody; a read that was left early ends
            # at some later time, when another may have begun
            if self._reading is mine:
                self.consumer.unsubscribe()


@asynccontextmanager
async def side_reader(bootstrap: str) -> AsyncIterator[Side]:
    """A side reader, connected."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        # nothing is skipped unseen: an offset that is gone is an error here
        auto_offset_reset="none",
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    try:
        yield Side(consumer)
    finally:
        await consumer.stop()


async def committed_offsets(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    """A group's committed offsets by (topic, partition). Raises KafkaError where the broker does not answer."""
    return {(where.topic, where.partition): at.offset for where, at in (await offsets_of(bootstrap, group)).items()}
