"""Lands ranges: the intent, the inserts, the rows of `landed`, the commit. The order is what makes it exact.

    commit s, {e}      who goes on from s forms exactly [s, e)
    insert events      under a token: repeated, it changes nothing
    insert changes     likewise
    insert landed      likewise
    commit e           the watermark travels with it

A crash anywhere leaves either the commit of s with the intent, and all is repeated, or that of e. Ranges of several
partitions land together (`bundle.py`): each commit is one request, which Kafka writes as a whole or not at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from clickhouse_connect.driver.exceptions import ClickHouseError

from mailecho.pipeline import metrics
from mailecho.pipeline.endpoints import NotRunning
from mailecho.pipeline.faults import point
from mailecho.pipeline.landing.bundle import Bundle
from mailecho.pipeline.landing.database import DatabaseUnavailable
from mailecho.pipeline.landing.insert import (
    CHANGES,
    EVENTS,
    LANDED,
    Inserter,
    RowsRefused,
    Stale,
    TooManyRefused,
    days,
    landed_row,
)
from mailecho.pipeline.landing.intents import MOVED_ON_RANGES, Intent, Progress, Runs, count, to_runs, token
from mailecho.pipeline.landing.partition import Partition
from mailecho.pipeline.landing.patience import Patience
from mailecho.pipeline.landing.ranges import EventsRecord, Lines
from mailecho.pipeline.landing.reconcile import reconcile
from mailecho.pipeline.times import row_time
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import Reason

T = TypeVar("T")

log = logging.getLogger(__name__)

#: What may pass: ClickHouse is away, starting, overloaded, or not what it should be yet.
UNAVAILABLE = (ClickHouseError, DatabaseUnavailable, NotRunning)

#: Views are written after their table, so that a look-up may see a range of another lander half-way.
AGREE_TRIES = 10


class Outside(Protocol):
    """What a landing does to Kafka."""

    async def commit(self, places: Mapping[Partition, tuple[int, Progress]]) -> None:
        """Commit an offset and its metadata for each partition, all at once. Raises where one is no longer ours."""

    async def dead_letter(self, record: EventsRecord, value: bytes, reason: Reason, detail: str) -> None:
        """Send a dead letter and await its acknowledgement."""


class Landing:
    """Lands ranges, one at a time. `in_thread` runs a blocking call with the inserter."""

    def __init__(
        self,
        outside: Outside,
        in_thread: Callable[[Callable[[Inserter], T]], Awaitable[T]],
        patience: Patience,
    ) -> None:
        self._outside = outside
        self._in_thread = in_thread
        self._patience = patience

    async def database(self, call: Callable[[Inserter], T]) -> T:
        """`call` in the thread; while ClickHouse is down or slow, again and for ever."""

        async def once() -> T:
            try:
                return await self._in_thread(call)  # type: ignore[arg-type, return-value]
            except UNAVAILABLE:
                metrics.INSERT_FAILURES.inc()
                raise

        return await self._patience.until(once, UNAVAILABLE, "ClickHouse")

    async def land(self, bundle: Bundle) -> None:
        """Land the ranges of a bundle and begin the next ones.

        Raises Interrupted, TooManyRefused, IntentTooLarge, and what `Outside.commit` raises.
        """
        leader = bundle.leader
        if leader.progress.intent is None:
            fresh = leader.offset >= leader.progress.lookup_below
            point("lander.before_intent")
            await self._commit_intents(bundle.first_intents(_now() if fresh else 0))
            point("lander.after_intent")
        for part in bundle.parts:
            for bad in part.range.malformed:
                await self._outside.dead_letter(bad.record, bad.record.value or b"", Reason.INVALID, bad.why)
        landed = False
        while not landed:
            try:
                await self._insert(bundle)
                landed = True
            except Stale:
                landed = await self._look_up(bundle)
        point("lander.after_landed")
        self._count(bundle)
        await self.advance({part: (part.range.end, part.range.watermark) for part in bundle.own})
        point("lander.after_commit")

    async def advance(self, ends: Mapping[Partition, tuple[int, int | None]]) -> None:
        """Commit where ranges end that have landed, with the watermark there, and begin the next ones."""
        places = {part: (end, part.progress.after(end, watermark)) for part, (end, watermark) in ends.items()}
        await self._outside.commit(places)
        for part, (end, progress) in places.items():
            part.advance(end, progress)

    async def land_gap(self, part: Partition) -> None:
        """Record an accepted gap in `landed`, and go on after it."""
        intent = part.intent
        bundle = Bundle([part])
        landed = False
        while not landed:
            try:
                await self._insert_landed(bundle)
                landed = True
            except Stale:
                await self._intend(bundle, replace(intent, at=_now()))
        log.error(
            "%s[%d]: %d records from offset %d on expired unread and were given up, as accept_gap says",
            *part.where,
            intent.end - part.offset,
            part.offset,
        )
        await self.advance({part: (intent.end, part.progress.watermark)})

    async def land_alone(self, part: Partition) -> None:
        """From now on the part's range is its own: what of it those with which it was to land brought in is looked up.

        For when that landing is over, or can never be repeated, and it is not known how far it came.
        """
        intent = part.intent
        log.error(
            "%s[%d]: the range from offset %d to %d was to land with others, and cannot any more: looking up what of "
            "it is there. `mailecho reconcile` shows whether a rollup lacks some of it",
            *part.where,
            part.offset,
            intent.end,
        )
        await self._commit_intents({part: Intent(intent.end, intent.timestamp, at=0)})

    async def _intend(self, bundle: Bundle, intent: Intent) -> None:
        await self._commit_intents({bundle.leader: intent})

    async def _commit_intents(self, intents: Mapping[Partition, Intent]) -> None:
        progress = {part: part.progress.with_intent(intent) for part, intent in intents.items()}
        await self._outside.commit({part: (part.offset, after) for part, after in progress.items()})
        for part, after in progress.items():
            part.progress = after

    async def _insert(self, bundle: Bundle) -> None:
        await self._insert_rows(bundle, EVENTS, bundle.events, "refused")
        point("lander.after_insert")
        await self._insert_rows(bundle, CHANGES, bundle.changes, "refused_changes")
        point("lander.after_changes")
        await self._insert_landed(bundle)

    async def _insert_rows(self, bundle: Bundle, table: str, lines: Lines, field: str) -> None:
        """Insert what of the lines is not refused; find out what is, first in dry runs."""
        while True:
            intent = bundle.intent
            refused: Runs = getattr(intent, field)
            present = intent.present if table == EVENTS else intent.present_changes
            body = lines.body(refused, present)
            if not body:
                return
            key = _token(bundle, table, rest=bool(present))
            try:
                await self.database(partial(_insert, table, body, key, intent))
            except RowsRefused as error:
                found = await self.database(lambda inserter: inserter.find_refused(table, lines.split()))
                if not found:
                    # refused together and good one by one: nothing may be dropped for that
                    log.error("%s refuses a range of which it takes every row; trying again: %s", table, error)
                    await self._patience.pause(1.0)
                    continue
                rows = lines.split()
                for position, why in found.items():
                    record = lines.origin(position).record
                    later = h.newer(record.headers, "event")
                    if later is not None:
                        raise TooManyRefused(
                            f"{bundle.leader.where.topic}[{record.partition}] holds rows of a newer release ({later}) "
                            f"that ClickHouse refuses: {why}. Run `mailecho migrate` of that release, and start again"
                        ) from error
                for position, why in sorted(found.items()):
                    origin = lines.origin(position)
                    detail = f"{table}, row {origin.index}: {why}"
                    await self._outside.dead_letter(origin.record, rows[position][:-1], Reason.REJECTED, detail)
                point("lander.after_letters")
                await self._intend(bundle, replace(intent, **{field: to_runs(found)}))  # type: ignore[arg-type]
                point("lander.after_exclusion")
            else:
                metrics.INSERTS.labels(table, str(bundle.leader.repeated).lower()).inc()
                return

    async def _insert_landed(self, bundle: Bundle) -> None:
        intent = bundle.intent
        ranges = [part.range for part in bundle.parts]
        refused = bundle.counts([made.events for made in ranges], intent.refused)
        refused_changes = bundle.counts([made.changes for made in ranges], intent.refused_changes)
        rows = [
            landed_row(
                topic=part.where.topic,
                partition=part.where.partition,
                s=part.offset,
                e=part.intent.end,
                rows=part.range.events.rows - events,
                changes=part.range.changes.rows - changes,
                rejected=events + part.range.malformed_rows,
                duplicates_dropped=part.range.repeated_rows,
                bytes=part.range.size,
                watermark_before=_number(part.progress.watermark),
                watermark_after=_number(part.range.watermark),
                first_timestamp=row_time(part.intent.timestamp),
                token=_token(bundle, EVENTS),
            )
            for part, events, changes in zip(bundle.parts, refused, refused_changes, strict=True)
        ]
        await self.database(partial(_insert, LANDED, b"".join(rows), _token(bundle, LANDED), intent))

    async def _look_up(self, bundle: Bundle) -> bool:
        """Find out what of an old intent ClickHouse has; True where all of it, its rows of `landed` included.

        Afterwards the intent is fresh, and says which rows are left out because they are present. Where
        the rollups of the days concerned lack what the table has (a crash between the table and its
        views), only the token can repair it: it is repeated whole while ClickHouse must still know it.
        """
        leader, intent, lines = bundle.leader, bundle.intent, bundle.events
        topic, partition = leader.where
        last = (await self.database(lambda inserter: inserter.last_landed(topic, [partition]))).get(partition)
        if last is not None and last.of(leader.offset, intent):
            return True
        rows, changes = lines.split(), bundle.changes.split()
        events = await self.database(lambda inserter: inserter.present_events(rows))
        present_changes = await self.database(lambda inserter: inserter.present_changes(changes))
        fresh = replace(intent, at=_now(), present=(), present_changes=())
        if events or present_changes:
            moved_on = await self._moved_on(leader, intent)
            whole = await self._agree({rows[position] for position in events})
            if whole or moved_on:
                fresh = replace(fresh, present=to_runs(events), present_changes=to_runs(present_changes))
            if not whole and moved_on:
                log.error(
                    "%s[%d]: the range from offset %d to %d is in `events`, its rollups lack some of it, and its "
                    "token is forgotten: `mailecho reconcile` shows by how much",
                    topic,
                    partition,
                    leader.offset,
                    intent.end,
                )
        log.warning(
            "%s[%d]: looked up the range from offset %d to %d%s: %d of %d events present, %d left out",
            topic,
            partition,
            leader.offset,
            intent.end,
            f" and those of {len(intent.others)} more partitions" if intent.others else "",
            len(events),
            len(rows),
            count(fresh.present),
        )
        await self._intend(bundle, fresh)
        return False

    async def _moved_on(self, part: Partition, intent: Intent) -> bool:
        if part.offset < part.progress.lookup_below:
            return True  # restored or recreated: what ClickHouse remembers is not known
        return await self.database(lambda inserter: inserter.inserts_since(intent.at)) >= MOVED_ON_RANGES

    async def _agree(self, rows: set[bytes]) -> bool:
        touched = days(rows)
        for _ in range(AGREE_TRIES):
            if not await self.database(lambda inserter: reconcile(inserter.client, touched)):
                return True
            await self._patience.pause(1.0)
        return False

    def _count(self, bundle: Bundle) -> None:
        intent = bundle.intent
        metrics.ROWS.labels(EVENTS).inc(bundle.events.rows - count(intent.refused))
        metrics.ROWS.labels(CHANGES).inc(bundle.changes.rows - count(intent.refused_changes))
        malformed = sum(part.range.malformed_rows for part in bundle.parts)
        metrics.ROWS_REJECTED.inc(count(intent.refused) + malformed)
        records = sum(part.range.end - part.range.start for part in bundle.parts)
        metrics.RECORDS.labels(bundle.leader.where.topic).inc(records)


def _insert(table: str, body: bytes, key: str, intent: Intent, inserter: Inserter) -> None:
    inserter.insert(table, body, key, intent)


def _token(bundle: Bundle, table: str, *, rest: bool = False) -> str:
    leader = bundle.leader
    return token(leader.where.topic, leader.where.partition, leader.offset, bundle.intent, table, rest=rest)


def _number(watermark: int | None) -> int:
    return -1 if watermark is None else watermark


def _now() -> int:
    return time.time_ns() // 1_000_000
