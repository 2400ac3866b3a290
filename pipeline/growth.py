"""More partitions for a system that holds data: `mailecho topics grow`.

A recipient's place follows from the number of partitions. So that only new ones take over keys, and each from one
old one (its parent), the new number is a multiple of the old. While all workers stand still, every new partition q of
parent p gets

* in `classified` the parent's records that are retained, at the same offsets, with only the lines whose keys move to
  q, and one empty record more: so numbers and versions go on above those of the parent, and the ids are known;
* in `suppressions` the entries whose keys move, under the number of that last record; the parent gets tombstones;
* in `events` one empty record that answers the last one: what is below it has been emitted, by the parent.

The rest is what a lost store does: it is restored from these three, and leaves out the lines that moved away.

The order makes a run that was killed harmless: `events` grows last, and workers refuse to start where the three
topics disagree. Run again, it goes on where it was: offsets in `classified` say how far it had come, and entries have
the same version each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from aiokafka.errors import CommitFailedError
from aiokafka.structs import OffsetAndMetadata

from mailecho.pipeline.config import Settings
from mailecho.pipeline.emission import last_emission
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.faults import point
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.members import has_members
from mailecho.pipeline.partitions import partitions_of
from mailecho.pipeline.side import Side, side_reader
from mailecho.pipeline.topics import FIXED, apply_topics
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import is_entry_key, policy_key
from mailecho.schemas.topics import (
    CLASSIFIED,
    EVENTS,
    GROUP_CLASSIFY,
    GROUP_LANDER,
    GROUP_LEDGER,
    SUPPRESSIONS,
    registry,
)

_GROUPS = (GROUP_CLASSIFY, GROUP_LEDGER, GROUP_LANDER)

#: Looks, 0.1 s apart, for partitions that were just made.
_TRIES = 300

#: (key, value, timestamp, headers) of a record to write.
_Out = tuple[bytes | None, bytes | None, int, list[tuple[str, bytes]]]


class GrowthRefused(RuntimeError):
    """The partitions cannot be added now; the message says the way on."""


async def grow(settings: Settings, wanted: int, tell: Callable[[str], None] = lambda _: None) -> None:
    """Grow from `kafka.partitions` of the settings to `wanted`; `tell` is told each step.

    Returns at once where it is done already. Raises GrowthRefused, IdentityKeyError, NotRunning and KafkaError.
    """
    old = settings.kafka.partitions
    bootstrap = kafka_bootstrap(settings)
    if wanted <= old or wanted % old:
        raise GrowthRefused(
            f"--partitions {wanted}: give a multiple of the {old} there are, {2 * old} for example: so each new "
            "partition takes its keys from one old one"
        )
    places = Places(load_identity(settings), wanted)
    await _check_counts(bootstrap, old, wanted)
    await _check_stopped(bootstrap)
    async with side_reader(bootstrap) as side:
        ends = {p: await _drained_end(side, p) for p in range(old)}
        writer = _Writer(bootstrap)
        await writer.start()
        try:
            await _add_partitions(bootstrap, CLASSIFIED, wanted)
            for q in range(old, wanted):
                tell(f"{CLASSIFIED}[{q}]: lines that move from partition {q % old}")
                await _mirror(side, writer, places, q % old, q, ends[q % old], bootstrap)
            await _add_partitions(bootstrap, SUPPRESSIONS, wanted)
            for p in range(old):
                tell(f"{SUPPRESSIONS}[{p}]: entries that move")
                await _move_entries(side, writer, places, p, range(p + old, wanted, old), ends[p])
            # an `events` that is empty is refused where the group has an offset: a kill in between starts nothing
            await _commit(bootstrap, {q: ends[q % old] + 1 for q in range(old, wanted)})
            point("grow.before_events")
            await _add_partitions(bootstrap, EVENTS, wanted)
            point("grow.after_events")
            for q in range(old, wanted):
                if (await side.span(EVENTS, q))[1] == 0:
                    await writer.send(EVENTS, q, [await _answer(side, q)])
        finally:
            await writer.stop()
    larger = settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"partitions": wanted})})
    for change in await apply_topics(bootstrap, larger):
        tell(str(change))


async def _check_counts(bootstrap: str, old: int, wanted: int) -> None:
    places, missing = await partitions_of(bootstrap, FIXED)
    counts = {topic: sum(place.topic == topic for place in places) for topic in FIXED}
    if missing or not set(counts.values()) <= {old, wanted}:
        raise GrowthRefused(
            f"kafka.partitions is {old}, and the topics have {counts}: set it to the number they had before"
        )


async def _check_stopped(bootstrap: str) -> None:
    for group in _GROUPS:
        if await has_members(bootstrap, group):
            raise GrowthRefused(
                f"the group {group} has members: stop the classify workers, let the ledger fold what is there (lag 0), "
                "stop everything but the broker, and wait until Kafka forgets them (kafka.session_timeout_ms)"
            )


async def _drained_end(side: Side, partition: int) -> int:
    """The end of a partition of `classified` whose every record is answered. Raises GrowthRefused."""
    _, end = await side.span(CLASSIFIED, partition)
    emission = await last_emission(side, partition)
    answered = emission.n + 1 if emission else 0
    if answered != end:
        raise GrowthRefused(
            f"{CLASSIFIED}[{partition}]: {end - answered} records are not folded yet. Start the ledger workers without "
            "classify, until `mailecho status` shows lag 0, and stop them"
        )
    return end


async def _add_partitions(bootstrap: str, topic: str, wanted: int) -> None:
    places, _ = await partitions_of(bootstrap, [topic])
    if len(places) == wanted:
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(wanted)})
        for _ in range(_TRIES):
            if len((await admin.describe_topics([topic]))[0]["partitions"]) == wanted:
                return
            await asyncio.sleep(0.1)
        raise GrowthRefused(f"{topic} was given {wanted} partitions, and the brokers do not show them: run this again")
    finally:
        await admin.close()


async def _mirror(side: Side, writer: _Writer, places: Places, parent: int, q: int, end: int, bootstrap: str) -> None:
    """Fill `classified` of q up to and with offset `end`, from wherever an earlier run came to."""
    start, _ = await side.span(CLASSIFIED, parent)
    _, at = await side.span(CLASSIFIED, q)
    times = 0
    async for records in side.read(CLASSIFIED, parent, max(at, start), end):
        out: list[_Out] = []
        for record in records:
            times = record.timestamp
            out += [_empty(times)] * (record.offset - at)  # below what is retained
            out.append((None, places.only(record.value or b"", q), times, list(record.headers)))
            at = record.offset + 1
        await writer.send(CLASSIFIED, q, out)
        point("grow.after_lines")
    if at <= end:
        await writer.send(CLASSIFIED, q, [_empty(times or await _last_time(side, parent, end))] * (end + 1 - at))
    _, found = await side.span(CLASSIFIED, q)
    if found != end + 1:
        raise GrowthRefused(f"{CLASSIFIED}[{q}] ends at {found}, not at {end + 1}: something else writes to it")
    if start:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            await admin.start()
            await admin.delete_records({TopicPartition(CLASSIFIED, q): RecordsToDelete(start)})
        finally:
            await admin.close()


async def _last_time(side: Side, partition: int, end: int) -> int:
    async for records in side.read(CLASSIFIED, partition, end - 1, end):
        return int(records[-1].timestamp)
    return 0


async def _move_entries(
    side: Side, writer: _Writer, places: Places, parent: int, children: Iterable[int], end: int
) -> None:
    newest: dict[bytes, tuple[int, bytes | None]] = {}
    first, last = await side.span(SUPPRESSIONS, parent)
    time = 0
    async for records in side.read(SUPPRESSIONS, parent, first, last):
        for record in records:
            version = int(h.get(record.headers, h.VERSION) or -1)
            time = record.timestamp
            if record.key and version >= newest.get(record.key, (-1, b""))[0]:
                newest[record.key] = (version, record.value)
    moved: dict[int, list[_Out]] = {q: [] for q in children}
    gone: list[_Out] = []
    policy = newest.get(policy_key(parent), (-1, None))[1]
    for q, out in moved.items():
        if policy is not None:
            out.append((policy_key(q), policy, time, _headers(end)))
    for key, (version, value) in newest.items():
        if value is None or not is_entry_key(key):
            continue
        place = places.of_entry(key)
        if place in moved:
            entry = {**orjson.loads(value), "version": end}
            moved[place].append((key, orjson.dumps(entry), time, _headers(end)))
            gone.append((key, None, time, _headers(version)))  # below the copy's, whoever reads it first
    for q, out in moved.items():
        await writer.send(SUPPRESSIONS, q, out)
    point("grow.after_entries")
    await writer.send(SUPPRESSIONS, parent, gone)


async def _answer(side: Side, q: int) -> _Out:
    """The one record of `events` that answers the last of q's `classified`."""
    _, end = await side.span(CLASSIFIED, q)
    time = await _last_time(side, q, end)
    headers = [
        h.schema_header("event"),
        (h.EMISSION, str(end - 1).encode()),
        (h.ANSWERED, str(time).encode()),
        (h.ROWS, b"0"),
        (h.CHANGES_AT, b"0"),
        (h.TOTALS, b"{}"),
    ]
    return None, b"", time, headers


