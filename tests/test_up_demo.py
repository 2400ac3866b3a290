"""The demo's traffic: the same for the same seed, read by our own readers, and with its story in it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer

from mailecho.pipeline.classify import classify_message
from mailecho.pipeline.config import KafkaSettings, Settings
from mailecho.pipeline.demo import feed
from mailecho.pipeline.demo_traffic import Raw, Traffic
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.partitions import partitions_of
from mailecho.pipeline.sources import read_delivery
from mailecho.pipeline.topics import apply_topics
from mailecho.schemas.taxonomy import Cause, Kind
from mailecho.schemas.topics import RAW, RAW_ARF, RAW_DELIVERY, RAW_DSN

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures_kafka import KafkaProcess

START = 1_800_000_000.0


@pytest.fixture(scope="module")
def history() -> list[Raw]:
    return [record for records in Traffic(START).history(3_000) for record in records]


def findings(record: Raw) -> list[Finding]:
    if record.topic != RAW_DELIVERY:
        return classify_message(record.value)
    read = list(read_delivery(record.value, source=record.source, received_at_ms=int(START * 1000)))
    assert all(isinstance(finding, Finding) for finding in read), (record.value, read)
    return [finding for finding in read if isinstance(finding, Finding)]


def test_the_same_seed_gives_the_same_traffic(history: list[Raw]) -> None:
    assert [record for records in Traffic(START).history(3_000) for record in records] == history


def test_every_record_is_read_and_the_story_is_there(history: list[Raw]) -> None:
    kinds: Counter[tuple[str, str]] = Counter()
    causes: Counter[tuple[str, str]] = Counter()
    for record in history:
        for finding in findings(record):
            kinds[record.topic, finding.kind] += 1
            causes[finding.sending_ip, finding.cause or ""] += 1
            causes[finding.campaign, finding.cause or ""] += 1
            if finding.kind != Kind.NOT_FEEDBACK and record.topic == RAW_DELIVERY:
                assert finding.recipient
                assert finding.occurred_at_ms is not None
                assert -86_500 < finding.occurred_at_ms / 1000 - START < 60
    assert kinds[RAW_DELIVERY, Kind.DELIVERY] > 2_000
    assert kinds[RAW_ARF, Kind.COMPLAINT] >= 5
    for kind in (Kind.BOUNCE, Kind.DELAY, Kind.AUTO_REPLY, Kind.NOT_FEEDBACK):
        assert kinds[RAW_DSN, kind], kind
    assert causes["192.0.2.13", Cause.BLOCKLIST] > 5
    assert not causes["192.0.2.12", Cause.BLOCKLIST]
    assert causes["spring-sale", Cause.MAILBOX_UNKNOWN] > causes["newsletter-47", Cause.MAILBOX_UNKNOWN]


def test_live_traffic_never_runs_out_of_recipients() -> None:
    traffic = Traffic(START)
    assert all(traffic.message(START + second / 50) for second in range(20_000))


@pytest.mark.kafka
def test_the_feeder_fills_the_raw_topics_and_stops(kafka_process: KafkaProcess, tmp_path: Path) -> None:
    bootstrap = kafka_process.bootstrap
    settings = Settings(data_dir=tmp_path, kafka=KafkaSettings(bootstrap_servers=bootstrap))

    async def scenario() -> int:
        await apply_topics(bootstrap, settings)
        task = asyncio.create_task(feed(settings))
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
        await consumer.start()
        try:
            places, _ = await partitions_of(bootstrap, RAW)
            async with asyncio.timeout(60):
                while sum((await consumer.end_offsets(places)).values()) < 5_200:
                    assert not task.done()
                    await asyncio.sleep(0.1)
            task.cancel()
            await task
            return sum((await consumer.end_offsets(places)).values())
        finally:
            await consumer.stop()

    assert asyncio.run(scenario()) >= 5_200
