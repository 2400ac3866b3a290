"""The last emission: how far the `events` of a partition have come, read from their end."""

from __future__ import annotations

from dataclasses import dataclass

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
        for record in records:
            n = int(h.get(record.headers, h.EMISSION) or -1)
            if best is None or n > best.n:
                answered = int(h.get(record.headers, h.ANSWERED) or 0)
                best = Emission(n, answered, (h.get(record.headers, h.TOTALS) or "{}").encode())
    return best