async def _commit(bootstrap: str, offsets: dict[int, int]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=GROUP_LEDGER, enable_auto_commit=False)
    await consumer.start()
    try:
        places = {TopicPartition(CLASSIFIED, q): OffsetAndMetadata(offset, "") for q, offset in offsets.items()}
        consumer.assign(list(places))
        await consumer.commit(places)
    except CommitFailedError as error:
        raise GrowthRefused(f"a ledger worker has started meanwhile: stop it, and run this again ({error})") from error
    finally:
        await consumer.stop()


def _empty(time: int) -> _Out:
    return None, b"", time, [h.schema_header("classified")]


def _headers(version: int) -> list[tuple[str, bytes]]:
    return [h.schema_header("suppression"), (h.VERSION, str(version).encode())]


class _Writer:
    """Appends records with their times, in order, each batch acknowledged before the next."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_batch_size=1024 * 1024,
            max_request_size=registry()[EVENTS].max_message_bytes,
        )

    async def start(self) -> None:
        await self._producer.start()

    async def stop(self) -> None:
        await self._producer.stop()

    async def send(self, topic: str, partition: int, records: list[_Out]) -> None:
        """Return when all are acknowledged."""
        at = 0
        while at < len(records):
            batch = self._producer.create_batch()
            while at < len(records):
                key, value, time, headers = records[at]
                if batch.append(key=key, value=value, timestamp=time or None, headers=headers) is None:
                    break
                at += 1
            batch.close()
            await (await self._producer.send_batch(batch, topic, partition=partition))
