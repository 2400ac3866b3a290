"""Bring the topics of a cluster to what the registry says (`mailecho topics apply`).

Missing topics are created, settings that differ are altered, missing partitions of raw and
dead-letter topics are added. The partition count of `classified`, `events` and `suppressions` is
never changed: a recipient's place depends on it (DESIGN 2, point 10).

`python -m mailecho.pipeline.topics` prints the same as a shell script for Kafka's own tools;
`deploy/compose/topics.sh` is that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from mailecho.schemas.topics import CLASSIFIED, EVENTS, SUPPRESSIONS, Topic, registry

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

#: Their partitions are fixed once they exist.
FIXED = (CLASSIFIED, EVENTS, SUPPRESSIONS)

#: DescribeConfigs' source of a setting that was made on the topic itself
#: (https://kafka.apache.org/protocol, ConfigSource DYNAMIC_TOPIC_CONFIG).
_OF_THE_TOPIC = 1

#: A created topic has its leaders within milliseconds; a loaded cluster of many brokers takes seconds.
_LEADERS_TIMEOUT_S = 30.0


class TopicsRefused(RuntimeError):
    """The cluster cannot be brought to the registry; the message names the setting and the way on."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the cluster and the registry. `old` is None for a new topic."""

    topic: str
    kind: Literal["create", "partitions", "config"]
    setting: str
    old: str | None
    new: str

    def __str__(self) -> str:
        if self.kind == "create":
            return f"{self.topic}: create with {self.new} {self.setting}"
        return f"{self.topic}: {self.setting} {self.old} -> {self.new}"


async def describe(bootstrap: str, settings: Settings) -> list[Change]:
    """What `apply_topics` would change now; nothing is changed. Raises TopicsRefused."""
    async with _admin(bootstrap) as admin:
        return (await _plan(admin, _wanted(settings))).changes


async def apply_topics(bootstrap: str, settings: Settings) -> list[Change]:
    """Bring the cluster's topics to the registry, and return what was changed.

    All or nothing where a partition count is refused. Returns when every topic has its leaders, so
    it can be used at once. A second call changes nothing. Raises TopicsRefused.
    """
    wanted = _wanted(settings)
    async with _admin(bootstrap) as admin:
        plan = await _plan(admin, wanted)
        created = [wanted[change.topic] for change in plan.changes if change.kind == "create"]
        if created:
            replicas = settings.kafka.replication_factor
            await create(admin, [NewTopic(t.name, t.partitions, replicas, topic_configs=t.config()) for t in created])
        grown = {c.topic: NewPartitions(int(c.new)) for c in plan.changes if c.kind == "partitions"}
        if grown:
            await admin.create_partitions(grown)
        altered = sorted({change.topic for change in plan.changes if change.kind == "config"})
        if altered:
            await _alter(admin, {name: plan.own[name] | wanted[name].config() for name in altered})
        return plan.changes


async def create(admin: AIOKafkaAdminClient, topics: list[NewTopic]) -> None:
    """Create topics and wait for their leaders; one that exists by now is left as it is. Raises TopicsRefused."""
    answer = await admin.create_topics(topics)
    for name, code, message in answer.topic_errors:
        error = for_code(code)
        if code == 0 or error is TopicAlreadyExistsError:
            continue
        if error is InvalidReplicationFactorError:
            raise TopicsRefused(f"cannot create {name}: kafka.replication_factor: {message}")
        raise TopicsRefused(f"cannot create {name}: {error.__name__}: {message}")
    names = [topic.name for topic in topics]
    async with asyncio.timeout(_LEADERS_TIMEOUT_S):
        while True:
            if all(_has_leaders(topic) for topic in await admin.describe_topics(names)):
                return
            await asyncio.sleep(0.02)


def _has_leaders(topic: dict[str, object]) -> bool:
    partitions = topic["partitions"]
    return topic["error_code"] == 0 and isinstance(partitions, list) and all(p["leader"] >= 0 for p in partitions)


@dataclass(frozen=True, slots=True)
class _Plan:
    changes: list[Change]
    own: dict[str, dict[str, str]]  # what stands on each topic itself, by whomever: an alteration replaces it all


def _wanted(settings: Settings) -> dict[str, Topic]:
    return registry(settings.kafka.partitions, settings.dedupe_windows)


