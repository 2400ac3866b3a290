"""The ledger worker on a real broker: exact through kills at every step, lost and too-new stores, zombies."""

from __future__ import annotations

import asyncio
import os
import shutil
import time

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from mailecho.pipeline.ledger.store import Store
from mailecho.pipeline.side import committed_offsets
from mailecho.schemas.topics import CLASSIFIED, DAY_MS, GROUP_LEDGER, SUPPRESSIONS, partition_of
from tests.agents.harness import Cluster, wait_until
from tests.ledger.histories import START, Fact, Folded, key_of

pytestmark = pytest.mark.kafka

RECEIVED = START + 31 * DAY_MS


def history(count: int, start: int = 0) -> list[tuple[int, bytes]]:
    """(partition, line) of many facts about many recipients, some of them twice."""
    lines = []
    for number in range(start, start + count):
        kind, cause, log = (
            ("bounce", "mailbox_unknown", False) if number % 7 == 0
            else ("bounce", "mailbox_full", False) if number % 3 == 0
            else ("delivery", "", True)
        )  # fmt: skip
        fact = Fact(kind, cause, f"user{number % 40}@example.org", number, number % 300, log=log)
        partition = partition_of(key_of(fact.recipient), 2)
        lines.append((partition, fact.line(RECEIVED + number)))
        if number % 5 == 0:
            lines.append((partition, fact.line(RECEIVED + number + 1)))
    return lines


def feed(cluster: Cluster, lines: list[tuple[int, bytes]], batch: int = 3) -> None:
    for partition in range(2):
        own = [line for p, line in lines if p == partition]
        values = [b"\n".join(own[at : at + batch]) for at in range(0, len(own), batch)]
        cluster.produce(CLASSIFIED, values, partition)


def expected(cluster: Cluster) -> tuple[list[str], dict[str, dict]]:
    """Ids and entries that a fold of `classified` in memory gives."""
    ids, entries = [], {}
    for partition in range(2):
        folded = Folded()
        for record in cluster.records(CLASSIFIED, partition):
            folded.record(record.value)
        ids += [row["event_id"] for row in folded.rows()]
        entries |= folded.entries()
    return sorted(ids), entries


def assert_exact(cluster: Cluster) -> None:
    ids, entries = expected(cluster)
    assert sorted(row["event_id"] for row in cluster.rows()) == ids
    found = cluster.entries()
    for entry in found.values():
        del entry["version"]
    assert found == entries


POINTS = (
    "ledger.before_send",
    "ledger.after_suppressions",
    "ledger.after_send",
    "ledger.before_commit",
    "ledger.after_commit",
)


def test_exact_through_a_kill_at_every_step(cluster: Cluster) -> None:
    for number, name in enumerate(POINTS):
        feed(cluster, history(60, number * 60))
        worker = cluster.worker("ledger", faults=f"{name}:2")
        # with little to read it may never pass the point twice
        wait_until(lambda w=worker: not w.running or cluster.folded_to_the_end(), f"{name} kills or all is folded")  # type: ignore[misc]
        worker.kill()
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "all is folded")
    wait_until(lambda: committed(cluster) == cluster.ends(CLASSIFIED), "its offsets say so, though nothing follows")
    assert worker.stop() == 0, worker.said()
    assert_exact(cluster)


def committed(cluster: Cluster) -> list[int]:
    found = asyncio.run(committed_offsets(cluster.bootstrap, GROUP_LEDGER))
    return [found.get((CLASSIFIED, partition), 0) for partition in range(cluster.partitions)]


def test_a_lost_a_truncated_and_a_too_new_store(cluster: Cluster) -> None:
    stores = cluster.data_dir / "ledger" / "0"
    feed(cluster, history(120))
    worker = cluster.worker("ledger", faults="ledger.after_suppressions:1")
    wait_until(lambda: not worker.running, "the worker dies after it sent suppressions")
    shutil.rmtree(stores)  # so their versions are above the last emission
    feed(cluster, history(60, 120))
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "all is folded after the store was lost")
    worker.kill()
    for store in stores.glob("p*/data.mdb"):
        os.truncate(store, os.path.getsize(store) // 2)
    kept = cluster.data_dir / "kept"
    feed(cluster, history(60, 180))
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "all is folded after the store was truncated")
    worker.kill()
    shutil.copytree(stores, kept)
    assert_exact(cluster)
    # A store ahead of the emissions: as if `events` had lost its tail. Nothing is emitted twice or left out.
    feed(cluster, history(30, 240))
    worker = cluster.worker("ledger", faults="ledger.before_send:1")
    wait_until(lambda: not worker.running, "the worker dies with nothing sent")
    for directory in stores.glob("p*"):
        with Store(directory) as store, store.begin() as tx:
            tx.put("meta", b"next", (int.from_bytes(tx.get("meta", b"next") or b"", "big") + 3).to_bytes(8, "big"))
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "all is folded after the store was ahead")
    assert worker.stop() == 0, worker.said()
    assert "is ahead of the last emission" in worker.said()
    assert_exact(cluster)


