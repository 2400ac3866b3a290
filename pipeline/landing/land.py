"""Lands one range: the intent, the inserts, the row of `landed`, the commit. The order is what makes it exact.

    commit s, {e}      who goes on from s forms exactly [s, e)
    insert events      under a token: repeated, it changes nothing
    insert changes     likewise
    insert landed      likewise
    commit e           the watermark travels with it

A crash anywhere leaves either the commit of s with the intent, and all is repeated, or that of e.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from clickhouse_connect.driver.exceptions import ClickHouseError

from mailecho.pipeline import metrics
from mailecho.pipeline.endpoints import NotRunning
from mailecho.pipeline.faults import point
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

    async def commit(self, part: Partition, offset: int, progress: Progress) -> None:
        """Commit. Raises where the partition is no longer ours."""

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

    async def land(self, part: Partition) -> None:
        """Land the partition's range and begin the next.

        Raises Interrupted, TooManyRefused, IntentTooLarge, and what `Outside.commit` raises.
        """
        if part.progress.intent is None:
            fresh = part.offset >= part.progress.lookup_below
            intent = Intent(end=part.range.end, timestamp=part.range.timestamp, at=_now() if fresh else 0)
            point("lander.before_intent")
            await self._intend(part, intent)
            point("lander.after_intent")
        for bad in part.range.malformed:
            await self._outside.dead_letter(bad.record, bad.record.value or b"", Reason.INVALID, bad.why)
        landed = False
        while not landed:
            try:
                await self._insert(part)
                landed = True
            except Stale:
                landed = await self._look_up(part)
        point("lander.after_landed")
        end, watermark = part.range.end, part.range.watermark
        self._count(part)
        progress = part.progress.after(end, watermark)
        await self._outside.commit(part, end, progress)
        part.advance(end, progress)
        point("lander.after_commit")

    async def land_gap(self, part: Partition) -> None:
        """Record an accepted gap in `landed`, and go on after it."""
        intent = _intent(part)
        landed = False
        while not landed:
            try:
                await self._insert_landed(part, rows=0, changes=0, rejected=0)
                landed = True
            except Stale:
                await self._intend(part, replace(intent, at=_now()))
        log.error(
            "%s[%d]: %d records from offset %d on expired unread and were given up, as accept_gap says",
            *part.where,
            intent.end - part.offset,
            part.offset,
        )
        progress = part.progress.after(intent.end, part.progress.watermark)
        await self._outside.commit(part, intent.end, progress)
        part.advance(intent.end, progress)

    async def _intend(self, part: Partition, intent: Intent) -> None:
        progress = part.progress.with_intent(intent)
        await self._outside.commit(part, part.offset, progress)
        part.progress = progress

    async def _insert(self, part: Partition) -> None:
        await self._insert_rows(part, EVENTS, part.range.events, "refused")
        point("lander.after_insert")
        await self._insert_rows(part, CHANGES, part.range.changes, "refused_changes")
        point("lander.after_changes")
        intent = _intent(part)
        rejected = part.range.refused_rows(intent.refused)
        await self._insert_landed(
            part,
            rows=part.range.events.rows - count(intent.refused),
            changes=part.range.changes.rows - count(intent.refused_changes),
            rejected=rejected,
        )

    async def _insert_rows(self, part: Partition, table: str, lines: Lines, field: str) -> None:
        """Insert what of the lines is not refused; find out what is, first in dry runs."""
        while True:
            intent = _intent(part)
            refused: Runs = getattr(intent, field)
            present = intent.present if table == EVENTS else intent.present_changes
            body = lines.body(refused, present)
            if not body:
                return
            key = token(part.where.topic, part.where.partition, part.offset, intent, table, rest=bool(present))
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
                    later = h.newer(lines.origin(position).record.headers, "event")
                    if later is not None:
                        raise TooManyRefused(
                            f"{part.where.topic}[{part.where.partition}] holds rows of a newer release ({later}) that "
                            f"ClickHouse refuses: {why}. Run `mailecho migrate` of that release, and start again"
                        ) from error
                for position, why in sorted(found.items()):
                    origin = lines.origin(position)
                    detail = f"{table}, row {origin.index}: {why}"
                    await self._outside.dead_letter(origin.record, rows[position][:-1], Reason.REJECTED, detail)
                point("lander.after_letters")
                await self._intend(part, replace(intent, **{field: to_runs(found)}))  # type: ignore[arg-type]
                point("lander.after_exclusion")
            else:
                metrics.INSERTS.labels(table, str(part.repeated).lower()).inc()
                return

    async def _insert_landed(self, part: Partition, *, rows: int, changes: int, rejected: int) -> None:
        intent = _intent(part)
        topic, partition = part.where
        row = landed_row(
            topic=topic,
            partition=partition,
            s=part.offset,
            e=intent.end,
            rows=rows,
            changes=changes,
            rejected=rejected,
            duplicates_dropped=part.range.repeated_rows,
            bytes=part.range.size,
            watermark_before=_number(part.progress.watermark),
            watermark_after=_number(part.range.watermark),
            first_timestamp=row_time(intent.timestamp),
            token=token(topic, partition, part.offset, intent, EVENTS),
        )
        key = token(topic, partition, part.offset, intent, LANDED)
        await self.database(lambda inserter: inserter.insert(LANDED, row, key, intent))

    async def _look_up(self, part: Partition) -> bool:
        """Find out what of an old intent ClickHouse has; True where all of it, its row of `landed` included.

        Afterwards the intent is fresh, and says which rows are left out because they are present. Where
        the rollups of the days concerned lack what the table has (a crash between the table and its
        views), only the token can repair it: it is repeated whole while ClickHouse must still know it.
        """
        intent, lines = _intent(part), part.range.events
        topic, partition = part.where
        last = (await self.database(lambda inserter: inserter.last_landed(topic, [partition]))).get(partition)
        if last is not None and last.of(part.offset, intent):
            return True
        rows, changes = lines.split(), part.range.changes.split()
        events = await self.database(lambda inserter: inserter.present_events(rows))
        present_changes = await self.database(lambda inserter: inserter.present_changes(changes))
        fresh = replace(intent, at=_now(), present=(), present_changes=())
        if events or present_changes:
            moved_on = await self._moved_on(part, intent)
            whole = await self._agree({rows[position] for position in events})
            if whole or moved_on:
                fresh = replace(fresh, present=to_runs(events), present_changes=to_runs(present_changes))
            if not whole and moved_on:
                log.error(
                    "%s[%d]: the range from offset %d to %d is in `events`, its rollups lack some of it, and its "
                    "token is forgotten: `mailecho reconcile` shows by how much",
                    topic,
                    partition,
                    part.offset,
                    intent.end,
                )
        log.warning(
            "%s[%d]: looked up the range from offset %d to %d: %d of %d events present, %d left out",
            topic,
            partition,
            part.offset,
            intent.end,
            len(events),
            len(rows),
            count(fresh.present),
        )
        await self._intend(part, fresh)
        return False

    async def _moved_on(self, part: Partition, intent: Intent) -> bool:
        if part.offset < part.progress.lookup_below:
            return True  # restored or recreated: what ClickHouse remembers is not known
        return await self.database(lambda inserter: inserter.ranges_since(intent.at)) >= MOVED_ON_RANGES

    async def _agree(self, rows: set[bytes]) -> bool:
        touched = days(rows)
        for _ in range(AGREE_TRIES):
            if not await self.database(lambda inserter: reconcile(inserter.client, touched)):
                return True
            await self._patience.pause(1.0)
        return False

    def _count(self, part: Partition) -> None:
        intent = _intent(part)
        metrics.ROWS.labels(EVENTS).inc(part.range.events.rows - count(intent.refused))
        metrics.ROWS.labels(CHANGES).inc(part.range.changes.rows - count(intent.refused_changes))
        metrics.ROWS_REJECTED.inc(part.range.refused_rows(intent.refused))
        metrics.RECORDS.labels(part.where.topic).inc(part.range.end - part.range.start)


def _insert(table: str, body: bytes, key: str, intent: Intent, inserter: Inserter) -> None:
    inserter.insert(table, body, key, intent)


def _intent(part: Partition) -> Intent:
    assert part.progress.intent is not None, "a range is landed under an intent"
    return part.progress.intent


def _number(watermark: int | None) -> int:
    return -1 if watermark is None else watermark


def _now() -> int:
    return time.time_ns() // 1_000_000
