"""Runs real worker processes against a real broker, and reads what they wrote."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from mailecho.pipeline import config, topics
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.side import side_reader
from mailecho.schemas import headers as h
from mailecho.schemas.topics import CLASSIFIED, EVENTS, SUPPRESSIONS

PARTITIONS = 2


@dataclass
class Cluster:
    """A broker with our topics, and a data directory for workers."""

    bootstrap: str
    data_dir: Path
    partitions: int = PARTITIONS
    workers: list[Worker] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        """What a worker process is given."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("MAILECHO_")}
        return own | {
            "MAILECHO_DATA_DIR": str(self.data_dir),
            "MAILECHO_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "MAILECHO_KAFKA__PARTITIONS": str(self.partitions),
            "MAILECHO_KAFKA__SESSION_TIMEOUT_MS": "6000",
            **more,
        }

    def settings(self) -> config.Settings:
        """The same as Settings."""
        return config.load(
            self.data_dir,
            kafka={"bootstrap_servers": self.bootstrap, "partitions": self.partitions, "session_timeout_ms": 6000},
        )

    def prepare(self) -> None:
        """Topics and the identity key."""
        load_identity(self.settings(), create=True)
        asyncio.run(topics.apply_topics(self.bootstrap, self.settings()))

    def worker(self, role: str, instance: str = "0", faults: str = "", **more: str) -> Worker:
        """A started worker process."""
        environment = self.environment(MAILECHO_INSTANCE=instance, **more)
        if faults:
            environment["MAILECHO_FAULTS"] = faults
        worker = Worker(role, environment, self.data_dir / f"{role}-{instance}.log")
        self.workers.append(worker)
        return worker

    def produce(
        self, topic: str, values: Iterable[bytes], partition: int | None = 0, headers: h.Headers | None = None
    ) -> None:
        """Append records and wait for all acknowledgements."""
        asyncio.run(self._produce(topic, list(values), partition, headers or []))

    async def _produce(self, topic: str, values: list[bytes], partition: int | None, headers: h.Headers) -> None:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        try:
            sent = [await producer.send(topic, value, partition=partition, headers=headers) for value in values]
            await asyncio.gather(*sent)
        finally:
            await producer.stop()

    def records(self, topic: str, partition: int = 0) -> list[ConsumerRecord]:
        """All records of a partition."""
        return asyncio.run(self._records(topic, partition))

    async def _records(self, topic: str, partition: int) -> list[ConsumerRecord]:
        async with side_reader(self.bootstrap) as side:
            start, end = await side.span(topic, partition)
            return [record async for records in side.read(topic, partition, start, end) for record in records]

    def ends(self, topic: str) -> list[int]:
        """The end offset of each partition."""
        return asyncio.run(self._ends(topic))

    async def _ends(self, topic: str) -> list[int]:
        async with side_reader(self.bootstrap) as side:
            return [(await side.span(topic, p))[1] for p in range(self.partitions)]

    def emissions(self, partition: int = 0) -> list[ConsumerRecord]:
        """The `events` of a partition as a reader takes them: rising by one, what is at or below dropped.

        Asserts that there is no gap, and that a number that comes again has the same bytes.
        """
        taken: list[ConsumerRecord] = []
        for record in self.records(EVENTS, partition):
            n = int(h.get(record.headers, h.EMISSION) or -1)
            if n < len(taken):
                assert record.value == taken[n].value, f"emission {n} came again with other bytes"
                continue
            assert n == len(taken), f"emission {n} follows {len(taken) - 1}"
            taken.append(record)
        return taken

    def rows(self) -> list[dict[str, Any]]:
        """All events of all partitions, as a reader takes them."""
        rows = []
        for partition in range(self.partitions):
            for record in self.emissions(partition):
                at = int(h.get(record.headers, h.CHANGES_AT) or 0)
                rows += [orjson.loads(line) for line in (record.value or b"")[:at].split(b"\n") if line]
        return rows

    def entries(self) -> dict[str, dict[str, Any]]:
        """The suppression list: of each key the entry of the highest version."""
        entries: dict[str, dict[str, Any]] = {}
        for partition in range(self.partitions):
            for record in self.records(SUPPRESSIONS, partition):
                key = record.key.decode()
                if record.value and not key.startswith("meta/"):
                    entry = orjson.loads(record.value)
                    if entry["version"] >= entries.get(key, {"version": -1})["version"]:
                        entries[key] = entry
        return entries

    def folded_to_the_end(self) -> bool:
        """Whether every record of `classified` has been answered."""
        for partition, end in enumerate(self.ends(CLASSIFIED)):
            if end and len(self.emissions(partition)) < end:
                return False
        return True


class Worker:
    """A worker process."""

    def __init__(self, role: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        command = [
            sys.executable,
            "-m",
            "mailecho.pipeline.cli",
            *(["worker"] if role in ("classify", "ledger") else []),
            role,
        ]
        self._begins_at = log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM once it is ready; its exit code."""
        wait_until(lambda: "Worker ready" in self.said(), "the worker is ready")
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def pause(self) -> None:
        """SIGSTOP: a zombie to be."""
        self.process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_bytes()[self._begins_at :].decode("utf-8", "replace")


def wait_until(condition: Callable[[], bool], what: str, patience: float = 180.0) -> None:
    """Poll until it holds; fails saying what was waited for."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience:.0f} s: {what}"
        time.sleep(0.2)
