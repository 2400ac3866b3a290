"""Consumer groups: how soon members learn of partitions, and whether there are members.

The latter is asked by committing what stands there: aiokafka 0.14 cannot read DescribeGroups of static members
(its schema lacks their instance id).
"""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    CommitFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

#: How old a member's knowledge of the topics may be, ms. The leader of a group shares out the partitions that it knows
#: of: one that joined while its broker was starting may know of none, and mends that when it asks again, by default
#: after five minutes.
METADATA_MS = 15_000


async def offsets_of(bootstrap: str, group: str, *, tries: int = 60) -> dict[TopicPartition, OffsetAndMetadata]:
    """What a group has committed, with its metadata. Raises KafkaError where the broker does not answer.

    A coordinator that is not ready is asked `tries` times, half a second apart.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        for patience in range(tries):
            try:
                found = await admin.list_consumer_group_offsets(group)
                break
            except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
                # a new cluster makes its offsets topic at the first question
                if patience == tries - 1:
                    raise
                await asyncio.sleep(0.5)
    finally:
        await admin.close()
    return {where: at for where, at in found.items() if at.offset >= 0}


async def has_members(bootstrap: str, group: str) -> bool:
    """Whether somebody is in the group; a process that was stopped is, until its session ends.

    False for one that has never committed. Raises KafkaError.
    """
    committed = await offsets_of(bootstrap, group)
    if not committed:
        return False
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(list(committed))
        try:
            await consumer.commit(dict(committed.items()))
        except CommitFailedError:
            return True
        return False
    finally:
        await consumer.stop()