def test_a_zombie_that_wakes_after_its_successor(cluster: Cluster) -> None:
    feed(cluster, history(60))
    zombie = cluster.worker("ledger", instance="a")
    wait_until(cluster.folded_to_the_end, "the first worker folds")
    zombie.pause()
    feed(cluster, history(60, 60))
    successor = cluster.worker("ledger", instance="b")
    wait_until(cluster.folded_to_the_end, "the successor takes over when the session has expired")
    # what a zombie with an old store would write: an old version of an entry after the newer one
    key, entry = next(iter(sorted(cluster.entries().items())))
    partition = partition_of(entry["subject_key"], 2)
    old = next(r for r in cluster.records(SUPPRESSIONS, partition) if r.key.decode() == key)
    if orjson.loads(old.value)["version"] == entry["version"]:
        old_value = orjson.dumps({**entry, "version": -1, "state": "watch"})
    else:
        old_value = old.value

    async def write() -> None:
        async with AIOKafkaProducer(bootstrap_servers=cluster.bootstrap) as producer:
            await producer.send_and_wait(
                SUPPRESSIONS,
                old_value,
                key=key.encode(),
                partition=partition,
                headers=[("version", str(orjson.loads(old_value)["version"]).encode())],
            )

    asyncio.run(write())

    def repaired() -> bool:
        last = [r for r in cluster.records(SUPPRESSIONS, partition) if r.key.decode() == key][-1]
        return bool(orjson.loads(last.value)["version"] == entry["version"])

    wait_until(repaired, "the owner sends the newer version again")
    zombie.wake()
    feed(cluster, history(30, 120))
    wait_until(cluster.folded_to_the_end, "all is folded with the zombie awake")
    zombie.kill()
    assert successor.stop() == 0, successor.said()
    assert_exact(cluster)


def test_a_foreign_record_is_a_dead_letter_and_its_number_is_answered(cluster: Cluster) -> None:
    good = history(10)
    feed(cluster, good)
    cluster.produce(CLASSIFIED, [b"somebody else's bytes", b'{"row":{"event_id":"x"}}'], 0)
    feed(cluster, history(10, 10))
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "all is folded")
    assert worker.stop() == 0, worker.said()
    letters = cluster.records(f"{CLASSIFIED}.dlq")
    assert [letter.value for letter in letters] == [b"somebody else's bytes", b'{"row":{"event_id":"x"}}']
    assert dict(letters[0].headers)["reason"] == b"unreadable"
    assert b"no classified line" in dict(letters[0].headers)["detail"]


def test_a_newer_major_schema_is_refused_by_name(cluster: Cluster) -> None:
    cluster.produce(CLASSIFIED, [b""], 0, headers=[("schema", b"classified/2.0")])
    worker = cluster.worker("ledger")
    wait_until(lambda: not worker.running, "the worker refuses")
    assert worker.process.returncode == 78
    assert "classified/2.0" in worker.said()
    assert "upgrade this worker first" in worker.said()


def test_another_identity_key_is_refused(cluster: Cluster) -> None:
    cluster.produce(CLASSIFIED, [b""], 0, headers=[("schema", b"classified/1.0"), ("identity", b"0123456789abcdef")])
    worker = cluster.worker("ledger")
    wait_until(lambda: not worker.running, "the worker refuses")
    assert worker.process.returncode == 78
    assert "identity_key" in worker.said()


@pytest.mark.parametrize("offset", [0, 1_000_000])
def test_committed_offsets_that_another_tool_set_do_not_matter(cluster: Cluster, offset: int) -> None:
    """The store and the last emission say where to go on; Kafka's offset is only what lag is measured by."""
    feed(cluster, history(60))
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "the first feed is folded")
    assert worker.stop() == 0, worker.said()

    async def commit() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=cluster.bootstrap, group_id=GROUP_LEDGER)
        await consumer.start()
        try:
            places = [TopicPartition(CLASSIFIED, partition) for partition in range(2)]
            consumer.assign(places)
            await consumer.commit(dict.fromkeys(places, offset))
        finally:
            await consumer.stop()

    time.sleep(6)  # the static member's session ends: a group with members takes no commits from others
    asyncio.run(commit())
    feed(cluster, history(60, 60))
    worker = cluster.worker("ledger")
    wait_until(cluster.folded_to_the_end, "the second feed is folded")
    assert worker.stop() == 0, worker.said()
    assert_exact(cluster)
