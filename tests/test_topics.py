"""Topics on a real broker: created, found unchanged, repaired, refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from mailecho.pipeline.config import KafkaSettings, Settings, WindowSettings
from mailecho.pipeline.topics import FIXED, Change, TopicsRefused, apply_topics, create, describe
from mailecho.schemas.topics import COMMANDS, EVENTS, RAW_DELIVERY, SUPPRESSIONS, registry
from tests.fixtures_kafka import KafkaProcess

pytestmark = pytest.mark.kafka


def settings(partitions: int = 2, **more: Any) -> Settings:
    return Settings(kafka=KafkaSettings(partitions=partitions), **more)


def with_admin(bootstrap: str, do: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        try:
            await admin.start()
            return await do(admin)
        finally:
            await admin.close()

    return asyncio.run(run())


def partitions(bootstrap: str) -> dict[str, int]:
    topics = with_admin(bootstrap, lambda admin: admin.describe_topics())
    return {topic["topic"]: len(topic["partitions"]) for topic in topics}


def config(bootstrap: str, topic: str) -> dict[str, str]:
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    [answer] = with_admin(bootstrap, lambda admin: admin.describe_configs([resource]))
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


def alter(bootstrap: str, topic: str, **settings_: str) -> None:
    own = registry(2)[topic].config() | {name.replace("_", "."): value for name, value in settings_.items()}
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, own)
    [answer] = with_admin(bootstrap, lambda admin: admin.alter_configs([resource]))
    assert answer.resources[0][0] == 0
    shows(bootstrap, topic, **settings_)


def shows(bootstrap: str, topic: str, **settings_: str) -> None:
    """Wait until the broker tells these settings: it answers for a change before it has taken it over."""
    expected = {name.replace("_", "."): value for name, value in settings_.items()}
    deadline = time.monotonic() + 30
    while not expected.items() <= config(bootstrap, topic).items():
        assert time.monotonic() < deadline, f"{topic} still has {config(bootstrap, topic)}"
        time.sleep(0.02)


def delete(bootstrap: str, *topics: str) -> None:
    with_admin(bootstrap, lambda admin: admin.delete_topics(list(topics)))
    deadline = time.monotonic() + 30
    while set(topics) & set(partitions(bootstrap)):  # brokers hear of it a moment later
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def applied(fresh_kafka: KafkaProcess) -> str:
    """A broker with all topics, made by apply_topics."""
    planned = asyncio.run(describe(fresh_kafka.bootstrap, settings()))
    assert partitions(fresh_kafka.bootstrap) == {}, "describe changes nothing"
    changes = asyncio.run(apply_topics(fresh_kafka.bootstrap, settings()))
    assert changes == planned
    assert {change.topic for change in changes} == set(registry())
    assert {change.kind for change in changes} == {"create"}
    return fresh_kafka.bootstrap


def test_every_topic_is_as_the_registry_says(applied: str) -> None:
    wanted = registry(2)
    assert partitions(applied) == {name: topic.partitions for name, topic in wanted.items()}
    for name, topic in wanted.items():
        assert topic.config().items() <= config(applied, name).items()


def test_a_second_apply_changes_nothing(applied: str) -> None:
    assert asyncio.run(apply_topics(applied, settings())) == []
    assert asyncio.run(describe(applied, settings())) == []


def test_drift_is_repaired_and_what_others_set_is_kept(applied: str) -> None:
    alter(applied, EVENTS, retention_ms="1", flush_messages="12345")
    retention = registry(2)[EVENTS].config()["retention.ms"]
    assert asyncio.run(describe(applied, settings())) == [Change(EVENTS, "config", "retention.ms", "1", retention)]
    [change] = asyncio.run(apply_topics(applied, settings()))
    assert str(change) == f"{EVENTS}: retention.ms 1 -> {retention}"
    shows(applied, EVENTS, retention_ms=retention, flush_messages="12345")
    assert asyncio.run(apply_topics(applied, settings())) == []


def test_other_windows_change_what_follows_from_them(applied: str) -> None:
    other = settings(windows=WindowSettings(delivery_days=1.5))
    changes = asyncio.run(apply_topics(applied, other))
    assert {(change.topic, change.setting) for change in changes} == {
        (RAW_DELIVERY, "retention.ms"),
        (RAW_DELIVERY, "segment.ms"),
    }
    asyncio.run(apply_topics(applied, settings()))
    shows(applied, RAW_DELIVERY, retention_ms=registry(2)[RAW_DELIVERY].config()["retention.ms"])


@pytest.mark.parametrize("asked", [1, 3])
def test_another_partition_count_is_refused_before_anything_is_changed(applied: str, asked: int) -> None:
    before = partitions(applied)
    for call in (describe, apply_topics):
        with pytest.raises(TopicsRefused, match=r"MAILECHO_KAFKA__PARTITIONS=2") as refused:
            asyncio.run(call(applied, settings(asked)))
        assert f"kafka.partitions = {asked}" in str(refused.value)
    assert partitions(applied) == before


def test_missing_topics_and_partitions_are_added(applied: str) -> None:
    delete(applied, RAW_DELIVERY, COMMANDS)
    smaller = NewTopic(RAW_DELIVERY, 1, 1, topic_configs=registry()[RAW_DELIVERY].config())
    with_admin(applied, lambda admin: create(admin, [smaller]))
    changes = asyncio.run(apply_topics(applied, settings()))
    assert changes == [
        Change(RAW_DELIVERY, "partitions", "partitions", "1", "2"),
        Change(COMMANDS, "create", "partitions", None, "1"),
    ]
    assert partitions(applied)[RAW_DELIVERY] == 2


def test_too_many_replicas_are_refused_by_name(applied: str) -> None:
    delete(applied, COMMANDS)
    wrong = Settings(kafka=KafkaSettings(partitions=2, replication_factor=3))
    with pytest.raises(TopicsRefused, match=r"kafka\.replication_factor"):
        asyncio.run(apply_topics(applied, wrong))
    asyncio.run(apply_topics(applied, settings()))


def test_no_broker_is_said_with_the_setting() -> None:
    with pytest.raises(TopicsRefused, match=r"no Kafka answers at 127\.0\.0\.1:1: .*MAILECHO_KAFKA__BOOTSTRAP_SERVERS"):
        asyncio.run(apply_topics("127.0.0.1:1", settings()))


def test_what_is_fixed_is_what_the_fold_depends_on() -> None:
    assert set(FIXED) == {"feedback.classified", EVENTS, SUPPRESSIONS}
