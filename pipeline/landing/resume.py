"""Sets the lander's group to where `landed` ends: the way on after a refusal.

    mailecho lander --resume

For offsets that were reset or expired, a ClickHouse that was restored or lost its tail, a recreated
topic, a gap in the emission numbers that is accepted. All that the topic holds above is looked up by
id before it is inserted, so that nothing is counted twice, however far the two had come apart. The
first emission number may then be any above the watermark.
"""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import NotRunning, kafka_bootstrap
from mailecho.pipeline.landing.database import DatabaseUnavailable, write_client
from mailecho.pipeline.landing.insert import Inserter
from mailecho.pipeline.landing.intents import Progress
from mailecho.pipeline.landing.start import Landed
from mailecho.pipeline.partitions import partitions_of
from mailecho.schemas import topics


class ResumeRefused(RuntimeError):
    """The group cannot be set now; the message says the way on."""


def place(first: int, end: int, landed: Landed | None) -> tuple[int, Progress]:
    """The offset and progress to commit for a partition that retains `[first, end)`."""
    if landed is None:
        return first, Progress(lookup_below=end, resumed=True)
    # a topic that ends below was recreated: all of it is above what landed
    offset = landed.end if landed.end <= end else first
    return offset, Progress(landed.watermark, jump=True, lookup_below=end, resumed=True)


async def resume(settings: Settings, *, topic: str = topics.EVENTS, group: str = topics.GROUP_LANDER) -> dict[int, int]:
    """Set the group; gives the offset by partition. Landers must be stopped.

    Raises ResumeRefused where landers still run, NotRunning, DatabaseUnavailable, and the clients' errors.
    """
    bootstrap = kafka_bootstrap(settings)
    places, missing = await partitions_of(bootstrap, [topic])
    if missing:
        raise ResumeRefused(f"the topic {topic} cannot be described: does it exist? `mailecho topics apply` makes it")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False, auto_offset_reset="none"
    )
    await consumer.start()
    try:
        consumer.assign(places)
        first, end = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        landed = await asyncio.to_thread(_landed, settings, topic, [where.partition for where in places])
        chosen = {where: place(first[where], end[where], landed.get(where.partition)) for where in places}
        try:
            await consumer.commit({w: OffsetAndMetadata(offset, p.dumps()) for w, (offset, p) in chosen.items()})
        except CommitFailedError as error:
            raise ResumeRefused(
                f"the group {group} has members: stop all landers and wait "
                f"{settings.kafka.session_timeout_ms / 1000:g} s, after which Kafka forgets them"
            ) from error
        return {where.partition: offset for where, (offset, _) in sorted(chosen.items())}
    finally:
        await consumer.stop()


def _landed(settings: Settings, topic: str, partitions: list[int]) -> dict[int, Landed]:
    inserter = Inserter(write_client(settings))
    try:
        return inserter.last_landed(topic, partitions)
    finally:
        inserter.close()


def run(settings: Settings) -> None:
    """Set the group as the settings say, and print where it stands. Exits with a message where it cannot."""
    try:
        placed = asyncio.run(resume(settings))
    except (ResumeRefused, NotRunning, DatabaseUnavailable, KafkaError) as error:
        raise SystemExit(f"not resumed: {error}") from error
    for partition, offset in placed.items():
        print(f"{topics.EVENTS}[{partition}]: the lander goes on at offset {offset}, looking up what is above")  # noqa: T201
