"""What should stand: `classified` folded from its beginning, partition by partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from mailecho.pipeline.ledger.entries import stored
from mailecho.pipeline.ledger.fold import Fold, NotClassified, Totals
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.ledger.store import MemoryStore
from mailecho.pipeline.side import Side
from mailecho.schemas import headers as h
from mailecho.schemas.topics import CLASSIFIED, EVENTS


class Again:
    """One partition, computed again up to `end`."""

    def __init__(self, fold: Fold, places: Places, partition: int, start: int) -> None:
        """`start` is the first record of `classified` that is still there."""
        self._places = places
        self.partition = partition
        self.start = start
        self.end = start
        self.rows: dict[str, bytes] = {}  # by event_id
        self._fold = fold
        self._store = MemoryStore()
        with self._store.begin() as tx:
            fold.start_at(tx, start)

    @property
    def whole(self) -> bool:
        """Whether nothing of the partition has expired."""
        return self.start == 0

    async def go_on(self, side: Side, end: int, progress: Callable[[int], None]) -> None:
        """Fold up to `end`; `progress` is told how many records were folded."""
        async for records in side.read(CLASSIFIED, self.partition, self.end, end):
            with self._store.begin() as tx:
                for record in records:
                    try:
                        output = self._fold.apply(
                            tx, record.offset, self._places.only(record.value or b"", self.partition)
                        )
                    except NotClassified:
                        output = self._fold.skip(tx, record.offset)
                    for row in output.rows:
                        self.rows[orjson.loads(row)["event_id"]] = row
            progress(len(records))
        self.end = max(self.end, end)

    def entries(self) -> dict[bytes, dict[str, Any]]:
        """The suppression list's entries at `end`, by key."""
        with self._store.begin() as tx:
            return {key: orjson.loads(value) for key, value in stored(tx)}

    def totals(self) -> Totals:
        """What the fold has counted."""
        with self._store.begin() as tx:
            return self._fold.totals(tx)


async def emission_faults(side: Side, part: Again) -> list[str]:
    """What is wrong with the numbers of a partition's `events`: gaps, or one number with two contents."""
    faults = []
    start, end = await side.span(EVENTS, part.partition)
    newest: int | None = None
    contents: dict[int, int] = {}
    async for records in side.read(EVENTS, part.partition, start, end):
        for record in records:
            n = int(h.get(record.headers, h.EMISSION) or -1)
            content = hash(record.value)
            if newest is not None and n > newest + 1:
                faults.append(f"{EVENTS}[{part.partition}]: emission {n} follows {newest}")
            if contents.setdefault(n, content) != content:
                faults.append(f"{EVENTS}[{part.partition}]: emission {n} stands there with two contents")
            newest = n if newest is None else max(newest, n)
    if newest is not None and newest < part.end - 1:
        faults.append(f"{EVENTS}[{part.partition}] ends at emission {newest}, {CLASSIFIED} at {part.end - 1}")
    return faults
