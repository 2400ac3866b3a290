"""A Faust transport that hands an agent what was fetched as one message, and commits what is done.

Stock Faust costs 77 to 111 microseconds a record, most of it for tasks, locks and bookkeeping a
record. Here a message is a step: what a fetch brought, in a chunk for each partition. So those costs
are paid a step, and what an agent sends for it goes out together.

Stock Faust also acks a message whose stream skips it during a rebalance (so it can commit what
nobody processed, issue #606). Here Faust's own acks decide nothing: an agent calls `done` after
the broker has acknowledged its outputs, and only the longest run of done chunks, from the first
one delivered, is committed.

It overrides private methods of Faust 0.15.3: `tests/agents/test_transport_contract.py` fails when
Faust changes under it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import faust
from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from mailecho.agents.exits import refuse
from mailecho.pipeline.paced import Pace

log = logging.getLogger(__name__)

Records = list["ConsumerRecord"]
#: What a message holds: chunks, each of another partition, in the order in which they were fetched.
Step = list[Records]
#: Gives the offset at which each assigned partition begins.
Starts = Callable[[set[TP]], Awaitable[dict[TP, int]]]

#: A step is no longer than this (one larger record comes alone), so that one `done` is never far away: the ledger
#: folds 2,000 single-entry records in about 20 ms, and a step's outputs fit in memory whatever it holds.
STEP_RECORDS = 2_000
STEP_BYTES = 4 * 1024 * 1024


class _Chunk:
    """A delivered chunk: offsets [first, last], done or not."""

    __slots__ = ("done", "first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.done = False


class Progress:
    """What was delivered of each partition in this assignment, and how far it is done."""

    def __init__(self) -> None:
        self._delivered: dict[TP, deque[_Chunk]] = {}

    def delivered(self, tp: TP, first: int, last: int) -> None:
        """Note a chunk that goes to an agent now."""
        self._delivered.setdefault(tp, deque()).append(_Chunk(first, last))

    def done(self, tp: TP, last: int) -> None:
        """The chunk that ends at `last` is done. One of an earlier assignment is ignored: it comes again."""
        for chunk in self._delivered.get(tp, ()):
            if chunk.last == last:
                chunk.done = True
                return

    def reached(self, tp: TP, offset: int) -> None:
        """All below `offset` was done before this assignment, by whomever, though nobody could commit it."""
        self.delivered(tp, offset, offset - 1)
        self.done(tp, offset - 1)

    def pending(self) -> Iterator[TP]:
        """Partitions that may have something to commit."""
        return (tp for tp, chunks in self._delivered.items() if chunks and chunks[0].done)

    def take(self, tp: TP) -> int | None:
        """The offset after the longest run of done chunks, which is forgotten; None for no run."""
        chunks = self._delivered.get(tp)
        committable = None
        while chunks and chunks[0].done:
            committable = chunks.popleft().last + 1
        return committable

    def forget(self, tps: Iterable[TP]) -> None:
        """These partitions go to another owner, or start again from their committed offset."""
        for tp in list(tps):
            self._delivered.pop(tp, None)

    def forget_all(self) -> None:
        """All partitions start again from their committed offsets."""
        self._delivered.clear()


class BatchConsumer(driver.Consumer):
    """Faust's aiokafka consumer, delivering steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.progress = Progress()
        self._expected: dict[TP, int] = {}  # the next offset of each partition
        self._reread: dict[TP, int] = {}  # a gap's end, once it was asked for again
        self._dropped: set[TP] = set()  # fetched and thrown away: to be fetched again
        transport: Any = self.transport
        self._pace = Pace(transport.pace_ms)
        self._accept_gap: bool = transport.accept_gap
        self._starts: Starts | None = transport.starts
        self.polled_at = time.monotonic()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Fetched records as messages whose value is a step, each under the partition of its first chunk."""
        await self._fetch_dropped_again()
        generation = self.app.consumer_generation_id
        records, active = await self._wait_next_records(timeout)
        self.polled_at = time.monotonic()
        if records is None or self.should_stop:
            return
        if not self.flow_active or self.app.consumer_generation_id != generation:
            # A fetch outlasts a rebalance: this may be of before it (`active` is), or of after the
            # seek that ends it. Whatever it is, it is fetched again.
            self._dropped.update(records)
            return
        self._pace.after(self._thread._consumer, any(records.values()))
        step: Step = []
        count = total = 0
        for tp, batch in records.items():
            if not (active is None or tp in active or tp in self._buffered_partitions):
                # fetched before the partition was paused: its position has moved on, so go back
                if batch:
                    await self.seek(tp, self._expected.get(tp, batch[0].offset))
                continue
            for chunk, size in _chunks(batch):
                if step and (count + len(chunk) > STEP_RECORDS or total + size > STEP_BYTES):
                    yield self._deliver(step)
                    step, count, total = [], 0, 0
                contiguous = await self._contiguous(tp, chunk)
                if not self.flow_active or self.app.consumer_generation_id != generation:
                    return
                if not contiguous:
                    break
                self._expected[tp] = chunk[-1].offset + 1
                self.progress.delivered(tp, chunk[0].offset, chunk[-1].offset)
                step.append(chunk)
                count += len(chunk)
                total += size
        if step:
            yield self._deliver(step)

    def _deliver(self, step: Step) -> tuple[TP, ConsumerMessage]:
        tp = _tp(step[0])
        return tp, self._to_message(tp, step)

    async def _fetch_dropped_again(self) -> None:
        """Go back to what is next of each partition of which a fetch was thrown away.

        Nothing else would: the client's position has passed it, and only the next record would show the gap.
        """
        if not self.flow_active:
            await self.wait(self.can_resume_flow.wait())
        while self._dropped and self.flow_active:
            tp = self._dropped.pop()
            if tp in self._expected:
                await self.seek(tp, self._expected[tp])

    async def _contiguous(self, tp: TP, chunk: Records) -> bool:
        """Whether the chunk is what comes next; if not, what is missing is fetched or its loss refused."""
        first, expected = chunk[0].offset, self._expected.get(tp)
        if expected is None or first == expected or self._reread.get(tp) == first:
            self._reread.pop(tp, None)
            return True
        if first > expected:
            start = (await self.earliest_offsets(tp))[tp]
            if start > expected:
                self._refuse_gap(tp, expected, start)
            # A real gap (control records of a producer's transactions) is there the second time too.
            self._reread[tp] = first
        await self.seek(tp, expected)
        return False

    def _refuse_gap(self, tp: TP, expected: int, start: int) -> None:
        lost = f"{tp.topic}[{tp.partition}]: offsets {expected} to {start - 1} expired before they were read"
        if not self._accept_gap:
            refuse(f"{lost}. To go on without them, start once with MAILECHO_ACCEPT_GAP=true")
        log.warning("%s; going on without them, as accept_gap says", lost)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        last = record[0][-1]
        return ConsumerMessage(
            last.topic,
            last.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            [],
            None,
            record,
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def done(self, event: Any) -> None:
        """An agent has finished with a step: its outputs are acknowledged."""
        message = event.message
        if message.generation_id == self.app.consumer_generation_id:
            for chunk in message.value:
                self.progress.done(_tp(chunk), chunk[-1].offset)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Start where the app says (the ledger's stores), else at the committed offsets."""
        self.progress.forget_all()
        self._expected.clear()
        self._reread.clear()
        committed = await super().seek_to_committed()
        if self._starts is None:
            for tp, start in (await self.earliest_offsets(*committed)).items() if committed else ():
                offset = committed[tp]
                if offset is not None and offset < start:
                    self._refuse_gap(tp, offset, start)
                # what nobody has read yet is read from the start
                self._expected[tp] = start if offset is None else offset
            return committed
        positions = await self._starts(set(self.assignment()))
        for tp, offset in positions.items():
            await self._seek(tp, offset)
            if offset > (committed.get(tp) or 0):
                self.progress.reached(tp, offset)  # else its lag would stand until the next record
        self._expected.update(positions)
        # Faust commits only what is above the answer
        return {tp: min(offset, committed.get(tp) or 0) for tp, offset in positions.items()}

    async def seek(self, partition: TP, offset: int) -> None:
        """Fetch from `offset` next. (Stock Faust records offset 0 as unknown; nothing here reads that.)"""
        try:
            await self._seek(partition, offset)
        except IllegalStateError:
            # revoked since it was fetched: whoever has it next begins at what is committed
            return
        self._read_offset[partition] = None

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Another owner reads these from what was committed."""
        await super().on_partitions_revoked(revoked)
        self.progress.forget(revoked)
        for tp in revoked:
            self._expected.pop(tp, None)

    def ack(self, message: Any) -> bool:
        """Faust's own ack: says only that the message has left its stream."""
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in list(self.progress.pending()) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self.progress.take(tp)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: a message stands for many offsets, and `Progress` knows which."""


class BatchTransport(driver.Transport):
    """The transport of both apps."""

    Consumer = BatchConsumer

    def __init__(
        self,
        *args: Any,
        pace_ms: int = 200,
        accept_gap: bool = False,
        starts: Starts | None = None,
        **kwargs: Any,
    ) -> None:
        """`starts` gives the offset at which each assigned partition begins, instead of the committed one."""
        super().__init__(*args, **kwargs)
        self.pace_ms = pace_ms
        self.accept_gap = accept_gap
        self.starts = starts


class StepSchema(faust.Schema[Any, Any]):
    """Keys and values as they are: a step is no bytes to decode."""

    def loads_key(self, app: Any, message: Any, **kwargs: Any) -> Any:
        """The message's key."""
        return message.key

    def loads_value(self, app: Any, message: Any, **kwargs: Any) -> Any:
        """The message's value: a step."""
        return message.value


def _tp(chunk: Records) -> TP:
    return TP(chunk[0].topic, chunk[0].partition)


def _chunks(batch: Records) -> Iterator[tuple[Records, int]]:
    """The batch in chunks that fit into a step, each with its bytes."""
    chunk: Records = []
    size = 0
    for record in batch:
        length = len(record.value or b"")
        if chunk and (len(chunk) >= STEP_RECORDS or size + length > STEP_BYTES):
            yield chunk, size
            chunk, size = [], 0
        chunk.append(record)
        size += length
    if chunk:
        yield chunk, size
