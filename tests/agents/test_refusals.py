"""Where going on would lose or double something, a worker ends with 78 and says the way on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from mailecho.pipeline.topics import apply_topics
from mailecho.schemas.topics import CLASSIFIED, EVENTS, RAW_DELIVERY, SUPPRESSIONS
from tests.agents.harness import Cluster, Worker, wait_until
from tests.agents.test_classify_worker import SOURCE, all_committed, delivery, lines
from tests.agents.test_ledger_worker import feed, history

pytestmark = pytest.mark.kafka


def administrate(cluster: Cluster, call: Callable[[AIOKafkaAdminClient], Any]) -> None:
    async def run() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
        await admin.start()
        try:
            await call(admin)
        finally:
            await admin.close()

    asyncio.run(run())


def expire(cluster: Cluster, topic: str, before: int) -> None:
    """Delete what is below an offset of each partition, as retention does."""
    places = {TopicPartition(topic, p): RecordsToDelete(before) for p in range(cluster.partitions)}
    administrate(cluster, lambda admin: admin.delete_records(places))


def recreate(cluster: Cluster, topic: str) -> None:
    """Delete a topic and make it anew, empty."""
    administrate(cluster, lambda admin: admin.delete_topics([topic]))

    def made() -> bool:
        changes = asyncio.run(apply_topics(cluster.bootstrap, cluster.settings()))
        return any(change.topic == topic for change in changes)

    wait_until(made, f"{topic} is gone, and made anew")
    wait_until(lambda: cluster.ends(topic) == [0] * cluster.partitions, "it is empty")


def refuses(worker: Worker, *words: str) -> None:
    wait_until(lambda: not worker.running, "it refuses")
    assert worker.process.returncode == 78, worker.said()[-2000:]
    for word in words:
        assert word in worker.said()


def folded(cluster: Cluster) -> None:
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "all is folded")
    assert worker.stop() == 0, worker.said()


@pytest.mark.faults(full=True)
def test_raw_records_that_expired_unread_stop_classify_until_the_gap_is_accepted(cluster: Cluster) -> None:
    cluster.produce(RAW_DELIVERY, [delivery(n) for n in range(20)], 0, SOURCE)
    cluster.produce(RAW_DELIVERY, [delivery(n) for n in range(20, 40)], 1, SOURCE)
    worker = cluster.worker("classify")
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "all is committed")
    assert worker.stop() == 0, worker.said()
    for partition in range(2):
        numbers = range(40 + 20 * partition, 60 + 20 * partition)
        cluster.produce(RAW_DELIVERY, [delivery(n) for n in numbers], partition, SOURCE)
    expire(cluster, RAW_DELIVERY, 25)
    refuses(cluster.worker("classify"), "expired before they were read", "MAILECHO_ACCEPT_GAP")
    worker = cluster.worker("classify", MAILECHO_ACCEPT_GAP="true")
    wait_until(lambda: all_committed(cluster, RAW_DELIVERY), "the rest is read")
    assert worker.stop() == 0, worker.said()
    found = sorted((line["row"]["raw_partition"], line["row"]["raw_offset"]) for _, line in lines(cluster))
    assert found == [(p, offset) for p in range(2) for offset in range(40) if not 20 <= offset < 25]


@pytest.mark.faults(full=True)
def test_classified_that_expired_unread_stops_the_ledger_until_the_gap_is_accepted(cluster: Cluster) -> None:
    feed(cluster, history(60))
    folded(cluster)
    before = [len(cluster.emissions(p)) for p in range(2)]
    feed(cluster, history(60, 60))
    expire(cluster, CLASSIFIED, max(before) + 3)
    refuses(cluster.worker("ledger"), "expired before they were read", "MAILECHO_ACCEPT_GAP")
    assert [len(cluster.emissions(p)) for p in range(2)] == before


def test_a_recreated_list_is_sent_again_and_other_recreated_topics_are_refused(cluster: Cluster) -> None:
    feed(cluster, history(60))
    folded(cluster)
    before = cluster.entries()
    assert before
    recreate(cluster, SUPPRESSIONS)
    worker = cluster.worker("ledger")
    wait_until(lambda: len(cluster.entries()) == len(before), "the entries of the store are sent again")
    assert worker.stop() == 0, worker.said()
    assert cluster.entries() == before
    ends = cluster.ends(EVENTS)
    recreate(cluster, CLASSIFIED)
    for start, count in ((0, 0), (60, 9), (70, 90)):  # empty, shorter and longer than what was emitted
        feed(cluster, history(count, start))
        refuses(cluster.worker("ledger"), CLASSIFIED, "was recreated")
    assert cluster.ends(EVENTS) == ends, "nothing was emitted under a number that was used"
    recreate(cluster, EVENTS)
    refuses(cluster.worker("ledger"), EVENTS, "was recreated")
    assert cluster.ends(EVENTS) == [0, 0]