@asynccontextmanager
async def _admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        yield admin
    except KafkaConnectionError as error:
        raise TopicsRefused(
            f"no Kafka answers at {bootstrap}: start it, or set kafka.bootstrap_servers "
            "(MAILECHO_KAFKA__BOOTSTRAP_SERVERS)"
        ) from error
    except (KafkaError, TimeoutError) as error:
        raise TopicsRefused(f"the Kafka at {bootstrap} did not do it, try again: {error!r}") from error
    finally:
        await admin.close()


async def _plan(admin: AIOKafkaAdminClient, wanted: dict[str, Topic]) -> _Plan:
    there = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics() if t["topic"] in wanted}
    refused = [name for name in FIXED if there.get(name, wanted[name].partitions) != wanted[name].partitions]
    if refused:
        name = refused[0]
        raise TopicsRefused(
            f"kafka.partitions = {wanted[name].partitions}, but {name} exists with {there[name]} partitions, and a "
            "recipient's place depends on their number. To go on with the data there is, set kafka.partitions = "
            f"{there[name]} (MAILECHO_KAFKA__PARTITIONS={there[name]})"
        )
    effective, own = await _configs(admin, there)
    changes = []
    for name, topic in wanted.items():
        if name not in there:
            changes.append(Change(name, "create", "partitions", None, str(topic.partitions)))
            continue
        if there[name] < topic.partitions:
            changes.append(Change(name, "partitions", "partitions", str(there[name]), str(topic.partitions)))
        changes += [
            Change(name, "config", setting, effective[name].get(setting, ""), value)
            for setting, value in topic.config().items()
            if effective[name].get(setting) != value
        ]
    return _Plan(changes, own)


async def _configs(
    admin: AIOKafkaAdminClient, names: Iterable[str]
) -> tuple[dict[str, dict[str, str]], dict[str, dict[str, str]]]:
    """Each topic's settings as they are in force, and those made on the topic itself."""
    effective: dict[str, dict[str, str]] = {}
    own: dict[str, dict[str, str]] = {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    for answer in await admin.describe_configs(resources) if resources else []:
        for code, message, _type, name, entries in answer.resources:
            if code:
                raise TopicsRefused(f"cannot read the settings of {name}: {for_code(code).__name__}: {message}")
            effective[name] = {entry[0]: entry[1] for entry in entries}
            own[name] = {entry[0]: entry[1] for entry in entries if entry[3] == _OF_THE_TOPIC}
    return effective, own


async def _alter(admin: AIOKafkaAdminClient, configs: dict[str, dict[str, str]]) -> None:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, config) for name, config in configs.items()]
    for answer in await admin.alter_configs(resources):
        for code, message, _type, name in answer.resources:
            if code:
                raise TopicsRefused(f"cannot alter {name}: {for_code(code).__name__}: {message}")


_SCRIPT_HEAD = """\
#!/usr/bin/env bash
# Made by `python -m mailecho.pipeline.topics` from the topic registry; do not edit.
# Creates what is missing. `mailecho topics apply` does the same and also repairs settings that differ.
set -euo pipefail
: "${BOOTSTRAP:=127.0.0.1:9092}" "${PARTITIONS:=4}" "${REPLICATION_FACTOR:=1}"
PATH="$PATH:/opt/kafka/bin" # where the official image has them

topic() {
  kafka-topics.sh --bootstrap-server "$BOOTSTRAP" --create --if-not-exists \\
    --replication-factor "$REPLICATION_FACTOR" --topic "$@"
}

"""


def shell_script() -> str:
    """A bash script that creates all topics with Kafka's own tools, with the default windows.

    It takes BOOTSTRAP, PARTITIONS and REPLICATION_FACTOR from its environment.
    """
    keyed = 4242  # stands for `kafka.partitions`: no topic has so many of its own
    lines = []
    for topic in registry(keyed).values():
        partitions = '"$PARTITIONS"' if topic.partitions == keyed else str(topic.partitions)
        config = "".join(f" \\\n  --config {name}={value}" for name, value in topic.config().items())
        lines.append(f"# {topic.holds}\ntopic {topic.name} --partitions {partitions}{config}\n")
    return _SCRIPT_HEAD + "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(shell_script())
