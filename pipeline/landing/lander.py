"""The lander: `feedback.events` into ClickHouse, each event once, whatever crashes in between.

A plain consumer in a group of its own. It collects ranges of offsets by partition and lands those of all its
partitions together, as far as one insert takes them (`bundle.py`, `land.py`). An insert runs in a thread, so that the
consumer goes on heartbeating. While it runs nothing is fetched beyond the client's own buffer, so that a slow
ClickHouse costs no memory: the backlog lies in the topic.

Ranges that were to land together may come to different landers afterwards. The owner of the leading one then reads
the others' records beside its own (guests), and lands them all; the owners of the others wait for that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

import uvloop
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
    ConsumerRecord,
    TopicPartition,
)
from aiokafka.errors import (
    CommitFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
)
from aiokafka.structs import OffsetAndMetadata

from mailecho.pipeline import metrics, telemetry
from mailecho.pipeline.config import LanderSettings, Settings
from mailecho.pipeline.endpoints import NotRunning, kafka_bootstrap
from mailecho.pipeline.landing.bundle import Bundle, leader_of, leads, together
from mailecho.pipeline.landing.database import clickhouse_url, write_client
from mailecho.pipeline.landing.guest import Gone, read_guest
from mailecho.pipeline.landing.insert import Inserter, TooManyRefused
from mailecho.pipeline.landing.intents import MOST_TOGETHER, Intent, IntentTooLarge, Progress, read
from mailecho.pipeline.landing.land import Landing
from mailecho.pipeline.landing.migrations import CountsUnsafe, MigrationRefused, assert_dedup
from mailecho.pipeline.landing.partition import Partition
from mailecho.pipeline.landing.patience import Interrupted, Patience
from mailecho.pipeline.landing.ranges import EventsRecord, GapError
from mailecho.pipeline.landing.retention import differing
from mailecho.pipeline.landing.start import Facts, Refused, Start, decide
from mailecho.pipeline.landing.totals import Watch
from mailecho.pipeline.members import METADATA_MS, offsets_of
from mailecho.pipeline.paced import Pace
from mailecho.schemas import topics
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.headers import SchemaRefused

T = TypeVar("T")

log = logging.getLogger(__name__)

#: What is fetched ahead by partition: enough to form a range while another is inserted, and all that a
#: slow ClickHouse may cost (times the partitions). One larger record still comes, alone.
FETCH_BYTES = 4 * 1024 * 1024

#: The running insert is finished within this at SIGTERM, else the process leaves it: what is cut off is
#: repeated by the intent. Eight seconds in all, with closing the connections.
STOP_SECONDS = 6.0
CLOSE_SECONDS = 1.5

#: A lander waits for ClickHouse for hours without fetching; the group must not take that for death.
MAX_POLL_MS = 24 * 3600 * 1000

#: An insert into the events and their views costs as much as some 8,000 rows, however few it has. So
#: inserts get this share of the time at most, until a range is LONGEST_FLUSH times as old as it should be.
BUSY_SHARE = 0.25
LONGEST_FLUSH = 5

#: Between two looks whether another lander has landed what was to land together with a partition's range.
FOLLOW_SECONDS = 1.0

#: Longest wait for records: how late a lander that has nothing to do notices a new assignment.
IDLE_SECONDS = 0.5

#: A dead letter may be as large as the record it was, but for its headers; a row is far below either.
MESSAGE_BYTES = topics.registry()[topics.dlq(topics.EVENTS)].max_message_bytes
DEAD_LETTER_BYTES = MESSAGE_BYTES - 64 * 1024

#: What ends a lander with its message, since going on would lose or double events, or never succeed.
STOPS = (Refused, GapError, SchemaRefused, IntentTooLarge, TooManyRefused, CountsUnsafe, MigrationRefused)


class Lost(Exception):
    """A commit was refused: the partition is another's, and a rebalance follows."""


class TopicMissing(Exception):
    """The topic is not there yet."""


