"""The lander on a real broker and a real engine: every row once, whatever happens in between."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from clickhouse_connect.driver.client import Client

from mailecho.pipeline.config import LanderSettings
from mailecho.pipeline.landing.lander import unhurried
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.topics import dlq
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess
from tests.landing.kit import (
    LanderProcess,
    assert_exact,
    consume,
    emission,
    lands,
    make_topic,
    offset_landed,
    produce,
    row,
    set_offset,
    until,
    usual,
)

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

#: What `usual(topic, range(60))` holds; 17 changes beside it.
NUMBERS = [n * 10 + i for n in range(60) if n % 7 != 6 for i in range(10)]

Start = Callable[..., LanderProcess]


def test_lands_every_row_and_change_once(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(60)))
    lands(client, topic, start(), 60)
    produce(kafka.bootstrap, topic, usual(topic, range(60, 63)))
    lands(client, topic, start(), 63)
    assert_exact(client, topic, [n * 10 + i for n in range(63) if n % 7 != 6 for i in range(10)], changes=18)


@pytest.mark.parametrize(
    "point",
    ["before_intent", "after_intent", "after_insert", "after_changes", "after_landed", "after_commit"],
)
@pytest.mark.parametrize("passing", [1, 3])
def test_exact_after_a_kill_at_every_point(
    kafka: KafkaProcess, client: Client, topic: str, start: Start, point: str, passing: int
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(60)))
    assert start(MAILECHO_FAULTS=f"lander.{point}:{passing}").ends() == -9
    # another limit than the one that formed the interrupted range: it must be formed as it was
    lands(client, topic, start(MAILECHO_LANDER__FLUSH_ROWS="70"), 60)
    assert_exact(client, topic, NUMBERS, changes=17)


def test_a_replay_that_straddles_a_restart_is_dropped(
    kafka: KafkaProcess, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(5)))
    lands(client, topic, start(), 5)
    # a ledger that died between its send and its store sends 3 and 4 again; in other company, and the
    # lander dies with this range open: only the watermark in its metadata tells it what is a repetition
    produce(kafka.bootstrap, topic, usual(topic, range(3, 8)))
    assert start(MAILECHO_FAULTS="lander.after_intent").ends() == -9
    produce(kafka.bootstrap, topic, usual(topic, range(6, 60)))
    lands(client, topic, start(), 64)
    assert_exact(client, topic, NUMBERS, changes=17)


def test_a_zombie_with_lower_numbers_is_dropped(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(30)))
    produce(kafka.bootstrap, topic, [emission(n, [row(topic, 900 + n)]) for n in range(10, 20)])
    produce(kafka.bootstrap, topic, usual(topic, range(30, 60)))
    lands(client, topic, start(), 70)
    assert_exact(client, topic, NUMBERS, changes=17)


def test_a_gap_stops_it(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(5)))
    lands(client, topic, start(), 5)
    produce(kafka.bootstrap, topic, usual(topic, [5, 7]))
    lander = start()
    assert lander.ends() == 1
    assert "emission 7 at offset 6 follows 5" in lander.text()
    assert offset_landed(client, topic) == 5


def test_a_newer_schema_stops_it_by_name(kafka: KafkaProcess, topic: str, start: Start) -> None:
    value, headers = emission(0, [row(topic, 0)])
    produce(kafka.bootstrap, topic, [(value, [("schema", b"event/2.0"), *headers[1:]])])
    lander = start()
    assert lander.ends() == 1
    assert "event/2.0" in lander.text()


@pytest.mark.parametrize("faults", ["", "lander.after_insert:1", "lander.after_landed:1"])
def test_bad_rows_become_dead_letters_and_the_rest_lands_once(
    kafka: KafkaProcess, client: Client, topic: str, start: Start, faults: str
) -> None:
    make_topic(kafka.bootstrap, dlq(topic))
    rows = [row(topic, i) for i in range(10)]
    rows[4] = row(topic, 4, smtp_code="not a number")
    unknown = row(topic, 5, colour="red")
    rows[5] = unknown
    # the rest of the same range, and a record that the ledger cannot have written
    produce(kafka.bootstrap, topic, [emission(0, rows), (b"junk", []), *usual(topic, range(1, 8))])
    if faults:
        assert start(MAILECHO_FAULTS=faults).ends() == -9
    lands(client, topic, start(), 9)
    wanted = [i for i in range(10) if i not in (4, 5)] + [n * 10 + i for n in (1, 2, 3, 4, 5, 7) for i in range(10)]
    assert_exact(client, topic, wanted, changes=1, rejected=2)
    # a letter may come twice after a kill
    letters = consume(kafka.bootstrap, dlq(topic), 3)
    found = {(letter.value, DeadLetter.from_headers(letter.headers).reason) for letter in letters}
    assert found == {(rows[4], Reason.REJECTED), (unknown, Reason.REJECTED), (b"junk", Reason.INVALID)}
    refused = next(DeadLetter.from_headers(letter.headers) for letter in letters if letter.value == unknown)
    assert (refused.origin_topic, refused.origin_partition, refused.origin_offset) == (topic, 0, 0)
    assert "colour" in refused.detail


def test_clickhouse_down_for_a_while_loses_nothing(
    kafka: KafkaProcess, clickhouse: EmbeddedClickHouse, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(30)))
    lander = start()
    until(lambda: offset_landed(client, topic) > 0, "something landed", alive=lander.alive)
    clickhouse.kill()
    produce(kafka.bootstrap, topic, usual(topic, range(30, 60)))
    until(lambda: "trying again for ever" in lander.text(), "the lander says that it waits", alive=lander.alive)
    clickhouse.restart()
    lands(client, topic, lander, 60)
    assert_exact(client, topic, NUMBERS, changes=17)


def test_stops_at_once_while_clickhouse_is_down(
    kafka: KafkaProcess, clickhouse: EmbeddedClickHouse, topic: str, start: Start
) -> None:
    lander = start()
    until(lambda: "Joined group" in lander.text(), "it has joined", alive=lander.alive)
    clickhouse.kill()
    try:
        produce(kafka.bootstrap, topic, usual(topic, range(5)))
        until(lambda: "trying again for ever" in lander.text(), "it waits", alive=lander.alive)
        assert lander.stop() == 0
    finally:
        clickhouse.restart()


def test_stops_within_seconds_while_clickhouse_hangs(
    kafka: KafkaProcess, clickhouse: EmbeddedClickHouse, client: Client, topic: str, start: Start
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(30)))
    lander = start(MAILECHO_LANDER__FLUSH_ROWS="10")
    until(lambda: offset_landed(client, topic) > 0, "something landed", alive=lander.alive)
    assert clickhouse.process is not None
    clickhouse.process.send_signal(signal.SIGSTOP)
    try:
        produce(kafka.bootstrap, topic, usual(topic, range(30, 60)))
        assert lander.stop() == 0, lander.text()
    finally:
        clickhouse.process.send_signal(signal.SIGCONT)
    lands(client, topic, start(), 60)
    assert_exact(client, topic, NUMBERS, changes=17)


def test_refuses_offsets_that_another_tool_set(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(10)))
    lands(client, topic, start(), 10)
    set_offset(kafka.bootstrap, topic, 0)
    again = start()
    assert again.ends() == 1
    assert "carries no metadata" in again.text()
    assert "lander --resume" in again.text()


def test_refuses_a_clickhouse_that_was_emptied(kafka: KafkaProcess, client: Client, topic: str, start: Start) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(10)))
    lands(client, topic, start(), 10)
    client.command(
        "ALTER TABLE landed DELETE WHERE topic = {t:String}", parameters={"t": topic}, settings={"mutations_sync": 1}
    )
    lander = start()
    assert lander.ends() == 1
    assert "`landed` knows nothing of this partition" in lander.text()


def test_ranges_grow_older_where_clickhouse_is_slow() -> None:
    limits = LanderSettings(flush_seconds=1.0)
    assert unhurried(limits, 0.02, 4).flush_seconds == 1.0, "as set, where inserts are quick"
    assert unhurried(limits, 0.15, 4).flush_seconds == pytest.approx(2.4), "a quarter of the time"
    assert unhurried(limits, 60.0, 4).flush_seconds == 5.0, "and no older than this"
