"""The whole pipeline as processes that a test starts, kills, freezes and starves one by one.

Broker, ClickHouse, classify, ledger and lander are the real ones, without a supervisor: nothing
comes back but what the test starts. `exact` compares everything, by `verify` and by what the
generator knows.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import DeleteGroupsRequest
from clickhouse_connect.driver.client import Client

from mailecho.pipeline import config
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.landing.migrations import migrate
from mailecho.pipeline.side import committed_offsets
from mailecho.pipeline.topics import apply_topics
from mailecho.pipeline.verify import Report, verify
from mailecho.schemas import headers as h
from mailecho.schemas.topics import (
    CLASSIFY_INPUT,
    COMMANDS,
    EVENTS,
    GROUP_CLASSIFY,
    GROUP_LANDER,
    RAW,
    dlq,
    registry,
)
from tests.agents.harness import Cluster, Worker, wait_until
from tests.faults.feeder import Feeder
from tests.faults.generator import Feed, Generator, Raw
from tests.faults.truth import assert_events, assert_list
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess

ROLES = ("classify", "ledger", "lander")
#: Small ranges and seldom waits: many steps that a fault can fall between.
PACE = {"MAILECHO_LANDER__FLUSH_SECONDS": "0.2", "MAILECHO_LANDER__FLUSH_ROWS": "200"}
#: A feed of a scenario, in raw records.
SIZE = 300


class Rig(Cluster):
    """Broker and ClickHouse that run, topics and tables made, and no worker yet."""

    def __init__(self, kafka: KafkaProcess, clickhouse: EmbeddedClickHouse, directory: Path) -> None:
        super().__init__(kafka.bootstrap, directory)
        self.kafka = kafka
        self.clickhouse = clickhouse
        self.truth = Feed()
        self.feeds = 0
        #: Set where `classified` has lost records: of a fact that came twice, the other report may stand now.
        self.origins_differ = False
        self.running: dict[tuple[str, str], Worker] = {}
        clickhouse.start()
        self.client: Client = clickhouse.write_client()
        migrate(self.client)
        self.prepare()

    # -- settings -------------------------------------------------------------------------------

    def environment(self, **more: str) -> dict[str, str]:
        """What a process is given."""
        return super().environment(**{"MAILECHO_CLICKHOUSE__URL": self.clickhouse.url, **PACE, **more})

    def settings(self) -> config.Settings:
        """The same as Settings."""
        return config.load(
            self.data_dir,
            kafka={"bootstrap_servers": self.bootstrap, "partitions": self.partitions, "session_timeout_ms": 6000},
            clickhouse={"url": self.clickhouse.url},
        )

    # -- feeding --------------------------------------------------------------------------------

    def expect(self, seed: int, size: int = SIZE) -> Feed:
        """A new feed, about recipients of its own, which the end must hold."""
        self.feeds += 1
        feed = Generator(seed, name=f"f{self.feeds}x").make(size)
        self.truth.add(replace(feed, records=list(feed.records)))
        return feed

    def feed(self, records: list[Raw]) -> None:
        """Send records, over any outage, and return when all are acknowledged."""
        feeder = self.feeding(records, 0.0)
        feeder.finish()

    def feeding(self, records: list[Raw], seconds: float) -> Feeder:
        """Send records beside the test; `finish` it."""
        feeder = Feeder(lambda: self.bootstrap, records, seconds)
        feeder.start()
        return feeder

    def produce_at(self, topic: str, records: list[Raw], timestamp: int) -> None:
        """Send records with a time of their own (epoch ms), which a topic of CreateTime keeps."""

        async def send() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap, enable_idempotence=True) as producer:
                headers = [[("source", raw.source.encode())] for raw in records]
                sent = [
                    await producer.send(topic, raw.value, headers=pair, timestamp_ms=timestamp)
                    for raw, pair in zip(records, headers, strict=True)
                ]
                await asyncio.gather(*sent)

        asyncio.run(send())

    # -- processes ------------------------------------------------------------------------------

    def start(self, role: str, instance: str = "0", faults: str = "", **more: str) -> Worker:
        """Start a process; one of the same name is killed."""
        self.kill(role, instance)
        worker = self.running[role, instance] = self.worker(role, instance, faults, **more)
        return worker

    def kill(self, role: str, instance: str = "0") -> None:
        """kill -9 a process, where it runs."""
        worker = self.running.pop((role, instance), None)
        if worker is not None:
            worker.wake()
            worker.kill()

    def kill_all(self, *roles: str) -> None:
        """kill -9 all processes of these roles (of all roles without any)."""
        for role, instance in list(self.running):
            if not roles or role in roles:
                self.kill(role, instance)

    def run_all(self, *roles: str) -> None:
        """Have each role run as instance 0, and no other instance."""
        for role, instance in list(self.running):
            worker = self.running[role, instance]
            if instance != "0" or not worker.running:
                self.kill(role, instance)
        for role in roles or ROLES:
            if (role, "0") not in self.running:
                self.start(role)

    def dies(self, role: str, faults: str, code: int = -9, **more: str) -> Worker:
        """Start a process that a fault point ends (there must be something to do), and wait for its end."""
        worker = self.start(role, faults=faults, **more)
        self.ended(worker, code)
        return worker

    def ended(self, worker: Worker, code: int) -> None:
        """Wait until a process has ended with this code."""
        wait_until(lambda: not worker.running, f"it ends, {code}")
        assert worker.process.returncode == code, worker.said()[-2000:]

    def ready(self, role: str, instance: str = "0") -> Worker:
        """A process that runs, once it is a member of its group."""
        worker = self.running[role, instance]
        word = "Joined group" if role == "lander" else "Worker ready"
        wait_until(lambda: word in worker.said() or not worker.running, f"{role} is ready")
        assert worker.running, worker.said()[-2000:]
        return worker

    def hears(self, role: str, words: str) -> Callable[[], bool]:
        """Whether the role's process says these words from now on (or has ended)."""
        worker = self.running[role, "0"]
        begun = len(worker.said())
        return lambda: words in worker.said()[begun:] or not worker.running

    def command(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """The command line beside it."""
        command = [sys.executable, "-m", "mailecho.pipeline.cli", *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, timeout=120)

    # -- Kafka ----------------------------------------------------------------------------------

    def alter(self, topic: str, **settings: str) -> None:
        """Set a topic's settings beside those of the registry; without any, put those back."""
        if not settings:
            asyncio.run(apply_topics(self.bootstrap, self.settings()))
            return
        wanted = registry(self.partitions, self.settings().dedupe_windows)[topic].config()
        wanted |= {name.replace("_", "."): value for name, value in settings.items()}

        async def alter(admin: AIOKafkaAdminClient) -> None:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, wanted)])

        self.administrate(alter)

    def delete_group(self, group: str) -> None:
        """Delete a consumer group and its offsets, once Kafka has forgotten its members."""

        async def delete(admin: AIOKafkaAdminClient) -> None:
            while True:
                coordinator = await admin.find_coordinator(group)
                answer = await admin._send_request_to_node(coordinator, DeleteGroupsRequest([group]))
                ((_, code),) = answer.results
                if code == 0:
                    return
                await asyncio.sleep(0.5)

        self.administrate(delete)

    def set_offsets(self, group: str, offsets: dict[tuple[str, int], int], metadata: str = "") -> None:
        """Commit for a group whose members are dead, once Kafka has forgotten them."""

        async def commit() -> None:
            async with AIOKafkaConsumer(
                bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False
            ) as consumer:
                places = {TopicPartition(*place): (offset, metadata) for place, offset in offsets.items()}
                consumer.assign(list(places))
                async with asyncio.timeout(60):
                    while True:
                        try:
                            await consumer.commit(places)
                            return
                        except KafkaError:
                            await asyncio.sleep(0.5)

        asyncio.run(commit())

    def committed(self, group: str) -> dict[tuple[str, int], int]:
        """The group's offsets."""
        return asyncio.run(committed_offsets(self.bootstrap, group))

    def letters(self, topic: str) -> Counter[str]:
        """How many of a topic's dead letters have which reason, each origin counted once."""
        found = {}
        for record in self.records(dlq(topic)):
            origin = (h.get(record.headers, "origin-partition"), h.get(record.headers, "origin-offset"))
            found[origin] = h.get(record.headers, h.REASON) or ""
        return Counter(found.values())

    def administrate(self, call: Callable[[AIOKafkaAdminClient], Any]) -> Any:
        """Do something with an admin client."""

        async def run() -> Any:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            await admin.start()
            try:
                async with asyncio.timeout(60):
                    return await call(admin)
            finally:
                await admin.close()

        return asyncio.run(run())

    def all_folded(self) -> bool:
        """Whether everything that was fed is answered in `events`."""
        return self.passed(GROUP_CLASSIFY, CLASSIFY_INPUT) and self.folded_to_the_end()

    def all_landed(self) -> bool:
        """Whether all of `events` is landed."""
        return self.all_folded() and self.passed(GROUP_LANDER, (EVENTS,))

    def passed(self, group: str, topics: Iterable[str]) -> bool:
        """Whether the group has committed the ends of the topics."""
        committed = self.committed(group)
        ends = {(topic, p): end for topic in topics if topic != COMMANDS for p, end in enumerate(self.ends(topic))}
        return all(committed.get(place, 0) >= end for place, end in ends.items())

    # -- the end --------------------------------------------------------------------------------

    def verify(self) -> Report:
        """What `mailecho verify --from-raw` finds, when all that was fed has passed."""
        return asyncio.run(verify(self.settings(), from_raw=True))

    def half_way(self, records: Iterable[Raw]) -> list[Raw]:
        """Feed the first half of some records and return when it has passed everywhere; gives the second."""
        first, second = halves(records)
        self.feed(first)
        self.run_all()
        self.verify()
        return second

    def exact(self) -> None:
        """Nothing differs from what should stand, nor from what the generator knows."""
        self.run_all()
        for role in ROLES:
            self.ready(role)
        report = self.verify()
        assert [text for text in report.differences if not (self.origins_differ and _of_origin(text))] == []
        identity = load_identity(self.settings())
        assert_events(self.client, identity, self.truth)
        assert_list(self.entries(), identity, self.truth)
        assert sum(sum(self.letters(topic).values()) for topic in RAW) >= self.truth.dead_letters
        assert report.totals["late"] == 0
        assert all(worker.running for worker in self.running.values()), "somebody ended meanwhile"

    def close(self) -> None:
        """End everything."""
        self.kill_all()
        self.clickhouse.close()


def _of_origin(difference: str) -> bool:
    """Whether a row differs only in where it came from and when that was received."""
    what, _, columns = difference.partition(": event ")
    names = {column.split()[0] for column in columns.partition(": ")[2].split("; ")}
    return what == "row with other values" and names <= {"received_at", "raw_partition", "raw_offset", "raw_index"}


def fill_disk(pid: int, limit: int) -> None:
    """From now on no file of this process can grow beyond `limit` bytes: a write there fails, as on a full disk."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def halves(records: Iterable[Raw]) -> tuple[list[Raw], list[Raw]]:
    """The first half of a feed and the second."""
    every = list(records)
    return every[: len(every) // 2], every[len(every) // 2 :]
