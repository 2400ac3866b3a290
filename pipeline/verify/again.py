"""What should stand: `classified` folded from its beginning, partition by partition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from mailecho.pipeline.ledger.entries import stored
from mailecho.pipeline.ledger.fold import Fold, NotClassified, Totals
from mailecho.pipeline.ledger.store import MemoryStore
from mailecho.pipeline.side import Side
from mailecho.schemas import headers as h
from mailecho.schemas.topics import CLASSIFIED, EVENTS


@dataclass(slots=True)
class Again:
    """One partition, computed again."""

    partition: int
    start: int  # the first record of `classified` that is still there
    end: int
    rows: dict[str, bytes] = field(default_factory=dict)  # by event_id
    entries: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)

    @property
    def whole(self) -> bool:
        """Whether nothing of the partition has expired."""
        return self.start == 0


async def fold_again(side: Side, fold: Fold, partition: int, progress: Callable[[int], None]) -> Again:
    """Fold what is there of a partition; `progress` is told how many records were folded."""
    start, end = await side.span(CLASSIFIED, partition)
    again = Again(partition, start, end)
    store = MemoryStore()
    with store.begin() as tx:
        fold.start_at(tx, start)
        async for records in side.read(CLASSIFIED, partition, start, end):
            for record in records:
                try:
                    output = fold.apply(tx, record.offset, record.value or b"")
                except NotClassified:
                    output = fold.skip(tx, record.offset)
                for row in output.rows:
                    again.rows[orjson.loads(row)["event_id"]] = row
            progress(len(records))
        again.entries = {key: orjson.loads(value) for key, value in stored(tx)}
        again.totals = fold.totals(tx)
    return again


async def emission_faults(side: Side, again: Again) -> list[str]:
    """What is wrong with the numbers of a partition's `events`: gaps, or one number with two contents."""
    faults = []
    start, end = await side.span(EVENTS, again.partition)
    newest: int | None = None
    contents: dict[int, int] = {}
    async for records in side.read(EVENTS, again.partition, start, end):
        for record in records:
            n = int(h.get(record.headers, h.EMISSION) or -1)
            content = hash(record.value)
            if newest is not None and n > newest + 1:
                faults.append(f"{EVENTS}[{again.partition}]: emission {n} follows {newest}")
            if contents.setdefault(n, content) != content:
                faults.append(f"{EVENTS}[{again.partition}]: emission {n} stands there with two contents")
            newest = n if newest is None else max(newest, n)
    if again.end and newest is not None and newest != again.end - 1:
        faults.append(f"{EVENTS}[{again.partition}] ends at emission {newest}, {CLASSIFIED} at {again.end - 1}")
    return faults
