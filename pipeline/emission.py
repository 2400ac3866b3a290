"""The last emission: how far the `events` of a partition have come, read from their end."""

from __future__ import annotations

from dataclasses import dataclass

from aiokafka.structs import ConsumerRecord

from mailecho.pipeline.side import Side
from mailecho.schemas import headers as h
from mailecho.schemas.topics import EVENTS

#: A zombie may have written its last batch (a chunk of records at most) after its successor's
#: first; two chunks from the end, the newest number is among what is read.
TAIL = 4_000


@dataclass(frozen=True, slots=True)
class Emission:
    """The newest output of a partition."""

    n: int  # the offset of the `classified` record that it answers
    answered: int  # the append time of that record, epoch milliseconds
    totals: bytes


async def last_emission(side: Side, partition: int) -> Emission | None:
    """The emission with the highest number among the last ones; None where nothing can be read."""
    start, end = await side.span(EVENTS, partition)
    best: Emission | None = None
    async for records in side.read(EVENTS, partition, max(start, end - TAIL), end):
        for found in map(_emission, records):
            if best is None or found.n > best.n:
                best = found
    return best


async def find_emission(side: Side, partition: int, n: int) -> Emission | None:
    """The emission with this number, sought from the end; None where it has expired or never was."""
    start, end = await side.span(EVENTS, partition)
    while end > start:
        begin = max(start, end - TAIL)
        async for records in side.read(EVENTS, partition, begin, end):
            for found in map(_emission, records):
                if found.n == n:
                    return found
        end = begin
    return None


def _emission(record: ConsumerRecord) -> Emission:
    return Emission(
        int(h.get(record.headers, h.EMISSION) or -1),
        int(h.get(record.headers, h.ANSWERED) or 0),
        (h.get(record.headers, h.TOTALS) or "{}").encode(),
    )
