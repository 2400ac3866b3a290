"""Follows `feedback.suppressions` into the lookup's map: a plain consumer without a group.

Its place is in the map itself, in the transaction of the entries. It starts afresh where the topic
no longer tells what happened in between: its place expired, the topic or the cluster is another, or it
was away for longer than the topic keeps tombstones (DESIGN 7). Until then, and through any outage of
the broker, the map answers with what it holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lmdb
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from mailecho.pipeline.endpoints import NotRunning
from mailecho.pipeline.identity import IdentityKeyError
from mailecho.pipeline.lookup.record import BadRecord, Change, read_change
from mailecho.pipeline.lookup.store import DAMAGE, Store
from mailecho.pipeline.paced import Pace
from mailecho.schemas.headers import SchemaRefused
from mailecho.schemas.suppression import is_entry_key
from mailecho.schemas.topics import SUPPRESSIONS, registry

log = logging.getLogger(__name__)

#: Records of one transaction: about 50 ms of work on another thread, so that lookups beside it wait
#: for little, and far more than a broker sends between two fetches at live rates.
TRANSACTION_RECORDS = 2_000

#: Between two tries to reach a broker. It answers about 3 s after its start; asking costs little.
RETRY_SECONDS = 1.0

#: How often an idle follower writes down that it is up to date. It may start afresh without need
#: where tombstones are kept for less than this.
MARK_MS = 60_000

#: Where the broker does not tell.
_DEFAULT_KEEP_MS = int(registry()[SUPPRESSIONS].extra["delete.retention.ms"])


class FollowRefused(RuntimeError):
    """The topic cannot be followed into this map; the message says why and the way on."""


class Follower:
    """Brings `store` to the topic and keeps it there, until `stop`.

    `bootstrap` gives host:port of the brokers and may raise NotRunning (then it is asked again);
    `fingerprint` is that of the identity key. Raises IdentityKeyError where the map was made under
    another one. Reads of the store must happen on the loop that runs `run`: only between its steps is
    a damaged map replaced.
    """

    def __init__(
        self,
        store: Store,
        *,
        bootstrap: Callable[[], str],
        fingerprint: str,
        pace_ms: int = 200,
        topic: str = SUPPRESSIONS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        made_with = store.meta().get("identity", b"").decode()
        if made_with not in ("", fingerprint):
            raise IdentityKeyError(
                f"the lookup map in {store.directory} was made under identity key {made_with}, this is {fingerprint}: "
                "set identity_key to the one the data was made with, or, where the data was begun anew, "
                "remove that directory"
            )
        self.store = store
        self.ready = False  # has caught up once since the start
        self.reason = "starting"  # why not, for people
        self.lag: int | None = None  # records behind, as the last fetch saw it
        self.seen_at: int | None = None  # when it last was up to date, epoch milliseconds
        self.applied = 0
        self.outdated = 0  # records of a lower version than the map had
        self.rejected = 0  # records that are no entries
        self._bootstrap = bootstrap
        self._topic = topic
        self._fingerprint = fingerprint.encode()
        self._pace_ms = pace_ms
        self._clock = clock
        self._stop = asyncio.Event()
        self._session_task: asyncio.Task[None] | None = None
        self._damage = ""
        self._writer = ThreadPoolExecutor(1, "lookup-writer")

    @property
    def partitions(self) -> int | None:
        """Partitions of the topic that the map was made from; None before the first contact."""
        value = self.store.meta().get("partitions")
        return None if value is None else int(value)

    def stop(self) -> None:
        """Make `run` return: in well under a second, its last transaction finished."""
        self._stop.set()

    def rebuild(self, why: str) -> None:
        """Make the map again from the topic: a reader found its file damaged."""
        self._damage = why
        if self._session_task is not None:
            self._session_task.cancel()

    async def run(self) -> None:
        """Follow until `stop`. Outages are ridden out; what no retry can mend is said in `reason`."""
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                session = self._session_task = asyncio.create_task(self._session())
                try:
                    await asyncio.wait({session, stopped}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    session.cancel()
                await self._ended(session)
                await asyncio.wait({stopped}, timeout=RETRY_SECONDS)
        finally:
            stopped.cancel()
            self._writer.shutdown(wait=True)

    async def _ended(self, session: asyncio.Task[None]) -> None:
        try:
            await session
        except asyncio.CancelledError:
            if self._damage:
                await self._make_again(self._damage)
            elif not self._stop.is_set():
                raise
        except (FollowRefused, SchemaRefused) as refusal:
            # Lookups go on with what there is; readiness tells that it is no longer the latest.
            self.ready, self.reason = False, str(refusal)
            log.error("the suppression list is no longer followed: %s", refusal)
            await self._stop.wait()
        except DAMAGE as damage:
            await self._make_again(str(damage))
        except lmdb.Error as error:
            self.reason = f"cannot write the lookup's map in {self.store.directory}: {error}"
            log.error("%s", self.reason)
        except (KafkaError, NotRunning, OSError) as error:
            self.reason = f"cannot follow {self._topic}: {str(error) or type(error).__name__}"
            log.warning("%s", self.reason)

    async def _make_again(self, damage: str) -> None:
        log.error("the lookup's map is damaged (%s): making it again from the topic", damage)
        self.ready, self.reason, self._damage = False, "making the map again: its file was damaged", ""
        await self._write(lambda: None)  # nothing writes while the file is replaced
        self.store.rebuild()

    async def _session(self) -> None:
        bootstrap = self._bootstrap()
        cluster, partitions, keeps_ms = await _describe(bootstrap, self._topic)
        places = [TopicPartition(self._topic, number) for number in partitions]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",  # never jump: a place that expired means a fresh start
            max_partition_fetch_bytes=4 * 1024 * 1024,  # a record may have 1 MB
        )
        try:
            await consumer.start()
            consumer.assign(places)
            goal = await self._take_places(consumer, places, cluster, keeps_ms)
            await self._follow(consumer, places, goal, keeps_ms)
        finally:
            await consumer.stop()

    async def _take_places(
        self, consumer: AIOKafkaConsumer, places: list[TopicPartition], cluster: str, keeps_ms: int
    ) -> dict[TopicPartition, int]:
        """Seek to where the map stands, or to the start of the topic with an empty map; the ends to reach."""
        begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        meta, offsets = self.store.meta(), self.store.offsets()
        known = meta.get("partitions")
        if known is not None and len(places) < int(known):
            raise FollowRefused(
                f"{self._topic} has {len(places)} partitions, and had {int(known)} when the map was made: "
                f"their number never falls. Where the data was begun anew, remove {self.store.directory}"
            )
        why = _why_afresh(places, offsets, begins, ends, meta, cluster, keeps_ms, self._now_ms())
        if why is not None:
            if known is not None:
                log.warning("%s: the lookup's map is made again from the topic", why)
            self.ready, offsets = False, {}
            about = {"cluster": cluster.encode(), "partitions": str(len(places)).encode()}
            about["seen_at"] = str(self._now_ms()).encode()  # an interrupted load may be too old, too
            await self._write(lambda: self.store.clear({"identity": self._fingerprint, **about}))
        for place in places:
            consumer.seek(place, offsets.get(place.partition, begins[place]))
        if not self.ready:
            self.reason = "catching up with the suppression list"
        return dict(ends)

    async def _follow(
        self, consumer: AIOKafkaConsumer, places: list[TopicPartition], goal: dict[TopicPartition, int], keeps_ms: int
    ) -> None:
        pace = Pace(self._pace_ms)
        saved: dict[int, int] = {}
        marked = self._now_ms()
        while True:
            fetched = await consumer.getmany(timeout_ms=1_000, max_records=TRANSACTION_RECORDS)
            pace.after(consumer, bool(fetched))
            positions = {place: await consumer.position(place) for place in places}
            seen_at = self._measure(consumer, positions)
            caught_up = not self.ready and all(positions[place] >= goal[place] for place in places)
            mark = seen_at is not None and seen_at - marked >= min(MARK_MS, keeps_ms // 4)
            moved = {place.partition: at for place, at in positions.items() if saved.get(place.partition) != at}
            if moved or caught_up or mark:
                meta = {} if seen_at is None else {"seen_at": str(seen_at).encode()}
                if caught_up:
                    meta["complete"] = b"1"
                records = [record for batch in fetched.values() for record in batch]
                await self._write(lambda r=records, m=moved, t=meta: self._apply(r, m, t, keeps_ms))  # type: ignore[misc]
                saved |= moved
                marked = seen_at or marked
            self.seen_at = seen_at or self.seen_at
            if caught_up:
                self.ready = True
                log.info("the lookup is up to date with the suppression list")
            if self.ready:
                self.reason = ""
            if self._now_ms() - marked > keeps_ms + MARK_MS:
                return  # out of contact for so long that only a new start can tell what was missed

    def _measure(self, consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]) -> int | None:
        """Set `lag`; when (epoch ms) the map was last known to be up to date, None if it is behind."""
        highwaters = {place: consumer.highwater(place) for place in positions}
        if None in highwaters.values():
            return None
        self.lag = sum(max(0, highwaters[place] - at) for place, at in positions.items())
        return None if self.lag else min(consumer.last_poll_timestamp(place) for place in positions)

    def _apply(self, records: Iterable[Any], offsets: dict[int, int], meta: dict[str, bytes], keeps_ms: int) -> None:
        changes: list[Change] = []
        for record in records:
            if record.key and not is_entry_key(record.key):
                continue  # the policy in force stands beside the entries
            try:
                changes.append(read_change(record.key, record.value, record.headers))
            except BadRecord as bad:
                self.rejected += 1
                log.error("%s partition %d offset %d: %s", record.topic, record.partition, record.offset, bad)
        counted = self.store.apply(changes, offsets, now_ms=self._now_ms(), forget_ms=keeps_ms, meta=meta)
        self.applied += counted
        self.outdated += len(changes) - counted

    async def _write(self, step: Callable[[], None]) -> None:
        # Not on the loop: a commit waits for the disk, and lookups are answered meanwhile.
        await asyncio.get_running_loop().run_in_executor(self._writer, step)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _why_afresh(
    places: list[TopicPartition],
    offsets: dict[int, int],
    begins: dict[TopicPartition, int],
    ends: dict[TopicPartition, int],
    meta: dict[str, bytes],
    cluster: str,
    keeps_ms: int,
    now_ms: int,
) -> str | None:
    if "partitions" not in meta:
        return "a new map"
    if len(places) != int(meta["partitions"]):
        return f"the topic has {len(places)} partitions now"  # `mailecho topics grow` moved entries between them
    if meta.get("cluster", b"").decode() != cluster:
        return f"the Kafka cluster is another one ({cluster})"
    for place in places:
        at = offsets.get(place.partition, begins[place])
        if at < begins[place]:
            return f"partition {place.partition} starts at {begins[place]}, the map stands at {at}"
        if at > ends[place]:
            return f"partition {place.partition} ends at {ends[place]}, the map stands at {at}"
    away_ms = now_ms - int(meta.get("seen_at", b"0"))
    if away_ms >= keeps_ms:
        return f"the map was last up to date {away_ms // 1000} s ago, and tombstones are kept {keeps_ms // 1000} s"
    return None


async def _describe(bootstrap: str, topic: str) -> tuple[str, list[int], int]:
    """The cluster's id, the topic's partitions, and for how long (ms) it keeps tombstones."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        cluster = (await admin.describe_cluster())["cluster_id"]
        (found,) = await admin.describe_topics([topic])
        if not found["partitions"]:
            raise NotRunning(f"{topic} does not exist: `mailecho topics apply` creates it")
        partitions = sorted(partition["partition"] for partition in found["partitions"])
        wanted = ConfigResource(ConfigResourceType.TOPIC, topic, {"delete.retention.ms": ""})
        keeps = _DEFAULT_KEEP_MS
        for answer in await admin.describe_configs([wanted]):
            for _code, _message, _type, _name, entries in answer.resources:
                keeps = next((int(entry[1]) for entry in entries if entry[0] == "delete.retention.ms"), keeps)
        return str(cluster), partitions, keeps
    finally:
        await admin.close()
