"""Dead letters on a real broker: listed, sent back once, never lost."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys

import pytest
from aiokafka import AIOKafkaProducer

from mailecho.pipeline.config import KafkaSettings, Settings
from mailecho.pipeline.deadletters import DeadLetterError, list_dead_letters, redrive
from mailecho.pipeline.topics import apply_topics
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.topics import CLASSIFIED, COMMANDS, EVENTS, RAW_ARF, RAW_DELIVERY, RAW_DSN, dlq
from tests.fixtures_kafka import KafkaProcess
from tests.intake.test_producer import read_all

pytestmark = pytest.mark.kafka

HEADERS = [(h.SOURCE, b"postfix"), (h.TENANT, b"acme")]


@pytest.fixture(scope="module")
def broker(fresh_kafka: KafkaProcess) -> KafkaProcess:
    """With all topics; each test has an origin topic of its own."""
    asyncio.run(apply_topics(fresh_kafka.bootstrap, Settings(kafka=KafkaSettings(partitions=1))))
    return fresh_kafka


def bury(broker: KafkaProcess, origin: str, letters: list[tuple[Reason, bytes]], redriven: int = 0) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            for offset, (reason, value) in enumerate(letters):
                letter = DeadLetter(
                    reason=reason,
                    detail="why",
                    origin_topic=origin,
                    origin_partition=0,
                    origin_offset=offset,
                    origin_timestamp=1,
                    redriven=redriven,
                )
                await producer.send_and_wait(dlq(origin), value, key=b"k", headers=letter.headers(HEADERS))

    asyncio.run(send())


def values(broker: KafkaProcess, topic: str) -> list[bytes]:
    return [r.value for r in asyncio.run(read_all(broker.bootstrap, topic))]


def listed(broker: KafkaProcess, topic: str | None = None, **options: bool | int | str) -> list[bytes]:
    return [x.preview for x in asyncio.run(list_dead_letters(broker.bootstrap, topic, **options))]  # type: ignore[arg-type]


def test_round_trip(broker: KafkaProcess) -> None:
    bury(broker, RAW_DELIVERY, [(Reason.UNREADABLE, b"one"), (Reason.INVALID, b"two"), (Reason.EMPTY, b"")], redriven=1)
    letters = asyncio.run(list_dead_letters(broker.bootstrap, RAW_DELIVERY))
    assert [(x.topic, x.offset, x.size, x.preview) for x in letters] == [
        (dlq(RAW_DELIVERY), 0, 3, b"one"),
        (dlq(RAW_DELIVERY), 1, 3, b"two"),
        (dlq(RAW_DELIVERY), 2, 0, b""),
    ]
    assert letters[0].header is not None
    assert letters[0].header.reason is Reason.UNREADABLE

    counts = asyncio.run(redrive(broker.bootstrap, RAW_DELIVERY))
    assert (counts.redriven, counts.skipped) == (3, 0)
    found = asyncio.run(read_all(broker.bootstrap, RAW_DELIVERY))
    assert [(r.value, r.key) for r in found] == [(b"one", b"k"), (b"two", b"k"), (b"", b"k")]
    assert list(found[0].headers) == [*HEADERS, (h.REDRIVEN, b"2")]

    assert listed(broker, RAW_DELIVERY) == []
    assert listed(broker, RAW_DELIVERY, include_redriven=True) == [b"one", b"two", b""]
    assert asyncio.run(redrive(broker.bootstrap, dlq(RAW_DELIVERY))).redriven == 0


def test_by_reason_and_limit(broker: KafkaProcess) -> None:
    bury(broker, RAW_DSN, [(Reason.POISON, b"p%d" % n) if n % 2 else (Reason.INVALID, b"i%d" % n) for n in range(6)])
    assert asyncio.run(redrive(broker.bootstrap, RAW_DSN, reason="poison", limit=2)).redriven == 2
    assert values(broker, RAW_DSN) == [b"p1", b"p3"]
    assert listed(broker, RAW_DSN) == [b"i0", b"i2", b"i4", b"p5"]
    assert listed(broker, RAW_DSN, reason="invalid", limit=2) == [b"i0", b"i2"]
    # those of other reasons were passed, not lost; those sent are not sent again
    assert asyncio.run(redrive(broker.bootstrap, RAW_DSN)).redriven == 4
    assert values(broker, RAW_DSN) == [b"p1", b"p3", b"i0", b"i2", b"i4", b"p5"]
    assert asyncio.run(redrive(broker.bootstrap, RAW_DSN, reason="poison")).redriven == 0


def test_late_and_rejected_letters_are_left_with_the_reason_why(broker: KafkaProcess) -> None:
    bury(broker, CLASSIFIED, [(Reason.LATE, b"late"), (Reason.TOO_LARGE, b"large")])
    bury(broker, EVENTS, [(Reason.REJECTED, b"row")])
    counts = asyncio.run(redrive(broker.bootstrap, CLASSIFIED))
    assert (counts.redriven, counts.skipped) == (0, 2)
    assert "dedupe window" in counts.notes[0]
    counts = asyncio.run(redrive(broker.bootstrap, EVENTS))
    assert counts.skipped == 1
    assert "ClickHouse refused" in counts.notes[0]
    assert values(broker, CLASSIFIED) == values(broker, EVENTS) == []
    assert [x for x in listed(broker) if x in (b"late", b"large", b"row")] == [b"late", b"large", b"row"]


def test_what_is_no_dead_letter(broker: KafkaProcess) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
            await producer.send_and_wait(dlq(RAW_ARF), b"stray")

    bury(broker, RAW_ARF, [(Reason.INVALID, b"first")])
    asyncio.run(send())
    bury(broker, RAW_ARF, [(Reason.INVALID, b"last")])
    for _ in range(2):
        with pytest.raises(DeadLetterError, match=f"{dlq(RAW_ARF)}:0:1"):
            asyncio.run(redrive(broker.bootstrap, RAW_ARF))
    counts = asyncio.run(redrive(broker.bootstrap, RAW_ARF, on_error="reinsert"))
    assert (counts.redriven, counts.reinserted) == (1, 1)
    assert listed(broker, RAW_ARF) == [b"stray"]
    assert asyncio.run(redrive(broker.bootstrap, RAW_ARF, on_error="reinsert")).reinserted == 1
    put_back = asyncio.run(read_all(broker.bootstrap, dlq(RAW_ARF)))[-1]
    assert (put_back.value, dict(put_back.headers)) == (b"stray", {h.REINSERTED: b"2"})
    counts = asyncio.run(redrive(broker.bootstrap, RAW_ARF, on_error="drop"))
    assert counts.dropped == 1
    # sent beside the stray one, and again after the stop: at least once
    assert set(values(broker, RAW_ARF)) == {b"first", b"last"}
    assert values(broker, RAW_ARF)[0] == b"first"


_RUN = """
import asyncio, os, signal, sys
from mailecho.pipeline import deadletters
deadletters._WINDOW_LETTERS = 50
def progress(counts):
    if counts.redriven >= 100:
        os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(deadletters.redrive(sys.argv[1], sys.argv[2], progress=progress))
"""


def test_a_killed_redrive_goes_on(broker: KafkaProcess) -> None:
    letters = [(Reason.INTERNAL, b"%d" % n) for n in range(500)]
    bury(broker, COMMANDS, letters)
    killed = subprocess.run([sys.executable, "-c", _RUN, broker.bootstrap, COMMANDS], check=False)
    assert killed.returncode == -signal.SIGKILL
    counts = asyncio.run(redrive(broker.bootstrap, COMMANDS))
    assert 0 < counts.redriven < 500
    assert set(values(broker, COMMANDS)) == {value for _, value in letters}


def test_names_are_checked(broker: KafkaProcess) -> None:
    with pytest.raises(DeadLetterError, match=r"nonsense.*feedback\.raw\.dsn\.dlq"):
        asyncio.run(redrive(broker.bootstrap, "nonsense"))
    with pytest.raises(DeadLetterError, match=r"reason 'bad'.*unreadable"):
        asyncio.run(redrive(broker.bootstrap, RAW_DSN, reason="bad"))


def test_no_broker_says_where() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(DeadLetterError, match=f"127.0.0.1:{port}.*mailecho up"):
        asyncio.run(list_dead_letters(f"127.0.0.1:{port}"))
