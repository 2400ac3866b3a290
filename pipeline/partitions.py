"""The partitions of topics, asked of the cluster: a consumer that has not subscribed does not know them."""

from __future__ import annotations

from collections.abc import Iterable

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient


async def partitions_of(bootstrap: str, topics: Iterable[str]) -> tuple[list[TopicPartition], list[str]]:
    """All partitions of the topics, and the names of topics that do not exist. Raises KafkaError."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        described = await admin.describe_topics(list(topics))
    finally:
        await admin.close()
    places = [TopicPartition(topic["topic"], p["partition"]) for topic in described for p in topic["partitions"]]
    return places, [topic["topic"] for topic in described if topic["error_code"]]


def no_broker(bootstrap: str) -> str:
    """What to say where nobody answers at that address."""
    return (
        f"no Kafka broker answers at {bootstrap}: start one with `mailecho up`, or set "
        "kafka.bootstrap_servers (MAILECHO_KAFKA__BOOTSTRAP_SERVERS) to yours"
    )
