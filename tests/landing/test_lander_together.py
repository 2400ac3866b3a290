"""Ranges of several partitions that land together, and come apart: every row once, whoever finishes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewTopic
from aiokafka.structs import OffsetAndMetadata
from clickhouse_connect.driver.client import Client

from mailecho.schemas.topics import dlq
from tests.fixtures_kafka import KafkaProcess
from tests.landing.kit import (
    LanderProcess,
    administrate,
    assert_exact,
    change,
    consume,
    emission,
    expire,
    grow,
    offset_landed,
    produce,
    row,
    until,
)

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

PARTS = 4
ROWS = 5

Start = Callable[..., LanderProcess]


@pytest.fixture
def topic(kafka: KafkaProcess) -> str:
    """A topic of PARTS partitions."""
    name = kafka.topic()
    grow(kafka.bootstrap, name, PARTS)
    return name


def numbers(part: int, emissions: range) -> list[int]:
    return [(n * PARTS + part) * ROWS + i for n in emissions for i in range(ROWS)]


def feed(kafka: KafkaProcess, topic: str, emissions: range) -> None:
    """So many emissions into each partition, one change each."""
    for part in range(PARTS):
        records = [
            emission(n, [row(topic, i) for i in numbers(part, range(n, n + 1))], [change(topic, n * PARTS + part)])
            for n in emissions
        ]
        produce(kafka.bootstrap, topic, records, partition=part)


def landed(client: Client, topic: str, end: int) -> bool:
    return all(offset_landed(client, topic, part) >= end for part in range(PARTS))


def exact(client: Client, topic: str, emissions: int, rejected: int = 0, without: tuple[int, ...] = ()) -> None:
    wanted = [i for i in range(emissions * PARTS * ROWS) if i not in without]
    assert_exact(client, topic, wanted, changes=emissions * PARTS, rejected=rejected)


def tokens(client: Client, topic: str) -> int:
    """How many inserts brought in the ranges."""
    sql = "SELECT uniqExact(token) FROM landed WHERE topic = {t:String}"
    return int(client.query(sql, parameters={"t": topic}).first_row[0])


def test_one_insert_brings_in_all_partitions(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    feed(kafka, topic, range(3))
    lander = start(MAILECHO_LANDER__FLUSH_SECONDS="2")
    until(lambda: landed(client, topic, 3), "landed", alive=lander.alive)
    assert lander.stop() == 0, lander.text()
    exact(client, topic, 3)
    assert tokens(client, topic) < PARTS


@pytest.mark.parametrize(
    "point", ["before_intent", "after_intent", "after_insert", "after_changes", "after_landed", "after_commit"]
)
def test_two_landers_finish_what_one_left_open(
    kafka: KafkaProcess, client: Client, topic: str, start: Start, point: str
) -> None:
    feed(kafka, topic, range(4))
    assert start(MAILECHO_LANDER__FLUSH_SECONDS="2", MAILECHO_FAULTS=f"lander.{point}").ends() == -9
    # other members, so that the partitions of the dead one are shared out anew
    landers = [start(MAILECHO_INSTANCE=name) for name in ("1", "2")]
    feed(kafka, topic, range(4, 8))
    until(lambda: landed(client, topic, 8), "landed", alive=lambda: all(lander.alive() for lander in landers))
    said = [lander.text() for lander in landers]
    assert [lander.stop() for lander in landers] == [0, 0], said
    exact(client, topic, 8)
    if point in ("after_intent", "after_insert", "after_changes"):
        assert any("waiting for the range with which partition 0 leads" in text for text in said), said


def test_a_bad_row_in_one_partition_is_found_while_two_landers_share_the_work(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    administrate(kafka.bootstrap, lambda admin: admin.create_topics([NewTopic(dlq(topic), 1, 1)]))
    feed(kafka, topic, range(2))
    bad = numbers(2, range(2, 3))
    rows = [row(topic, i, **({"smtp_code": "none"} if i == bad[1] else {})) for i in bad]
    for part in range(PARTS):
        some = rows if part == 2 else [row(topic, i) for i in numbers(part, range(2, 3))]
        produce(kafka.bootstrap, topic, [emission(2, some, [change(topic, 2 * PARTS + part)])], partition=part)
    faults = "lander.after_exclusion"
    assert start(MAILECHO_LANDER__FLUSH_SECONDS="2", MAILECHO_FAULTS=faults).ends() == -9
    landers = [start(MAILECHO_INSTANCE=name) for name in ("1", "2")]
    until(lambda: landed(client, topic, 3), "landed", alive=lambda: all(lander.alive() for lander in landers))
    assert [lander.stop() for lander in landers] == [0, 0]
    exact(client, topic, 3, rejected=1, without=(bad[1],))
    rejected = client.query(
        "SELECT partition FROM landed WHERE topic = {t:String} AND rejected = 1", parameters={"t": topic}
    ).result_rows
    assert rejected == [(2,)], "it is counted to the partition that it is of"
    assert consume(kafka.bootstrap, dlq(topic), 1)[0].value == rows[1]


def test_a_range_that_can_never_be_repeated_leaves_the_others_to_be_looked_up(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    feed(kafka, topic, range(4))
    assert start(MAILECHO_LANDER__FLUSH_SECONDS="2", MAILECHO_FAULTS="lander.after_changes").ends() == -9
    # of partition 3 nothing is left of what was to land with the rest, days later
    expire(kafka.bootstrap, topic, 4, partition=3)
    lander = start(MAILECHO_ACCEPT_GAP="true")
    feed(kafka, topic, range(4, 6))
    until(lambda: landed(client, topic, 6), "landed", alive=lander.alive)
    assert lander.stop() == 0, lander.text()
    assert "offsets 0 to 3 have expired" in lander.text()
    # it had been inserted, only `landed` did not say so: it is looked up, so nothing comes twice
    found = client.query("SELECT raw_offset FROM events WHERE tenant = {t:String}", parameters={"t": topic})
    assert sorted(number for (number,) in found.result_rows) == list(range(6 * PARTS * ROWS))


def test_the_group_takes_all_intents_or_none(kafka: KafkaProcess, topic: str) -> None:
    """What a landing of several partitions rests on: Kafka writes the offsets of one request in one batch."""
    places = [TopicPartition(topic, part) for part in range(PARTS)]

    async def commit() -> list[tuple[int, str]]:
        consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id=topic, enable_auto_commit=False)
        async with consumer:
            consumer.assign(places)
            await consumer.commit({where: OffsetAndMetadata(7, f"m{where.partition}") for where in places})
        written = AIOKafkaConsumer(
            "__consumer_offsets", bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
        )
        batches = []
        async with written, asyncio.timeout(30):
            while len(batches) < PARTS:
                for records in (await written.getmany(timeout_ms=500)).values():
                    # key: version, group, topic, partition (OffsetCommitKey)
                    batches += [(r.partition, r.timestamp) for r in records if topic.encode() in (r.key or b"")[2:]]
        return batches

    batches = asyncio.run(commit())
    assert len(batches) == PARTS
    assert len(set(batches)) == 1, "one partition of the log, one append time: one batch"
