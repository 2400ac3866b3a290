"""How results leave a worker: our own idempotent producer, one batch a partition, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer

from mailecho.agents.exits import crash
from mailecho.schemas.headers import Headers

#: One `send_batch` an output costs less than many sends; a batch larger than this is split.
BATCH_BYTES = 1024 * 1024
#: The largest request: the largest record of any topic (`events`), and its headers.
REQUEST_BYTES = 9 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """A record to send."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)


class Outputs:
    """A producer whose every send is acknowledged by the broker before it returns.

    An error that aiokafka does not mend itself ends the process: what was sent of a batch is
    unknown then, and the next process sends it again.
    """

    def __init__(self, bootstrap: str, client_id: str) -> None:
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect, in the running loop."""
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            client_id=self._client_id,
            acks="all",
            # free, and it ended doubled records across broker restarts
            enable_idempotence=True,
            # A third of the CPU of aiokafka's lz4 (which takes its level 9), and two thirds of the bytes.
            compression_type="zstd",
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            request_timeout_ms=40_000,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect; everything sent is acknowledged already."""
        if self._producer is not None:
            await self._producer.stop()

    async def partitions(self, topic: str) -> int:
        """How many partitions the topic has; 0 where it does not exist."""
        assert self._producer is not None, "start first"
        return len(await self._producer.partitions_for(topic) or ())

    async def send(self, batches: Iterable[tuple[str, int, Sequence[Record]]]) -> None:
        """Send (topic, partition, records) in order within each partition; return when all are acknowledged.

        At most one batch of a partition is under way at a time, so that none can fail and a later
        one succeed.
        """
        try:
            await asyncio.gather(*(self._send_partition(topic, p, records) for topic, p, records in batches))
        except Exception as error:
            crash(f"the broker did not take our output: {error!r}", error)

    async def _send_partition(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        producer = self._producer
        assert producer is not None, "start first"
        position = 0
        while position < len(records):
            batch = producer.create_batch()
            while position < len(records):
                record = records[position]
                if batch.append(key=record.key, value=record.value, timestamp=None, headers=record.headers) is None:
                    break
                position += 1
            batch.close()
            await (await producer.send_batch(batch, topic, partition=partition))
