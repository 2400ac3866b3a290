"""A whole Mailecho in a temporary directory for a benchmark: its own Kafka and ClickHouse, its roles as processes.

What a process costs is its CPU time, all threads, since its consumer group was complete: starting a worker takes
a second or two of imports and compiled rules, which a worker that runs for weeks pays once.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import psutil
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from mailecho.pipeline.bench.harness import Progress
from mailecho.pipeline.config import Settings
from mailecho.pipeline.embedded.kafka import EmbeddedKafka
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.landing.database import CLICKHOUSE_DIR, write_client
from mailecho.pipeline.landing.migrations import migrate
from mailecho.pipeline.side import Side, side_reader
from mailecho.pipeline.topics import apply_topics
from mailecho.schemas.topics import registry

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

#: How often progress is looked at: the error of a measurement is this much idling of a process.
LOOK_SECONDS = 0.25
#: Nothing moved for so long: what is measured has died or hangs.
PATIENCE_SECONDS = 120.0
#: ClickHouse merges what was inserted until it takes less of a core than this.
IDLE_SHARE = 0.1


class BenchFailed(ValueError):
    """The benchmark could not measure, or what came out is not what went in."""


@dataclass(slots=True)
class Part:
    """A process of the system and the CPU seconds that it had used when counting began."""

    name: str
    process: psutil.Process
    log: Path
    since: float = 0.0
    peak_mb: float = 0.0

    def cpu(self) -> float:
        """CPU seconds of all threads, user and system, since the process began."""
        used = self.process.cpu_times()
        return float(used.user + used.system)

    def spent(self) -> float:
        """CPU seconds since counting began."""
        return self.cpu() - self.since


class System:
    """The running system. `settings` has its addresses; `part` starts a role."""

    def __init__(self, directory: Path, partitions: int) -> None:
        self.directory = directory
        self.partitions = partitions
        self.parts: dict[str, Part] = {}
        self._kafka = EmbeddedKafka(directory / "kafka")
        self._stack = ExitStack()
        self.settings = Settings(data_dir=directory)

    def start(self) -> None:
        """Broker, engine, topics and tables. Raises KafkaUnavailable, BenchFailed."""
        self._stack.callback(self._kafka.stop)
        self._kafka.start()
        assert self._kafka.process is not None
        self.parts["kafka"] = Part("kafka", psutil.Process(self._kafka.process.pid), self._kafka.logs)
        where = str(self.directory / CLICKHOUSE_DIR)
        engine = self.part(
            "clickhouse", ["-m", "mailecho.pipeline.embedded.clickhouse", "--directory", where, "--port", "0"]
        )
        url = self._announced(engine)
        values = {
            "data_dir": self.directory,
            "kafka": {"bootstrap_servers": self._kafka.bootstrap, "partitions": self.partitions},
            "clickhouse": {"url": url},
        }
        self.settings = Settings(**values)  # type: ignore[arg-type]
        load_identity(self.settings, create=True)
        asyncio.run(apply_topics(self._kafka.bootstrap, self.settings))
        with self.client() as client:
            self.migrate(client)

    @contextmanager
    def client(self, database: str = "") -> Iterator[Client]:
        """A client that may write, in the system's database or another one, which is made."""
        settings = self.settings
        if database:
            section = settings.clickhouse.model_copy(update={"database": database})
            settings = settings.model_copy(update={"clickhouse": section})
        client = write_client(settings)
        try:
            yield client
        finally:
            client.close()

    def part(self, name: str, arguments: list[str]) -> Part:
        """A Python process of the system."""
        log = self.directory / f"{name}.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MAILECHO_") or k == "MAILECHO_CACHE_DIR"}
        env = {
            **clean,
            "MAILECHO_DATA_DIR": str(self.directory),
            "MAILECHO_INSTANCE": name,
            "MAILECHO_KAFKA__BOOTSTRAP_SERVERS": self._kafka.bootstrap,
            "MAILECHO_KAFKA__PARTITIONS": str(self.partitions),
            "MAILECHO_CLICKHOUSE__URL": self.settings.clickhouse.url,
            "MAILECHO_LOG_LEVEL": "WARNING",
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("wb") as out:
            process = psutil.Popen(
                [sys.executable, *arguments], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        part = self.parts[name] = Part(name, process, log)
        self._stack.callback(_end, process)
        return part

    def role(self, name: str, *arguments: str) -> Part:
        """One `mailecho …` command as a process."""
        return self.part(name, ["-m", "mailecho.pipeline.cli", *arguments])

    def migrate(self, client: Client) -> None:
        """Make the tables of this release in the client's database."""
        migrate(client)

    def end(self, part: Part) -> None:
        """Stop a process that is no longer needed."""
        del self.parts[part.name]
        _end(part.process)

    def wait(self, part: Part) -> str:
        """What a process has said, once it has ended."""
        while part.process.is_running() and part.process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(LOOK_SECONDS)
        del self.parts[part.name]
        _end(part.process)
        return part.log.read_text(errors="replace")

    def close(self) -> None:
        """End every process."""
        self._stack.close()

    def alive(self) -> None:
        """Raise BenchFailed where a process has ended."""
        for part in self.parts.values():
            if not part.process.is_running() or part.process.status() == psutil.STATUS_ZOMBIE:
                raise BenchFailed(f"{part.name} ended: {_last_words(part)}")
            part.peak_mb = max(part.peak_mb, part.process.memory_info().rss / 1e6)

    def settle(self) -> None:
        """Return when ClickHouse has merged what it has to merge."""
        engine = self.parts["clickhouse"]
        for _ in range(60):
            before = engine.cpu()
            time.sleep(1.0)
            if engine.cpu() - before < IDLE_SHARE:
                return

    def _announced(self, engine: Part) -> str:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            for line in engine.log.read_text(errors="replace").splitlines():
                if line.startswith("clickhouse http"):
                    return line.partition(" ")[2].strip()
            self.alive()
            time.sleep(LOOK_SECONDS)
        raise BenchFailed(f"ClickHouse did not start: {_last_words(engine)}")


@contextmanager
def running(partitions: int, progress: Progress) -> Iterator[System]:
    """A started system, whose directory goes with it."""
    directory = Path(tempfile.mkdtemp(prefix="mailecho-bench-"))
    system = System(directory, partitions)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        progress("starting Kafka and ClickHouse")
        system.start()
        yield system
    finally:
        system.close()
        shutil.rmtree(directory, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise BenchFailed("terminated")


@dataclass(frozen=True, slots=True)
class Stage:
    """A consumer group, the topics that it reads, and its processes."""

    group: str
    topics: tuple[str, ...]
    parts: list[Part]


async def drain(system: System, stages: list[Stage], progress: Progress) -> float:
    """Return when all stages, in the order of the data, have committed all that there is; gives the wall seconds.

    Raises BenchFailed.
    """
    began = moved = time.monotonic()
    bootstrap = system.settings.kafka.bootstrap_servers
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        async with side_reader(bootstrap) as side:
            last = [-1]
            while True:
                lags = [await _lag(system, admin, side, stage) for stage in stages]
                progress(", ".join(f"{stage.group} {left:,} behind" for stage, left in zip(stages, lags, strict=True)))
                if not any(lags):
                    return time.monotonic() - began
                if lags != last:
                    moved, last = time.monotonic(), lags
                system.alive()
                if time.monotonic() - moved > PATIENCE_SECONDS:
                    raise BenchFailed(f"nothing moved for {PATIENCE_SECONDS:.0f} s, {lags} records are left")
                await asyncio.sleep(LOOK_SECONDS)
    finally:
        await admin.close()


async def complete(system: System, stages: list[Stage]) -> None:
    """Return when every part is a member of its group. Raises BenchFailed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    admin = AIOKafkaAdminClient(bootstrap_servers=system.settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        for stage in stages:
            while not await _complete(admin, stage):
                system.alive()
                if time.monotonic() > deadline:
                    raise BenchFailed(f"{stage.group}: its members did not come within {PATIENCE_SECONDS:.0f} s")
                await asyncio.sleep(LOOK_SECONDS)
    finally:
        await admin.close()


async def _complete(admin: AIOKafkaAdminClient, stage: Stage) -> bool:
    try:
        for answer in await admin.describe_consumer_groups([stage.group]):
            for _error, _name, state, _kind, _protocol, members, *_ in answer.groups:
                return bool(state == "Stable" and len(members) == len(stage.parts))
    except KafkaError:
        pass  # the coordinator of a new group
    return False


async def _lag(system: System, admin: AIOKafkaAdminClient, side: Side, stage: Stage) -> int:
    """Records that the stage has not committed."""
    known = registry(system.partitions)
    places = [TopicPartition(topic, p) for topic in stage.topics for p in range(known[topic].partitions)]
    try:
        committed = await admin.list_consumer_group_offsets(stage.group, partitions=places)
    except KafkaError:
        committed = {}
    ends = await side.consumer.end_offsets(places)
    done = {place: max(0, committed[place].offset) if place in committed else 0 for place in places}
    return sum(ends[place] - done[place] for place in places)


def _end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(15)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()


def _last_words(part: Part) -> str:
    text = part.log.read_text(errors="replace") if part.log.is_file() else ""
    return " | ".join(text.strip().splitlines()[-3:])[-1000:] or "it said nothing"
