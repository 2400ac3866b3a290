"""Dead letters: what could not be read, listed and sent back.

Sending back is at least once: progress is a committed offset of a group of its own, so a redrive that was
killed goes on, and a letter sent twice gives the same event ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from mailecho.pipeline.partitions import no_broker
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.topics import CLASSIFIED, CLASSIFY_INPUT, EVENTS, dlq

GROUP = "mailecho-redrive"

#: Letters that are sent together, before progress is committed: what a killed redrive sends again at most.
_WINDOW_LETTERS = 500
_WINDOW_BYTES = 8 * 1024 * 1024
#: What one letter shows of its content in a list.
_PREVIEW_BYTES = 200
_MAX_LETTER_BYTES = 16 * 1024 * 1024
_FETCH_TIMEOUT_MS = 1_000
#: A broker that has just started makes its offsets topic first.
_COORDINATOR_SECONDS = 30

_OURS = frozenset(
    (
        h.SCHEMA,
        h.REASON,
        h.DETAIL,
        h.ORIGIN_TOPIC,
        h.ORIGIN_PARTITION,
        h.ORIGIN_OFFSET,
        h.ORIGIN_TIMESTAMP,
        h.REDRIVEN,
        h.REINSERTED,
    )
)

#: Letters that must not go back where they were, and what helps.
_LEFT = {
    Reason.REJECTED: "ClickHouse refused this row, and its place in feedback.events is behind the lander. Once the "
    "cause is mended, send its raw record again",
    Reason.LATE: "it was received more than a dedupe window before the others, so nobody can say whether it was "
    "counted: sending it back would end here again. Send its raw record again if it must count",
    Reason.TOO_LARGE: "it is one event made of a larger record, and as large wherever it is sent. Send its raw record "
    "again with shorter fields",
}
_LEFT_OTHER = "each record of this topic answers one record before it: a second one would break the count"

#: (group, partition of a dead-letter topic) -> offset up to which that group's redrives have gone.
Passed = dict[tuple[str, TopicPartition], int]

OnError = Literal["stop", "drop", "reinsert"]


class DeadLetterError(Exception):
    """The dead letters cannot be read or sent back; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter: where it stands, what its headers say (None: not readable), its size and its first bytes."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # epoch milliseconds: when it was dead-lettered
    header: DeadLetter | None
    size: int
    preview: bytes
    redriven: bool  # whether a redrive has passed it

    @property
    def where(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(slots=True)
class RedriveCounts:
    """What became of the letters: sent back, left where they are, dropped, put behind the others again."""

    redriven: int = 0
    skipped: int = 0
    dropped: int = 0
    reinserted: int = 0
    notes: list[str] = field(default_factory=list)


def dead_letter_topics(topic: str | None = None) -> list[str]:
    """The dead-letter topics, or that of `topic` (itself or its origin). Raises DeadLetterError for another name."""
    known = [dlq(name) for name in (*CLASSIFY_INPUT, CLASSIFIED, EVENTS)]
    if topic is None:
        return known
    name = topic if topic in known else dlq(topic)
    if name not in known:
        raise DeadLetterError(f"topic {topic!r} has no dead letters; dead-letter topics: {', '.join(known)}")
    return [name]


async def list_dead_letters(
    bootstrap: str,
    topic: str | None = None,
    *,
    reason: str | None = None,
    limit: int = 100,
    include_redriven: bool = False,
) -> list[Letter]:
    """The dead letters of one topic or of all, oldest first, `limit` in all.

    Those that a redrive has sent back are left out, unless `include_redriven`. Raises DeadLetterError.
    """
    wanted = known_reason(reason)
    letters: list[Letter] = []
    names = dead_letter_topics(topic)
    partitions, passed = await _progress(bootstrap, names)
    async with _consumer(bootstrap, None, partitions) as consumer:
        for partition in partitions:
            left_here = partition.topic in (dlq(CLASSIFIED), dlq(EVENTS))
            start = 0 if include_redriven or left_here else passed.get((GROUP, partition), 0)
            async with aclosing(_records(consumer, partition, start)) as records:
                async for record in records:
                    letter = _letter(record, passed)
                    if (include_redriven or not letter.redriven) and _is_wanted(letter.header, wanted):
                        letters.append(letter)
                    if len(letters) >= limit:
                        return letters
    return letters


async def redrive(
    bootstrap: str,
    topic: str,
    *,
    reason: str | None = None,
    limit: int | None = None,
    on_error: OnError = "stop",
    progress: Callable[[RedriveCounts], None] | None = None,
) -> RedriveCounts:
    """Send the dead letters of a topic back to where they came from, up to the last one there at the start.

    `topic` is the origin or its dead-letter topic; `reason` takes only letters of that reason; `limit` stops
    after so many were sent. A letter keeps its key, its bytes and the origin's headers, with `redriven`
    counted up. Letters of `feedback.classified` and `feedback.events` are left, each with a note that says why.

    `on_error` is for a letter that cannot be sent: `stop` raises DeadLetterError, `drop` passes it, `reinsert`
    puts it behind the other letters of its topic and counts that in its header. Each run goes on behind the
    last letter that was dealt with.
    """
    wanted = known_reason(reason)
    names = dead_letter_topics(topic)
    group = GROUP if wanted is None else _group(wanted)
    run = _Redrive(on_error, limit, progress)
    partitions, passed = await _progress(bootstrap, names)
    async with _consumer(bootstrap, group, partitions) as consumer, _producer(bootstrap) as producer:
        for partition in partitions:
            start = max(passed.get((group, partition), 0), passed.get((GROUP, partition), 0))
            window: list[ConsumerRecord] = []
            size = 0
            async with aclosing(_records(consumer, partition, start)) as records:
                async for record in records:
                    if run.room == 0:
                        break
                    window.append(record)
                    size += len(record.value or b"")
                    if len(window) >= run.room or size >= _WINDOW_BYTES:
                        await _redrive_window(consumer, producer, partition, window, wanted, passed, run)
                        window, size = [], 0
            await _redrive_window(consumer, producer, partition, window, wanted, passed, run)
    return run.counts


@dataclass(slots=True)
class _Redrive:
    """One run: its options and what it has done."""

    on_error: OnError
    limit: int | None
    progress: Callable[[RedriveCounts], None] | None
    counts: RedriveCounts = field(default_factory=RedriveCounts)

    @property
    def room(self) -> int:
        """How many letters may go together now; 0: the limit is reached."""
        if self.limit is None:
            return _WINDOW_LETTERS
        return min(_WINDOW_LETTERS, max(0, self.limit - self.counts.redriven))


async def _redrive_window(
    consumer: AIOKafkaConsumer,
    producer: AIOKafkaProducer,
    partition: TopicPartition,
    window: list[ConsumerRecord],
    wanted: Reason | None,
    passed: Passed,
    run: _Redrive,
) -> None:
    """Send a few letters back together, and commit as far as they are dealt with. Raises DeadLetterError."""
    if not window:
        return
    todo = [r for r in window if not _is_passed(r, passed) and _is_wanted(_header(r), wanted)]
    results = await asyncio.gather(*(_redrive_one(producer, r, run) for r in todo), return_exceptions=True)
    failed = next(((r, e) for r, e in zip(todo, results, strict=True) if isinstance(e, BaseException)), None)
    upto = window[-1].offset + 1 if failed is None else failed[0].offset
    await consumer.commit({partition: upto})
    if run.progress is not None:
        run.progress(run.counts)
    if failed is not None:
        raise failed[1]


async def _redrive_one(producer: AIOKafkaProducer, record: ConsumerRecord, run: _Redrive) -> None:
    counts = run.counts
    where = f"{record.topic}:{record.partition}:{record.offset}"
    try:
        letter = _header(record)
        if letter is None:
            raise DeadLetterError(f"{where}: the headers are not those of a dead letter")
        if letter.origin_topic not in CLASSIFY_INPUT or letter.reason in _LEFT:
            counts.skipped += 1
            counts.notes.append(f"{where} ({letter.reason}) is left here: {_LEFT.get(letter.reason, _LEFT_OTHER)}")
            return
        if dlq(letter.origin_topic) != record.topic:
            raise DeadLetterError(f"{where}: it says that it comes from {letter.origin_topic}")
        headers = [(k, v) for k, v in record.headers if k not in _OURS]
        headers.append((h.REDRIVEN, str(letter.redriven + 1).encode()))
        await producer.send_and_wait(letter.origin_topic, record.value or b"", key=record.key, headers=headers)
        counts.redriven += 1
    except (DeadLetterError, KafkaError) as error:
        why = str(error) if isinstance(error, DeadLetterError) else f"{where}: {error!r}"
        if run.on_error == "stop":
            raise DeadLetterError(
                f"{why}. To pass it: --on-error reinsert puts it behind the others, --on-error drop --for-good drops it"
            ) from error
        counts.notes.append(why)
        if run.on_error == "drop":
            counts.dropped += 1
        else:
            await producer.send_and_wait(record.topic, record.value, key=record.key, headers=_once_more(record))
            counts.reinserted += 1


def _once_more(record: ConsumerRecord) -> h.Headers:
    """Its headers, with `reinserted` counted up: also of what has no headers of ours, or unreadable ones."""
    before = h.get(record.headers, h.REINSERTED) or ""
    count = int(before) + 1 if before.isascii() and before.isdigit() else 1
    return [*((k, v) for k, v in record.headers if k != h.REINSERTED), (h.REINSERTED, str(count).encode())]


def known_reason(reason: str | None) -> Reason | None:
    """A reason by its name. Raises DeadLetterError, which lists them, for another name."""
    if reason is None:
        return None
    try:
        return Reason(reason)
    except ValueError:
        raise DeadLetterError(f"reason {reason!r} is none; known are {', '.join(Reason)}") from None


def _group(reason: Reason) -> str:
    """A redrive by reason has progress of its own: it passes letters that it has not sent."""
    return f"{GROUP}.{reason.value}"


def _header(record: ConsumerRecord) -> DeadLetter | None:
    try:
        return DeadLetter.from_headers(record.headers)
    except ValidationError:
        return None


def _is_wanted(letter: DeadLetter | None, wanted: Reason | None) -> bool:
    return wanted is None or (letter is not None and letter.reason is wanted)


def _is_passed(record: ConsumerRecord, passed: Passed) -> bool:
    """Whether a redrive, of all or of its reason, has dealt with the letter."""
    letter = _header(record)
    groups = [GROUP] if letter is None else [GROUP, _group(letter.reason)]
    partition = TopicPartition(record.topic, record.partition)
    return any(record.offset < passed.get((group, partition), 0) for group in groups)


def _letter(record: ConsumerRecord, passed: Passed) -> Letter:
    header = _header(record)
    left = header is not None and (header.origin_topic not in CLASSIFY_INPUT or header.reason in _LEFT)
    return Letter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        header=header,
        size=len(record.value or b""),
        preview=(record.value or b"")[:_PREVIEW_BYTES],
        redriven=not left and _is_passed(record, passed),
    )


