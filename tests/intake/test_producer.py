"""Records reach a real broker, and count only once it has acknowledged them."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from mailecho.pipeline.intake import (
    Counts,
    IntakeError,
    RawRecord,
    Skipped,
    Tags,
    file_records,
    maildir_records,
    produce,
)
from mailecho.schemas.topics import RAW_RECORD_BYTES, registry
from tests.fixtures_kafka import KafkaProcess
from tests.intake.messages import dsn

RAW = registry()["feedback.raw.dsn"]


async def read_all(bootstrap: str, topic: str, partitions: int = 1) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, max_partition_fetch_bytes=16 << 20)
    await consumer.start()
    try:
        assigned = [TopicPartition(topic, n) for n in range(partitions)]
        consumer.assign(assigned)
        await consumer.seek_to_beginning()
        missing = await consumer.end_offsets(assigned)
        found: list[ConsumerRecord] = []
        while any([await consumer.position(p) < end for p, end in missing.items()]):
            for batch in (await consumer.getmany(timeout_ms=500)).values():
                found += batch
        return found
    finally:
        await consumer.stop()


@pytest.mark.kafka
def test_every_record_is_acknowledged_and_there(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(3, max_message_bytes=RAW.max_message_bytes)
    messages = [dsn(size) for size in (0, 5_000, 3_000_000)] + [b"", b"no mail \xff\0"]
    for n, message in enumerate(messages):
        (tmp_path / f"{n}.eml").write_bytes(message)
    progress: list[int] = []
    counts = asyncio.run(
        produce(
            kafka.bootstrap,
            file_records([tmp_path], Tags(tenant="acme"), topic=topic),
            progress=lambda c: progress.append(c.records),
        )
    )
    assert (counts.records, counts.cut, counts.skipped) == (5, 1, [])
    assert progress == [1, 2, 3, 4, 5]
    found = {dict(r.headers)["file"].decode(): r for r in asyncio.run(read_all(kafka.bootstrap, topic, 3))}
    assert [found[f"{tmp_path}/{n}.eml"].value for n in (0, 1, 3, 4)] == [messages[n] for n in (0, 1, 3, 4)]
    large = dict(found[f"{tmp_path}/2.eml"].headers)
    assert large["original-size"] == str(len(messages[2])).encode()
    assert large["tenant"] == b"acme"


@pytest.mark.kafka
def test_the_largest_record_fits_the_topic(kafka: KafkaProcess) -> None:
    """Bytes that do not compress, as large as a record may be, with all headers."""
    topic = kafka.topic(1, max_message_bytes=RAW.max_message_bytes)
    noise = bytes((n * n * 7919 + n // 251) & 0xFF for n in range(RAW_RECORD_BYTES))
    headers = tuple((name, b"x" * 500) for name in RAW.headers)
    counts = asyncio.run(produce(kafka.bootstrap, [RawRecord(topic, noise, headers)] * 3))
    assert counts.bytes == 3 * RAW_RECORD_BYTES


@pytest.mark.kafka
def test_maildir_is_empty_when_all_is_acknowledged(kafka: KafkaProcess, tmp_path: Path) -> None:
    topic = kafka.topic(2)
    for folder in ("new", "cur", "tmp"):
        (tmp_path / folder).mkdir()
    for n in range(300):
        (tmp_path / "new" / f"{n:04}").write_bytes(b"Subject: %d\n\n" % n)
    counts = asyncio.run(produce(kafka.bootstrap, maildir_records(tmp_path, topic=topic)))
    assert counts.records == 300
    assert not list((tmp_path / "new").iterdir())
    assert len(list((tmp_path / "cur").iterdir())) == 300
    assert len(asyncio.run(read_all(kafka.bootstrap, topic, 2))) == 300
    assert asyncio.run(produce(kafka.bootstrap, maildir_records(tmp_path, topic=topic))).records == 0


@pytest.mark.kafka
def test_a_refused_record_is_not_counted(kafka: KafkaProcess) -> None:
    topic = kafka.topic(1, max_message_bytes=2_000)
    acknowledged: list[str] = []

    def record(name: str, value: bytes) -> RawRecord:
        return RawRecord(topic, value, acknowledged=partial(acknowledged.append, name))

    noise = bytes((n * n * 7919 + n // 251) & 0xFF for n in range(50_000))
    with pytest.raises(IntakeError, match=topic):
        asyncio.run(produce(kafka.bootstrap, [record("small", b"x"), record("large", noise), record("after", b"y")]))
    assert "large" not in acknowledged
    assert "after" not in acknowledged


@pytest.mark.kafka
def test_a_missing_topic_is_named(kafka: KafkaProcess) -> None:
    with pytest.raises(IntakeError, match=r"no-such-topic.*topics apply"):
        asyncio.run(produce(kafka.bootstrap, [RawRecord("no-such-topic", b"x")]))


def test_no_broker_says_where_and_what_to_do(free_port: int) -> None:
    with pytest.raises(IntakeError, match=f"127.0.0.1:{free_port}.*mailecho up"):
        asyncio.run(produce(f"127.0.0.1:{free_port}", []))


@pytest.mark.kafka
def test_skipped_and_idle_do_not_count(kafka: KafkaProcess) -> None:
    topic = kafka.topic()
    items = [None, RawRecord(topic, b"a"), Skipped("x", "no permission"), None, RawRecord(topic, b"b")]
    counts: Counts = asyncio.run(produce(kafka.bootstrap, items))
    assert (counts.records, [s.file for s in counts.skipped]) == (2, ["x"])


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
