"""The classify agent: raw records in, lines of `feedback.classified` and dead letters out."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TypeAlias

import orjson
from aiokafka.structs import ConsumerRecord

from mailecho.agents.breaker import Breaker
from mailecho.agents.exits import refuse
from mailecho.agents.outputs import Outputs, Record
from mailecho.agents.poison import Inflight
from mailecho.agents.transport import Step
from mailecho.pipeline import metrics
from mailecho.pipeline.faults import point
from mailecho.pipeline.pack import pack
from mailecho.pipeline.raw import EVERYONE, Letter, RawReader, Read
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.topics import CLASSIFIED, dlq, partition_of

#: An append time this far ahead of our own clock means that one of the two is wrong; the fold's
#: clock would jump and call everything after it late.
AHEAD_MS = 3_600_000
#: The event loop is given back this often: the producer's and the health check's work waits.
SLICE_SECONDS = 0.05

Raw: TypeAlias = ConsumerRecord
#: Events already classified under another rule set: (topic, partition, offset) to their indexes.
Known = dict[tuple[str, int, int], set[int]]


class ClassifyAgent:
    """Handles the steps of one worker. Stateless but for what it may throw away."""

    def __init__(
        self,
        reader: RawReader,
        outputs: Outputs,
        inflight: Inflight,
        breaker: Breaker,
        *,
        partitions: int,
        rules_version: str,
        fingerprint: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._reader = reader
        self._outputs = outputs
        self._inflight = inflight
        self._breaker = breaker
        self._partitions = partitions
        self._headers: h.Headers = [
            h.schema_header("classified"),
            (h.RULES, rules_version.encode()),
            (h.IDENTITY, fingerprint.encode()),
        ]
        self._clock = clock
        self.known: Known = {}

    async def handle(self, step: Step) -> None:
        """Read the chunks of a step and return when the broker has acknowledged all they gave."""
        started = time.monotonic()
        lines: dict[int, list[bytes]] = defaultdict(list)
        letters: dict[str, list[Record]] = defaultdict(list)
        counted = []
        sliced = started
        for chunk in step:
            self._check_clock(chunk[-1])
            topic, partition, offsets = chunk[0].topic, chunk[0].partition, (chunk[0].offset, chunk[-1].offset)
            failed: dict[int, Reason] = {}
            for record, read in self._read(chunk):
                for line in read.lines:
                    self._place(line.key, line.data, record, lines)
                letters[topic].extend(_letter(record, letter) for letter in read.letters)
                if read.letters and not read.lines and h.get(record.headers, h.REDRIVEN) is None:
                    failed[record.offset] = read.letters[0].reason
                if time.monotonic() - sliced > SLICE_SECONDS:
                    await asyncio.sleep(0)
                    sliced = time.monotonic()
            counted.append((topic, partition, offsets, failed))
        broken = self._breaker.judge(counted)
        if broken:
            refuse(broken)
        origins = ",".join(f"{topic}:{partition}:{first}-{last}" for topic, partition, (first, last), _ in counted)
        headers = [*self._headers, (h.ORIGIN, origins.encode())]
        point("classify.before_send")
        await self._outputs.send((dlq(topic), 0, records) for topic, records in letters.items() if records)
        await self._outputs.send(
            (CLASSIFIED, p, [Record(value, headers=headers) for value in pack(batch)]) for p, batch in lines.items()
        )
        point("classify.after_send")
        for chunk in step:
            metrics.RECORDS.labels(chunk[0].topic).inc(len(chunk))
        metrics.BATCH_SECONDS.labels("classify").observe(time.monotonic() - started)

    def _read(self, chunk: list[Raw]) -> Iterator[tuple[Raw, Read]]:
        topic, partition, first, last = chunk[0].topic, chunk[0].partition, chunk[0].offset, chunk[-1].offset
        if not self._inflight.suspicious(topic, partition, first, last):
            with self._inflight.reading(topic, partition, first, last):
                for record in chunk:
                    yield record, self._one(record)
            return
        for record in chunk:
            if self._inflight.poisonous(topic, partition, record.offset):
                yield record, Read(letters=[Letter(Reason.POISON, "workers died on it", record.value or b"")])
                continue
            with self._inflight.reading(topic, partition, record.offset, record.offset):
                read = self._one(record)
            yield record, read

    def _one(self, record: Raw) -> Read:
        point("classify.record")
        read = self._reader.read(
            record.topic, record.partition, record.offset, record.timestamp, record.headers, record.value
        )
        for letter in read.letters:
            metrics.DEAD_LETTERS.labels(record.topic, letter.reason.value).inc()
        return read

    def _place(self, key: str, data: bytes, record: Raw, lines: dict[int, list[bytes]]) -> None:
        if key == EVERYONE:
            for p in range(self._partitions):
                lines[p].append(data)
            return
        if self.known:
            indexes = self.known.get((record.topic, record.partition, record.offset))
            if indexes is not None and index_of(data) in indexes:
                return  # an older rule set has classified it: one fact, one classification
        lines[partition_of(key, self._partitions)].append(data)

    def _check_clock(self, newest: Raw) -> None:
        ahead = newest.timestamp - int(self._clock() * 1000)
        if ahead > AHEAD_MS:
            refuse(
                f"{newest.topic}[{newest.partition}] offset {newest.offset} was appended {ahead / 3_600_000:.1f} h "
                "ahead of this machine's clock: set the broker's or this machine's clock right (NTP)"
            )


def index_of(line: bytes) -> int | None:
    """The raw_index of an event line; None for other lines."""
    row = orjson.loads(line).get("row")
    return row.get("raw_index", 0) if row else None


def _letter(record: Raw, letter: Letter) -> Record:
    redriven = h.get(record.headers, h.REDRIVEN)
    dead = DeadLetter(
        reason=letter.reason,
        detail=letter.detail,
        origin_topic=record.topic,
        origin_partition=record.partition,
        origin_offset=record.offset,
        origin_timestamp=record.timestamp,
        redriven=int(redriven) if redriven and redriven.isdigit() else 0,
    )
    return Record(letter.value, record.key, dead.headers(record.headers))