@asynccontextmanager
async def _consumer(
    bootstrap: str, group: str | None, partitions: list[TopicPartition]
) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_MAX_LETTER_BYTES,
    )
    try:
        await consumer.start()
    except (KafkaConnectionError, OSError):
        await consumer.stop()
        raise _unreachable(bootstrap) from None
    try:
        consumer.assign(partitions)
        consumer.pause(*partitions)  # one is read after the other
        yield consumer
    finally:
        await consumer.stop()


@asynccontextmanager
async def _producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="zstd",
        max_request_size=_MAX_LETTER_BYTES,
    )
    try:
        await producer.start()
    except (KafkaConnectionError, OSError):
        await producer.stop()
        raise _unreachable(bootstrap) from None
    try:
        yield producer
    finally:
        await producer.stop()


def _unreachable(bootstrap: str) -> DeadLetterError:
    return DeadLetterError(no_broker(bootstrap))


async def _records(
    consumer: AIOKafkaConsumer, partition: TopicPartition, start: int
) -> AsyncGenerator[ConsumerRecord, None]:
    """The records of a partition from `start` to the last one there is now."""
    end = (await consumer.end_offsets([partition]))[partition]
    first = (await consumer.beginning_offsets([partition]))[partition]
    at = max(first, start)
    consumer.seek(partition, at)
    consumer.resume(partition)
    while at < end:
        batch = await consumer.getmany(partition, timeout_ms=_FETCH_TIMEOUT_MS)
        for record in batch.get(partition, ()):
            at = record.offset + 1
            if at > end:
                break
            yield record
        if not batch:
            # retention may have taken the rest, or its last offset may hold no record
            at = max(at, await consumer.position(partition))
            first = (await consumer.beginning_offsets([partition]))[partition]
            if first > at:
                at = first
                consumer.seek(partition, at)


