"""The lander where Kafka and ClickHouse do not agree: it looks up, gives up with a word, or is resumed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from mailecho.pipeline.config import KafkaSettings
from mailecho.pipeline.landing.intents import Intent, Progress
from mailecho.pipeline.landing.resume import ResumeRefused, resume
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess
from tests.landing.kit import (
    LanderProcess,
    assert_exact,
    committed,
    emission,
    expire,
    grow,
    lands,
    offset_landed,
    produce,
    row,
    set_offset,
    until,
    usual,
)

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

Start = Callable[..., LanderProcess]
NUMBERS = [n * 10 + i for n in range(12) if n % 7 != 6 for i in range(10)]

#: An intent of long ago, whose token ClickHouse cannot know: its timestamp is another.
FORGOTTEN = Intent(end=12, timestamp=0, at=0)


def test_an_old_intent_is_looked_up_and_not_repeated(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(12)))
    assert start(MAILECHO_FAULTS="lander.after_changes", MAILECHO_LANDER__FLUSH_ROWS="1000").ends() == -9
    offset, metadata = committed(kafka.bootstrap, topic)
    assert (offset, Progress.loads(metadata).watermark) == (0, None)
    set_offset(kafka.bootstrap, topic, 0, Progress(None, intent=FORGOTTEN).dumps())
    lander = start()
    lands(client, topic, lander, 12)
    assert "110 of 110 events present, 110 left out" in lander.text()
    assert_exact(client, topic, NUMBERS, changes=3)


def test_what_is_missing_of_an_old_intent_is_inserted(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(12)))
    some = b"".join(row(topic, number) + b"\n" for number in range(25, 55))
    client.raw_insert("events", insert_block=some, fmt="JSONEachRow")
    set_offset(kafka.bootstrap, topic, 0, Progress(None, intent=FORGOTTEN).dumps())
    # dies after the rest was inserted: the next one knows from the metadata what the rest was
    assert start(MAILECHO_FAULTS="lander.after_insert").ends() == -9
    lander = start()
    lands(client, topic, lander, 12)
    assert_exact(client, topic, NUMBERS, changes=3)


def test_rows_that_expired_unread_stop_it_until_the_gap_is_accepted(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(6)))
    lands(client, topic, start(), 6)
    produce(kafka.bootstrap, topic, usual(topic, range(6, 11)))
    expire(kafka.bootstrap, topic, 9)
    lander = start()
    assert lander.ends() == 1
    assert "3 records expired unread" in lander.text()
    # a zombie's lower number is the first that is retained: it must not count either
    accepting = start(MAILECHO_ACCEPT_GAP="true", MAILECHO_FAULTS="lander.after_intent")
    assert accepting.ends() == -9
    lands(client, topic, start(), 11)
    assert_exact(client, topic, [n * 10 + i for n in (0, 1, 2, 3, 4, 5, 9, 10) for i in range(10)], changes=3)


def test_resume_after_clickhouse_lost_its_tail(
    kafka: KafkaProcess, clickhouse: EmbeddedClickHouse, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(4)))
    lands(client, topic, start(), 4)
    produce(kafka.bootstrap, topic, usual(topic, range(4, 12)))
    lands(client, topic, start(), 12)
    # a restored backup has the rows of a range whose row of `landed` it has not
    client.command(
        "ALTER TABLE landed DELETE WHERE topic = {t:String} AND s >= 4",
        parameters={"t": topic},
        settings={"mutations_sync": 1},
    )
    lander = start()
    assert lander.ends() == 1
    assert "ClickHouse was restored" in lander.text()
    settings = clickhouse.settings(kafka=KafkaSettings(bootstrap_servers=kafka.bootstrap))

    def resumed() -> bool:
        try:
            return asyncio.run(resume(settings, topic=topic, group=topic)) == {0: 4}
        except ResumeRefused:
            return False  # as long as Kafka takes the lander for a member

    until(resumed, "the group has no members")
    produce(kafka.bootstrap, topic, usual(topic, range(12, 13)))
    lands(client, topic, start(), 13)
    assert_exact(client, topic, [*NUMBERS, *range(120, 130)], changes=4)


def test_landers_share_partitions_and_take_over_what_another_left(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    parts = 4
    grow(kafka.bootstrap, topic, parts)

    def more(numbers: range) -> None:
        for part in range(parts):
            records = [emission(n, [row(topic, (n * parts + part) * 5 + i) for i in range(5)]) for n in numbers]
            produce(kafka.bootstrap, topic, records, partition=part)

    def landed(end: int) -> bool:
        return all(offset_landed(client, topic, part) >= end for part in range(parts))

    first = start()
    more(range(40))
    until(lambda: landed(40), "one lander lands all", alive=first.alive)
    second = start(MAILECHO_INSTANCE="1", MAILECHO_FAULTS="lander.after_insert:3")
    until(lambda: first.text().count("Joined group") > 1, "the partitions are shared", alive=first.alive)
    more(range(40, 80))
    assert second.ends() == -9
    until(lambda: landed(80), "the first takes over what the second left open", alive=first.alive)
    third = start(MAILECHO_INSTANCE="1")
    until(lambda: "Setting newly assigned partitions" in third.text(), "it has joined", alive=third.alive)
    more(range(80, 120))
    until(lambda: landed(120), "both land", alive=first.alive)
    assert first.stop() == 0, first.text()
    assert third.stop() == 0, third.text()
    assert_exact(client, topic, range(120 * parts * 5), changes=0)


def test_a_lander_that_was_frozen_wakes_up_late(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(40)))
    frozen = start(MAILECHO_LANDER__FLUSH_ROWS="10")
    until(lambda: offset_landed(client, topic) > 3, "it is in the middle", alive=frozen.alive)
    frozen.process.send_signal(signal.SIGSTOP)
    other = start(MAILECHO_INSTANCE="1")
    until(lambda: offset_landed(client, topic) >= 40, "the other took over", alive=other.alive)
    frozen.process.send_signal(signal.SIGCONT)
    until(lambda: frozen.text().count("Joined group") > 1, "it is back", alive=frozen.alive)
    produce(kafka.bootstrap, topic, usual(topic, range(40, 60)))
    until(lambda: offset_landed(client, topic) >= 60, "all landed")
    assert frozen.stop() == 0, frozen.text()
    assert other.stop() == 0, other.text()
    assert_exact(client, topic, [n * 10 + i for n in range(60) if n % 7 != 6 for i in range(10)], changes=17)
