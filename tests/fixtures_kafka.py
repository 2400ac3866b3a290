"""The real Apache Kafka broker, for tests.

`kafka` is one broker for the whole run, `fresh_kafka` one for a test module, `kafka_process` one
for a single test that kills it. Topics are made by `.topic()`, each under a name of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from mailecho.pipeline.embedded.jars import ensure_jars
from mailecho.pipeline.embedded.kafka import EmbeddedKafka, KafkaUnavailable, find_java
from mailecho.pipeline.topics import create

HEAP_MB = 384  # several brokers may run beside each other on a small machine

_NUMBERS = itertools.count(1)


class KafkaProcess:
    """A broker that a test owns: `stop`, `kill` and `start` it again; its address stays the same."""

    def __init__(self, broker: EmbeddedKafka, watch: Callable[[int], None]) -> None:
        self.broker = broker
        self._watch = watch
        self.start()

    @property
    def bootstrap(self) -> str:
        return self.broker.bootstrap

    @property
    def pid(self) -> int:
        assert self.broker.process is not None, "the broker is stopped"
        return self.broker.process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.broker.start()
        self._watch(self.pid)

    def stop(self) -> None:
        """Stop it cleanly (SIGTERM)."""
        self.broker.stop()

    def kill(self) -> None:
        """kill -9."""
        self.broker.kill()

    def freeze(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it does what it was asked meanwhile."""
        os.kill(self.pid, signal.SIGCONT)

    def topic(self, partitions: int = 1, **config: str | int) -> str:
        """Create a topic and return its name.

        `config` holds topic settings, underscores for dots: `topic(4, retention_ms=1000)`.
        """
        name = f"test-{os.getpid()}-{next(_NUMBERS)}"
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        # a thread has no running loop, so that asynchronous tests may call this too
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _create(self.bootstrap, name, partitions, settings)).result()
        return name


async def _create(bootstrap: str, name: str, partitions: int, config: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        await create(admin, [NewTopic(name, partitions, 1, topic_configs=config)])
    finally:
        await admin.close()


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """What a broker needs; skips, saying why, where it cannot be had."""
    try:
        ensure_jars()
        find_java()
    except KafkaUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _watch_brokers() -> Iterator[Callable[[int], None]]:
    """Brokers end with the test run, also when that is killed (a timeout of pytest-timeout does so)."""
    script = 'while read -r pid; do pids="$pids $pid"; done; kill -9 $pids 2>/dev/null'
    watcher = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)
    assert watcher.stdin is not None
    pipe = watcher.stdin

    def watch(pid: int) -> None:
        pipe.write(b"%d\n" % pid)
        pipe.flush()

    yield watch
    watcher.kill()  # the fixtures have stopped the brokers: their numbers may be others' by now
    pipe.close()
    watcher.wait()


@pytest.fixture(scope="session")
def kafka(
    kafka_jars: None, _watch_brokers: Callable[[int], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaProcess]:
    """One broker for all tests of the run. Do not stop it: `kafka_process` is for that."""
    yield from _broker(tmp_path_factory.mktemp("kafka"), _watch_brokers)


@pytest.fixture(scope="module")
def fresh_kafka(
    kafka_jars: None, _watch_brokers: Callable[[int], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaProcess]:
    """A broker without topics, for one module. It looks at retention every 0.2 s."""
    yield from _broker(tmp_path_factory.mktemp("fresh-kafka"), _watch_brokers, **_QUICK)


@pytest.fixture
def kafka_process(kafka_jars: None, _watch_brokers: Callable[[int], None], tmp_path: Path) -> Iterator[KafkaProcess]:
    """A broker for one test, which may kill it. It looks at retention every 0.2 s."""
    yield from _broker(tmp_path / "kafka-process", _watch_brokers, **_QUICK)


_QUICK = {
    "log.retention.check.interval.ms": "200",
    "log.initial.task.delay.ms": "200",
    "log.segment.delete.delay.ms": "200",
    "log.cleaner.backoff.ms": "200",
}


def _broker(directory: Path, watch: Callable[[int], None], **extra: str) -> Iterator[KafkaProcess]:
    broker = EmbeddedKafka(directory, heap_mb=HEAP_MB, extra=extra)
    try:
        yield KafkaProcess(broker, watch)
    finally:
        broker.stop()
