"""What a zombie wrote to the suppression list is put right (DESIGN 2, point 3).

A worker that was stopped, lost its partition and woke may write an old version of an entry after
its successor's newer one, and compaction would keep the old. So the owner reads its own partitions
and sends again whatever was followed by a lower version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import orjson

from mailecho.agents.catchup import Owned
from mailecho.agents.outputs import Outputs, Record
from mailecho.pipeline.ledger.emit import suppression_record
from mailecho.pipeline.ledger.entries import ENTRIES, Change
from mailecho.pipeline.side import Side, side_reader
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import is_entry_key
from mailecho.schemas.topics import SUPPRESSIONS

log = logging.getLogger(__name__)

#: Between looks. `min.compaction.lag.ms` is an hour: there is time.
EVERY_SECONDS = 5.0
#: At an assignment, what was written shortly before it is looked at too.
BACK_RECORDS = 4_000


class Guardian:
    """Watches the partitions of `feedback.suppressions` that belong to the owned ones."""

    def __init__(self, bootstrap: str, outputs: Outputs, owned: Callable[[], dict[int, Owned]]) -> None:
        self._bootstrap = bootstrap
        self._outputs = outputs
        self._owned = owned
        self._positions: dict[int, int] = {}

    async def run(self) -> None:
        """Look for ever."""
        async with side_reader(self._bootstrap) as side:
            while True:
                await asyncio.sleep(EVERY_SECONDS)
                await self.look(side)

    async def look(self, side: Side) -> int:
        """One look at all owned partitions; returns how many entries were sent again."""
        owned = self._owned()
        self._positions = {p: at for p, at in self._positions.items() if p in owned}
        repaired = 0
        for partition in list(owned):
            start, end = await side.span(SUPPRESSIONS, partition)
            position = max(self._positions.get(partition, end - BACK_RECORDS), start)
            last: dict[bytes, int] = {}  # the version that stands at the end, of each key seen
            async for records in side.read(SUPPRESSIONS, partition, position, end):
                for record in records:
                    if record.key and is_entry_key(record.key):
                        last[record.key] = int(h.get(record.headers, h.VERSION) or -1)
            repaired += await self._repair(partition, last)
            self._positions[partition] = end
        return repaired

    async def _repair(self, partition: int, last: dict[bytes, int]) -> int:
        owned = self._owned().get(partition)
        if owned is None or not last:
            return 0
        again = []
        for key, version in last.items():
            value = owned.store.peek(ENTRIES, key)
            if value is None:
                continue
            entry = orjson.loads(value)
            if version < entry["version"]:
                again.append(Change(key, value, entry))
        if again:
            log.warning(
                "partition %d: %d entries were overwritten by older versions: sent again", partition, len(again)
            )
            records = [Record(value, key, headers) for key, value, headers in map(suppression_record, again)]
            await self._outputs.send([(SUPPRESSIONS, partition, records)])
        return len(again)