class Lander(ConsumerRebalanceListener):  # type: ignore[misc]
    """One lander process. `topic` and `group` are those of the registry, outside of tests."""

    def __init__(self, settings: Settings, *, topic: str = topics.EVENTS, group: str = topics.GROUP_LANDER) -> None:
        self._settings = settings
        self._limits = settings.lander
        self._accept_gap = settings.accept_gap
        self._topic = topic
        self._group = group
        self._patience = Patience()
        self._pace = Pace(settings.kafka.pace_ms)
        self._thread = ThreadPoolExecutor(1, "clickhouse")
        self._inserter: Inserter | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self._landing = Landing(self, self._in_thread, self._patience)
        self._busy = asyncio.Lock()
        self._partitions: dict[TopicPartition, Partition] = {}
        self._assigned: set[TopicPartition] = set()
        self._guests: dict[TopicPartition, Partition] = {}
        self._following: dict[TopicPartition, Partition] = {}  # another lander's leads
        self._followed_at = 0.0
        self._stopping = False
        self._watch = Watch(settings, lambda: TopicPartition(topic, 0) in self._partitions)
        #: Whether an insert still runs in the thread, so that the process cannot end by itself.
        self.left_behind = False

    # -- life -----------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Land until `stop` is set. Raises one of STOPS where the lander must not go on."""
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
            self._stopping = True
            self._patience.interrupt()
            if not work.done():
                with suppress(TimeoutError):
                    async with asyncio.timeout(STOP_SECONDS), self._busy:
                        pass
                self.left_behind = self._busy.locked()
                work.cancel()
            with suppress(asyncio.CancelledError, Interrupted):
                await work
        finally:
            stopped.cancel()
            await self._close()

    async def _close(self) -> None:
        self._watch.stop()
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._producer is not None:
                    await self._producer.stop()
                if self._consumer is not None:
                    await self._consumer.stop()
        if self.left_behind:
            log.warning("leaving an insert that ClickHouse has not answered: the next start repeats it")
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        if self._inserter is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._inserter.close)
        self._thread.shutdown()

    async def _work(self) -> None:
        await self._landing.database(lambda inserter: assert_dedup(inserter.client))
        for change in await self._landing.database(lambda i: differing(i.client, self._settings.retention)):
            log.warning("retention: %s; `mailecho migrate` applies it", change)
        if self._limits.check_minutes:
            self._watch.start()
        consumer: AIOKafkaConsumer = await self._connected(self._new_consumer)
        self._consumer = consumer
        await self._patience.until(self._topic_exists, TopicMissing, "Kafka")
        consumer.subscribe([self._topic], listener=self)
        while True:
            try:
                await self._turn()
            except Lost as error:
                log.warning("%s", error)
            except Interrupted:
                if self._stopping:
                    raise

    async def _topic_exists(self) -> None:
        assert self._consumer is not None
        if self._topic not in await self._consumer.topics():
            raise TopicMissing(f"the topic {self._topic} does not exist: `mailecho topics apply` makes it")

    # -- one turn of the loop -----------------------------------------------------------------------

    async def _turn(self) -> None:
        if self._assigned:
            async with self._busy:
                await self._open()
        batches = await self._fetch()
        self._pace.after(self._consumer, bool(batches))
        async with self._busy:
            for where, records in batches.items():
                # revoked meanwhile: whoever has it now reads it again
                if part := self._partitions.get(where):
                    part.fetched(records)
            while bundle := self._next():
                await self._land(bundle)
            await self._follow()
            for part in self._partitions.values():
                self._measure(part)

    def _measure(self, part: Partition) -> None:
        assert self._consumer is not None
        end = self._consumer.highwater(part.where)
        if end is not None:
            metrics.LAG.labels(part.where.topic, str(part.where.partition)).set(end - part.offset)

    def _next(self) -> Bundle | None:
        """What lands now: an intent whose ranges are complete, or a range that is due and what fits beside it."""
        now = time.monotonic()
        due = [part for part in (*self._partitions.values(), *self._guests.values()) if part.due(self._limits, now)]
        for part in due:
            intent = part.progress.intent
            if intent is not None and intent.led_by is None and part.where not in self._guests:
                bundle = self._again(part, intent)
                if all(other in due for other in bundle.parts):
                    return bundle
        parts = [part for part in self._partitions.values() if part.progress.intent is None]
        first = next((part for part in parts if part in due or self._crowded(part)), None)
        if first is None:
            return None
        bundle = together(first, parts, self._limits)
        for part in parts:
            if part in bundle.parts or not part.range:
                part.turn(now)
        return bundle

    def _again(self, leader: Partition, intent: Intent) -> Bundle:
        """The bundle of an intent that is repeated."""
        places = [TopicPartition(leader.where.topic, span.partition) for span in intent.others]
        guests = [self._guests[where] for where in places if where in self._guests]
        return Bundle([leader, *(self._guests.get(where) or self._partitions[where] for where in places)], guests)

    def _crowded(self, part: Partition) -> bool:
        """Whether the ranges of all partitions together hold what one may, and this is one of the large."""
        if not part.range:
            return False
        total = sum(other.size for other in self._partitions.values())
        return total >= self._limits.flush_bytes and part.size * len(self._partitions) >= total

    async def _fetch(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        assert self._consumer is not None
        wait = min([IDLE_SECONDS, *(part.wait(self._limits) for part in self._partitions.values())])
        try:
            return await self._consumer.getmany(timeout_ms=int(wait * 1000))  # type: ignore[no-any-return]
        except NoOffsetForPartitionError:
            return {}  # of a partition that is not opened yet: its place is sought then
        except OffsetOutOfRangeError as error:
            raise GapError(
                f"records expired while they were read ({error}): start again to see how many, and how to go on"
            ) from error
        except KafkaError as error:
            if not error.retriable:
                raise
            log.warning("fetch failed, trying again: %s", error)
            await self._patience.pause(1.0)
            return {}

    async def _land(self, bundle: Bundle) -> None:
        began = time.monotonic()
        try:
            await self._landing.land(bundle)
        except (Lost, Interrupted):
            for part in bundle.own:
                self._partitions.pop(part.where, None)
            raise
        finally:
            for part in bundle.parts:
                self._guests.pop(part.where, None)
        bundles = -(-len(self._partitions) // MOST_TOGETHER)
        self._limits = unhurried(self._settings.lander, time.monotonic() - began, bundles)

    async def _follow(self) -> None:
        """Go on with ranges that another lander was to land, once it has."""
        if not self._following or time.monotonic() - self._followed_at < FOLLOW_SECONDS:
            return
        self._followed_at = time.monotonic()
        committed = await self._committed()
        # after the leaders' commits, which come after `landed`
        numbers = [where.partition for where in self._following]
        landed = await self._landing.database(lambda inserter: inserter.last_landed(self._topic, numbers))
        for where, part in list(self._following.items()):
            last, leader = landed.get(where.partition), committed.get(leader_of(part))
            if last is not None and last.of(part.offset, part.intent):
                await self._landing.advance({part: (last.end, last.watermark)})
            elif leader is not None and leads(read(leader.metadata or ""), part):
                continue
            else:
                await self._landing.land_alone(part)
            del self._following[where]
            self._begin(part)

    # -- assignment -----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Finish the call that runs, forget what is not landed. The group waits for this."""
        self._patience.interrupt()
        async with self._busy:
            self._partitions.clear()
            self._guests.clear()
            self._following.clear()
            self._assigned.clear()
        if not self._stopping:
            self._patience.again()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Hold them until their intents are read: the client would begin at the committed offset."""
        assert self._consumer is not None
        self._assigned = set(assigned)
        for where in self._assigned:
            self._consumer.seek(where, 0)
            self._consumer.pause(where)

    async def _open(self) -> None:
        """Read where each assigned partition stands, refuse or go on there."""
        assert self._consumer is not None
        self._guests.clear()
        self._following.clear()
        opening = sorted(self._assigned)
        parts = {}
        for start, where in zip(await self._starts(opening), opening, strict=True):
            part = parts[where] = Partition(where, start.offset, start.progress)
            intent = start.progress.intent
            if start.landed is not None:
                await self._landing.advance({part: (start.landed.end, start.landed.watermark)})
            elif intent is not None and intent.gap:
                await self._landing.land_gap(part)
        for where, part in parts.items():
            intent = part.progress.intent
            if intent is not None and intent.led_by is not None:
                leader = parts.get(leader_of(part))
                if leader is None or not leads(leader.progress, part):
                    log.info("%s[%d]: waiting for the range with which partition %d leads", *where, intent.led_by)
                    self._following[where] = part
                    continue
            if intent is not None:
                log.info("%s[%d]: repeating the range from offset %d to %d", *where, part.offset, intent.end)
                await self._invite(part, intent, parts)
            self._begin(part)
        self._assigned.clear()

    def _begin(self, part: Partition) -> None:
        assert self._consumer is not None
        self._partitions[part.where] = part
        self._consumer.seek(part.where, part.offset)
        self._consumer.resume(part.where)

    async def _invite(self, leader: Partition, intent: Intent, parts: Mapping[TopicPartition, Partition]) -> None:
        """Read the ranges that are to land with the leader's and are not among ours."""
        strangers = [
            span
            for span in intent.others
            if not ((part := parts.get(TopicPartition(self._topic, span.partition))) and leads(leader.progress, part))
        ]
        if not strangers:
            return
        try:
            for span in strangers:
                self._guests[TopicPartition(self._topic, span.partition)] = await self._patience.until(
                    partial(read_guest, kafka_bootstrap(self._settings), self._topic, span),
                    (KafkaError, TimeoutError),
                    "Kafka",
                )
        except Gone as error:
            log.error("%s", error)
            for span in intent.others:
                self._guests.pop(TopicPartition(self._topic, span.partition), None)
            await self._landing.land_alone(leader)

    async def _committed(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """What the group has committed, with its metadata."""
        return await self._patience.until(
            lambda: offsets_of(kafka_bootstrap(self._settings), self._group, tries=1), (KafkaError, NotRunning), "Kafka"
        )

    async def _starts(self, opening: list[TopicPartition]) -> list[Start]:
        consumer = self._consumer
        assert consumer is not None
        committed = await self._committed()
        first = await self._patience.until(lambda: consumer.beginning_offsets(opening), KafkaError, "Kafka")
        end = await self._patience.until(lambda: consumer.end_offsets(opening), KafkaError, "Kafka")
        numbers = [where.partition for where in opening]
        landed = await self._landing.database(lambda inserter: inserter.last_landed(self._topic, numbers))
        starts = []
        for where in opening:
            at = committed.get(where)
            facts = Facts(
                topic=where.topic,
                partition=where.partition,
                first=first[where],
                end=end[where],
                committed=at.offset if at else None,
                metadata=at.metadata or "" if at else "",
                landed=landed.get(where.partition),
            )
            starts.append(decide(facts, accept_gap=self._accept_gap, now=time.time_ns() // 1_000_000))
        return starts

    # -- what a landing does outside ------------------------------------------------------------

    async def commit(self, places: Mapping[Partition, tuple[int, Progress]]) -> None:
        """Commit with metadata, in one request. Raises Lost where a partition is no longer ours."""
        assert self._consumer is not None
        try:
            await self._consumer.commit(
                {part.where: OffsetAndMetadata(offset, progress.dumps()) for part, (offset, progress) in places.items()}
            )
        except (CommitFailedError, IllegalStateError) as error:
            names = ", ".join(str(part.where.partition) for part in places)
            raise Lost(f"{self._topic}[{names}]: {error}") from error

    async def dead_letter(self, record: EventsRecord, value: bytes, reason: Reason, detail: str) -> None:
        """Send a row or a record to the dead letters of the topic, at least once."""
        if self._producer is None:
            self._producer = await self._connected(self._new_producer)
        producer: AIOKafkaProducer = self._producer
        letter = DeadLetter(
            reason=reason,
            detail=detail,
            origin_topic=self._topic,
            origin_partition=record.partition,
            origin_offset=record.offset,
            origin_timestamp=record.timestamp,
        )
        log.error("%s[%d] offset %d: dead letter, %s", self._topic, record.partition, record.offset, detail)
        await self._patience.until(
            lambda: producer.send_and_wait(topics.dlq(self._topic), value, headers=letter.headers(record.headers)),
            KafkaError,
            "Kafka",
        )
        metrics.DEAD_LETTERS.labels(self._topic, reason.value).inc()

    # -- connections ----------------------------------------------------------------------------

    async def _in_thread(self, call: Callable[[Inserter], T]) -> T:
        def blocking() -> T:
            if self._inserter is None:
                self._inserter = Inserter(write_client(self._settings))
            return call(self._inserter)

        return await asyncio.get_running_loop().run_in_executor(self._thread, blocking)

    async def _connected(self, make: Callable[[], T]) -> T:
        """Make and start a client, waiting for the broker."""

        async def once() -> T:
            client = make()
            try:
                await client.start()  # type: ignore[attr-defined]
            except BaseException:
                await client.stop()  # type: ignore[attr-defined]
                raise
            return client

        return await self._patience.until(once, (KafkaError, NotRunning), "Kafka")

    def _new_consumer(self) -> AIOKafkaConsumer:
        kafka = self._settings.kafka
        return AIOKafkaConsumer(
            bootstrap_servers=kafka_bootstrap(self._settings),
            client_id=f"mailecho-lander-{self._settings.instance}",
            group_id=self._group,
            group_instance_id=f"lander-{self._settings.instance}",
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=min(3_000, kafka.session_timeout_ms // 3),
            max_poll_interval_ms=MAX_POLL_MS,
            metadata_max_age_ms=METADATA_MS,
            rebalance_timeout_ms=kafka.session_timeout_ms,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=FETCH_BYTES,
        )

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=kafka_bootstrap(self._settings),
            enable_idempotence=True,
            acks="all",
            max_request_size=MESSAGE_BYTES,
        )


def unhurried(limits: LanderSettings, took: float, bundles: int) -> LanderSettings:
    """The limits where landing one of so many bundles took so many seconds: older ranges where ClickHouse is slow."""
    patience = took * bundles / BUSY_SHARE
    flush = min(max(limits.flush_seconds, patience), LONGEST_FLUSH * limits.flush_seconds)
    return limits.model_copy(update={"flush_seconds": flush})


def run(settings: Settings) -> None:
    """The lander's role: run until SIGTERM or SIGINT.

    Raises SystemExit with a message where the lander must not go on (see STOPS): it says why and what
    to do. Waits for broker and ClickHouse for ever.
    """
    telemetry.setup("lander", settings)
    # an address that comes from nowhere is refused; one that does not answer yet is waited for
    kafka_bootstrap(settings)
    clickhouse_url(settings)
    stop_metrics = metrics.serve_metrics(os.environ.get("MAILECHO_METRICS_PORT"))
    try:
        serve(settings)
    finally:
        if stop_metrics is not None:
            stop_metrics()


def serve(settings: Settings, *, topic: str = topics.EVENTS, group: str = topics.GROUP_LANDER) -> None:
    """`run` without logging and metrics, for a topic and group of the caller's choice."""

    async def main() -> bool:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        lander = Lander(settings, topic=topic, group=group)
        alive = asyncio.create_task(telemetry.heartbeat(telemetry.alive_path(settings, "lander")))
        try:
            await lander.run(stop)
        finally:
            alive.cancel()
        return lander.left_behind

    try:
        left_behind = uvloop.run(main())
    except STOPS as error:
        raise SystemExit(f"mailecho lander stops: {error}") from error
    if left_behind:
        # the thread waits for an answer that may not come, and Python would wait for the thread
        logging.shutdown()
        os._exit(0)
