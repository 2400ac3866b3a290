"""At an assignment the ledger's store is brought to the last emission (DESIGN 2, points 2 and 7).

What is at or below it is folded muted: it has been emitted. What is above it will be emitted,
whatever the group's committed offset says.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from mailecho.agents.exits import refuse
from mailecho.agents.outputs import Outputs, Record
from mailecho.pipeline.emission import TAIL, Emission, find_emission, last_emission
from mailecho.pipeline.ledger.emit import suppression_record
from mailecho.pipeline.ledger.entries import Change, stored, version_of
from mailecho.pipeline.ledger.fold import Fold, NotClassified
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.ledger.store import Store, discard, open_or_discard
from mailecho.pipeline.side import Side
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import is_entry_key
from mailecho.schemas.topics import CLASSIFIED, EVENTS, SUPPRESSIONS

log = logging.getLogger(__name__)

#: Progress of a long catch-up is logged this often, in seconds.
PROGRESS_EVERY = 5.0


@dataclass(slots=True)
class Owned:
    """A partition that this worker owns: its store stands at `next`."""

    store: Store
    next: int


async def catch_up(
    side: Side, outputs: Outputs, fold: Fold, places: Places, directory: Path, partition: int, committed: int
) -> Owned:
    """Open the partition's store and bring it to the last emission. Raises StoreInUse.

    `committed` is the group's offset on `classified` (0 for none), which counts only where `events`
    has expired. Refuses (ends the process) where going on could lose or double something.
    """
    emission = await last_emission(side, partition)
    start, end = await side.span(CLASSIFIED, partition)
    store = open_or_discard(directory)
    with store.begin() as tx:
        at, counted = fold.next_offset(tx), fold.partitions(tx)
    if counted not in (0, places.partitions):
        log.warning("partition %d: made for %d partitions, now %d: rebuilding", partition, counted, places.partitions)
        store.close()
        discard(directory)
        store, at = Store(directory), 0
    if emission is None:
        emission = await _without_events(side, partition, at, committed)
    wanted = emission.n + 1 if emission else 0
    if emission:
        await _check_recreated(side, partition, emission, start, end)
    if end < wanted:
        # The broker lost its tail. An offset used twice would be a number used twice: fill them up.
        log.error("%s[%d] ends at %d, below the last emission %d: padding", CLASSIFIED, partition, end, wanted - 1)
        empty = Record(b"", headers=[h.schema_header("classified")])
        await outputs.send([(CLASSIFIED, partition, [empty] * (wanted - end))])
    if at > wanted or (at < wanted and at < start):
        why = "is ahead of the last emission" if at > wanted else "ends where classified has expired"
        log.warning("partition %d: the store stands at %d and %s (%d): rebuilding", partition, at, why, wanted)
        store.close()
        discard(directory)
        store, at = Store(directory), 0
    if at == 0 and wanted > 0:
        at = await _restore(side, fold, store, partition, wanted - 1, start)
    at = await _replay(side, fold, places, store, partition, at, wanted)
    await _mend_list(side, outputs, store, partition)
    with store.begin() as tx:
        fold.made_for(tx, places.partitions)
    if emission and emission.totals:
        with store.begin() as tx:
            fold.count_from(tx, emission.totals)
    return Owned(store, at)


async def _without_events(side: Side, partition: int, at: int, committed: int) -> Emission | None:
    """The position where `events` holds nothing to read: at the very beginning, or all of it expired."""
    _, end = await side.span(EVENTS, partition)
    if end == 0:
        if committed == 0 and at == 0:
            return None
        if at > 0 or committed > 0:
            refuse(
                f"{EVENTS}[{partition}] is empty, but the ledger had come to offset {max(at, committed)} of "
                f"{CLASSIFIED}: the topic was recreated. To emit everything again into it: stop the lander, delete the "
                "consumer group mailecho-ledger and the directory `ledger` of the data directory, and truncate "
                "ClickHouse's tables"
            )
    position = max(at, committed)
    if position == 0:
        refuse(
            f"all of {EVENTS}[{partition}] has expired, and neither a store nor a committed offset says how far it "
            "had come: commit the offset to go on from for the group mailecho-ledger"
        )
    return Emission(position - 1, 0, b"")


async def _check_recreated(side: Side, partition: int, emission: Emission, start: int, end: int) -> None:
    """Refuse where the newest record that was emitted, or what is left below it, is not the one that was answered."""
    known: Emission | None = emission
    if end <= emission.n:  # the tail is lost, or all of it is another topic's
        known = await find_emission(side, partition, end - 1) if end else None
    if known is not None and (known.n < start or not known.answered):
        return  # expired, as it may
    if known is not None:
        async for records in side.read(CLASSIFIED, partition, known.n, known.n + 1):
            # the padding after a lost tail has other times, and no value
            if records[0].timestamp == known.answered or not records[0].value:
                return
    refuse(
        f"{CLASSIFIED}[{partition}] was recreated: its record {min(emission.n, end - 1)} is not the one that was "
        f"emitted, or it holds nothing, while {EVENTS} stands at {emission.n}. Going on would reuse numbers that the "
        f"lander has passed. Restore the topic, or start afresh: delete {EVENTS} and {SUPPRESSIONS} too, "
        "`mailecho topics apply`, and truncate ClickHouse's tables"
    )


async def _restore(side: Side, fold: Fold, store: Store, partition: int, last: int, start: int) -> int:
    """A lost store: what policy needs comes from the compacted topic. Returns the offset to replay from."""
    begin, end = await side.span(SUPPRESSIONS, partition)
    newest: dict[bytes, tuple[int, bytes | None]] = {}
    async for records in side.read(SUPPRESSIONS, partition, begin, end):
        for record in records:
            version = int(h.get(record.headers, h.VERSION) or -1)
            # the highest version counts, not the last: a zombie may have written an old one late
            if record.key and version >= newest.get(record.key, (-1, b""))[0]:
                newest[record.key] = (version, record.value)
    with store.begin() as tx:
        for key, (_, value) in newest.items():
            if value is None:
                continue  # removed
            if is_entry_key(key):
                fold.restore_entry(tx, key, value, last)
            else:
                fold.restore_policy(tx, value)
        fold.start_at(tx, start)
    log.info("partition %d: %d entries restored from %s", partition, len(newest), SUPPRESSIONS)
    return start


async def _mend_list(side: Side, outputs: Outputs, store: Store, partition: int) -> None:
    """Send again what the list's topic has lost: a broker that lost its tail, or a topic that was recreated.

    The store has an entry only when the topic had acknowledged it, and versions rise along the topic:
    so what is newer than the newest there is not there any more.
    """
    start, end = await side.span(SUPPRESSIONS, partition)
    newest = -1
    for begin in (max(start, end - TAIL), start):
        async for records in side.read(SUPPRESSIONS, partition, begin, end):
            newest = max([newest, *(int(h.get(record.headers, h.VERSION) or -1) for record in records)])
        if newest >= 0:
            break  # else compaction has taken all of the tail
    with store.begin() as tx:
        lost = [(key, value) for key, value in stored(tx) if version_of(value) > newest]
    if lost:
        log.error("%s[%d] ends before %d entries of the store: sent again", SUPPRESSIONS, partition, len(lost))
        again = [suppression_record(Change(key, value, orjson.loads(value))) for key, value in lost]
        await outputs.send([(SUPPRESSIONS, partition, [Record(value, key, headers) for key, value, headers in again])])


async def _replay(side: Side, fold: Fold, places: Places, store: Store, partition: int, at: int, wanted: int) -> int:
    """Fold [at, wanted) muted, without the lines whose keys have moved to another partition."""
    first, logged = at, time.monotonic()
    async for records in side.read(CLASSIFIED, partition, at, wanted):
        with store.begin() as tx:
            for record in records:
                if record.offset > at:
                    log.warning(
                        "partition %d: offsets %d to %d expired in a catch-up", partition, at, record.offset - 1
                    )
                    fold.start_at(tx, record.offset)
                try:
                    fold.apply(tx, record.offset, places.only(record.value or b"", partition))
                except NotClassified:
                    fold.skip(tx, record.offset)
                at = record.offset + 1
        if time.monotonic() - logged > PROGRESS_EVERY:
            logged = time.monotonic()
            log.info("partition %d: catching up, %d of %d records", partition, at - first, wanted - first)
    if at < wanted:
        with store.begin() as tx:
            fold.start_at(tx, wanted)
        at = wanted
    return at