async def _progress(bootstrap: str, names: list[str]) -> tuple[list[TopicPartition], Passed]:
    """The partitions of the topics, and how far redrives have gone: of all letters, and of each reason."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    partitions: list[TopicPartition] = []
    passed: Passed = {}
    try:
        await admin.start()
        for topic in await admin.describe_topics(names):
            if topic["error_code"]:
                raise DeadLetterError(f"topic {topic['topic']} does not exist: `mailecho topics apply` makes it")
            numbers = sorted(partition["partition"] for partition in topic["partitions"])
            partitions += (TopicPartition(topic["topic"], number) for number in numbers)
        for group in (GROUP, *(_group(reason) for reason in Reason)):
            for partition, offset in (await _committed(admin, group)).items():
                passed[group, partition] = offset
    except (KafkaConnectionError, OSError):
        raise _unreachable(bootstrap) from None
    finally:
        await admin.close()
    return partitions, passed


async def _committed(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, int]:
    """A group's offsets. Waits while the broker, just started, has no coordinator for it yet."""
    deadline = asyncio.get_running_loop().time() + _COORDINATOR_SECONDS
    while True:
        try:
            offsets = await admin.list_consumer_group_offsets(group)
        except KafkaError as error:
            if not error.retriable or asyncio.get_running_loop().time() > deadline:
                raise DeadLetterError(f"cannot read how far redrives have gone: {error!r}") from error
            await asyncio.sleep(0.2)
        else:
            return {partition: committed.offset for partition, committed in offsets.items()}
