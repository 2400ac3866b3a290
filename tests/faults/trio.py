"""Three brokers on this machine, each also a controller: replicas of everything, leaders that change.

Made of the parts of the embedded broker, which is one node. A topic has three replicas of which two
must have a record before it is acknowledged (`min.insync.replicas`), as a cluster should be run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from mailecho.pipeline.embedded.kafka import HOST, EmbeddedKafka

_HEAP_MB = 256
_CLUSTER = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # others follow the metadata log here
    "metadata.max.idle.interval.ms": "500",
    "controller.quorum.election.timeout.ms": "1000",
    "controller.quorum.fetch.timeout.ms": "2000",
    # a replica that does not answer holds up acks=all for so long
    "replica.lag.time.max.ms": "3000",
    # a leader goes back to its preferred node soon after that is there again: one more change
    "leader.imbalance.check.interval.seconds": "5",
}


class _Node(EmbeddedKafka):
    """One of the three; `quorum` is set before it is prepared."""

    quorum: tuple[str, str] = ("", "")  # cluster id, initial controllers

    def _format(self, ports: dict[str, int]) -> None:
        self.data.mkdir()
        cluster, controllers = self.quorum
        ran = subprocess.run(
            [
                *self._run_java("-Xmx128m"),
                *("kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"),
                f"--config={self.directory / 'server.properties'}",
                f"--initial-controllers={controllers}",
            ],
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr or ran.stdout


class Trio:
    """Three brokers: kill, stop, freeze and start them one by one. Node numbers are 1 to 3."""

    def __init__(self, directory: Path, watch: Callable[[int], None]) -> None:
        self._watch = watch
        self.nodes = {number: _Node(directory / f"node{number}", heap_mb=_HEAP_MB) for number in (1, 2, 3)}
        for node in self.nodes.values():
            node.directory.mkdir(parents=True)
        ports = {number: node._keep_ports()["controller"] for number, node in self.nodes.items()}
        voters = {number: f"{number}@{HOST}:{port}:{_id()}" for number, port in ports.items()}
        cluster = _id()
        for number, node in self.nodes.items():
            node.quorum = (cluster, ",".join(voters.values()))
            node._extra = {
                **_CLUSTER,
                "node.id": str(number),
                "controller.quorum.bootstrap.servers": ",".join(f"{HOST}:{port}" for port in ports.values()),
            }
        self.start(*self.nodes)

    @property
    def bootstrap(self) -> str:
        """All three addresses."""
        return ",".join(node.bootstrap for node in self.nodes.values())

    def start(self, *numbers: int) -> None:
        """Start nodes, and wait until each answers."""
        for number in numbers:
            node = self.nodes[number]
            node.prepare()
            with (node.logs / "stderr.log").open("wb") as out:
                node.process = subprocess.Popen(node.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            self._watch(node.process.pid)
        for number in numbers:
            node = self.nodes[number]
            node.wait_ready(60, lambda node=node: node.process is not None and node.process.poll() is None)  # type: ignore[misc]

    def kill(self, number: int) -> None:
        """kill -9."""
        self.nodes[number].kill()

    def stop(self, number: int) -> None:
        """SIGTERM: it gives its leaderships away first."""
        self.nodes[number].stop()

    def freeze(self, number: int) -> None:
        """SIGSTOP: it holds its connections, and believes that it leads when it wakes."""
        self._signal(number, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        """SIGCONT."""
        self._signal(number, signal.SIGCONT)

    def leader(self, topic: str, partition: int = 0, ask: int = 0) -> int:
        """The node that leads a partition, as all (or one node) say."""
        where = self.nodes[ask].bootstrap if ask else self.bootstrap

        async def describe() -> int:
            admin = AIOKafkaAdminClient(bootstrap_servers=where)
            await admin.start()
            try:
                (described,) = await admin.describe_topics([topic])
                leaders = [p["leader"] for p in described["partitions"] if p["partition"] == partition]
                return int(leaders[0])
            finally:
                await admin.close()

        return asyncio.run(describe())

    def leader_among(self, topic: str, numbers: list[int]) -> bool:
        """Whether one of these nodes leads, as the first of them says."""
        try:
            return self.leader(topic, ask=numbers[0]) in numbers
        except KafkaError:
            return False

    def close(self) -> None:
        """End all of them: together, since one alone has no majority to say goodbye to."""
        for node in self.nodes.values():
            node.kill()

    def _signal(self, number: int, what: signal.Signals) -> None:
        process = self.nodes[number].process
        assert process is not None
        os.kill(process.pid, what)


def _id() -> str:
    """A random id as Kafka writes them, none that begins with a hyphen."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()).startswith("-"):
        pass
    return text
