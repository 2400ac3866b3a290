"""A broker with our topics, and no worker left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.harness import Cluster
from tests.fixtures_kafka import KafkaProcess


@pytest.fixture
def cluster(kafka_process: KafkaProcess, tmp_path: Path) -> Iterator[Cluster]:
    """Topics applied, identity key made; workers end with the test."""
    cluster = Cluster(kafka_process.bootstrap, tmp_path / "data")
    cluster.prepare()
    yield cluster
    for worker in cluster.workers:
        worker.wake()
        worker.kill()
