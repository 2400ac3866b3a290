"""Records -> Kafka, each acknowledged by the broker before it counts as sent."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata

from mailecho.pipeline.intake.record import IntakeError, RawRecord, Skipped
from mailecho.pipeline.partitions import no_broker
from mailecho.schemas.topics import RAW_RECORD_BYTES

#: Sent and not yet acknowledged; bounds the memory of a run.
_IN_FLIGHT_BYTES = 16 * 1024 * 1024
_IN_FLIGHT_RECORDS = 5_000
#: A batch fills for this long: a run sends thousands of records, one more hundredth does not matter.
_LINGER_MS = 10
_BATCH_BYTES = 128 * 1024
#: Worst case of a broker that answers to nobody: then the run ends with an error.
_REQUEST_TIMEOUT_MS = 30_000

#: A broker that answers knows its topics at once; a topic that was just made may take a second.
_TOPIC_TIMEOUT_SECONDS = 5

_DONE = object()


@dataclass(slots=True)
class Counts:
    """What a run has done so far. `records` and `bytes` were acknowledged; `cut` of them were too large."""

    records: int = 0
    bytes: int = 0
    cut: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)


async def produce(
    bootstrap: str,
    records: Iterable[RawRecord | Skipped | None],
    *,
    progress: Callable[[Counts], None] | None = None,
) -> Counts:
    """Send all records to the cluster at `bootstrap`; returns the counts once everything is acknowledged.

    Takes records in order from a blocking iterable, which runs on a thread (None means: nothing yet, ask
    again). A record's `acknowledged` is called in order, after the broker has written it to all in-sync
    replicas. `progress` is called after each. Raises IntakeError where the broker cannot be reached, a
    topic is missing or a record is refused; what was acknowledged until then stays, and sending all of it
    again does no harm.
    """
    counts = Counts()
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",
        linger_ms=_LINGER_MS,
        max_batch_size=_BATCH_BYTES,
        max_request_size=2 * RAW_RECORD_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
    )
    try:
        await producer.start()
    except (KafkaConnectionError, OSError):
        await producer.stop()
        raise IntakeError(no_broker(bootstrap)) from None
    flight = _Flight(counts, progress)
    try:
        await _send_all(producer, iter(records), flight)
    finally:
        await producer.stop()
        flight.abandon()
    return counts


class _Flight:
    """Records that were sent and not yet acknowledged, in order."""

    def __init__(self, counts: Counts, progress: Callable[[Counts], None] | None) -> None:
        self.counts = counts
        self._progress = progress
        self._records: deque[tuple[asyncio.Future[RecordMetadata], RawRecord]] = deque()
        self._bytes = 0

    def add(self, record: RawRecord, future: asyncio.Future[RecordMetadata]) -> None:
        self._records.append((future, record))
        self._bytes += len(record.value)

    async def settle(self, *, everything: bool = False) -> None:
        """Count what is acknowledged; wait where too much is not, or for all of it."""
        while self._records:
            future, record = self._records[0]
            full = self._bytes > _IN_FLIGHT_BYTES or len(self._records) > _IN_FLIGHT_RECORDS
            if not (everything or full or future.done()):
                return
            try:
                await future
            except KafkaError as error:
                raise IntakeError(
                    f"the broker did not take a record for {record.topic}: {error!r}; "
                    f"{self.counts.records} were acknowledged before it"
                ) from error
            self._records.popleft()
            self._bytes -= len(record.value)
            self._count(record)

    def abandon(self) -> None:
        """Of a run that failed: nobody waits for these outcomes any more."""
        for future, _ in self._records:
            if future.done() and not future.cancelled():
                future.exception()

    def _count(self, record: RawRecord) -> None:
        counts = self.counts
        counts.records += 1
        counts.bytes += len(record.value)
        counts.cut += record.was_cut
        counts.topics[record.topic] += 1
        if record.acknowledged is not None:
            record.acknowledged()
        if self._progress is not None:
            self._progress(counts)


async def _send_all(producer: AIOKafkaProducer, records: Iterator[RawRecord | Skipped | None], flight: _Flight) -> None:
    known: set[str] = set()
    while True:
        # on a thread: a disk or a pipe may take its time, and acknowledgements go on meanwhile
        item = await asyncio.to_thread(next, records, _DONE)
        if item is _DONE:
            break
        if isinstance(item, Skipped):
            flight.counts.skipped.append(item)
        if isinstance(item, RawRecord):
            if item.topic not in known:
                await _check_topic(producer, item.topic)
                known.add(item.topic)
            flight.add(item, await _send(producer, item))
        await flight.settle()
    await flight.settle(everything=True)


async def _send(producer: AIOKafkaProducer, record: RawRecord) -> asyncio.Future[RecordMetadata]:
    try:
        future: asyncio.Future[RecordMetadata] = await producer.send(
            record.topic, record.value, headers=list(record.headers)
        )
    except MessageSizeTooLargeError:
        raise IntakeError(
            f"a record of {len(record.value)} bytes for {record.topic}: the limit is {RAW_RECORD_BYTES}"
        ) from None
    except KafkaError as error:
        raise IntakeError(f"cannot send to {record.topic}: {error!r}") from error
    return future


async def _check_topic(producer: AIOKafkaProducer, topic: str) -> None:
    """Raise IntakeError where the topic does not exist: `send` alone would wait and then say less."""
    try:
        async with asyncio.timeout(_TOPIC_TIMEOUT_SECONDS):
            partitions = await producer.partitions_for(topic)
    except (KafkaError, TimeoutError):
        partitions = set()
    if not partitions:
        raise IntakeError(f"topic {topic} does not exist: `mailecho topics apply` makes it")
