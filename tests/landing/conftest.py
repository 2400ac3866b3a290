"""Fixtures of the lander's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess
from tests.landing.kit import LanderProcess


@pytest.fixture
def topic(kafka: KafkaProcess) -> str:
    """A topic of one partition, for one test."""
    return kafka.topic()


@pytest.fixture
def client(clickhouse: EmbeddedClickHouse) -> Client:
    """A client that may write."""
    return clickhouse.write_client()


@pytest.fixture
def start(
    kafka: KafkaProcess, clickhouse: EmbeddedClickHouse, tmp_path: Path, topic: str
) -> Iterator[Callable[..., LanderProcess]]:
    """Starts landers on the test's topic; those that still run are killed at the end."""
    started: list[LanderProcess] = []

    def make(**env: str) -> LanderProcess:
        lander = LanderProcess(tmp_path, kafka.bootstrap, clickhouse.url, clickhouse.token, topic, **env)
        started.append(lander)
        return lander

    yield make
    for lander in started:
        lander.kill()
