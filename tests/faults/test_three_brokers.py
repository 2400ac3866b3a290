"""Leaders change under the pipeline, on three brokers with three replicas of which two must answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

from mailecho.pipeline import config
from mailecho.schemas.topics import CLASSIFIED, EVENTS, RAW_DELIVERY, SUPPRESSIONS
from tests.agents.harness import wait_until
from tests.faults.rig import Rig
from tests.faults.test_matrix import SEEDS
from tests.faults.trio import Trio
from tests.fixtures_clickhouse import EmbeddedClickHouse

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.faults(full=True), pytest.mark.timeout(600)]


class Cluster(Rig):
    """The rig on three brokers."""

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(MAILECHO_KAFKA__REPLICATION_FACTOR="3", **more)

    def settings(self) -> config.Settings:
        found = super().settings()
        return found.model_copy(update={"kafka": found.kafka.model_copy(update={"replication_factor": 3})})


@pytest.fixture(scope="module")
def trio(
    kafka_jars: None, _watch_brokers: Callable[[int], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trio]:
    trio = Trio(tmp_path_factory.mktemp("trio"), _watch_brokers)
    yield trio
    trio.close()


@pytest.fixture(scope="module")
def rig(trio: Trio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("rig")
    rig = Cluster(trio, EmbeddedClickHouse(directory), directory)  # type: ignore[arg-type]
    yield rig
    rig.close()


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("how", ["killed", "stopped", "frozen"])
def test_leader_change(rig: Cluster, trio: Trio, how: str, seed: int) -> None:
    """The leader of one of our topics goes in the middle of a feed, another leads, and it comes back."""
    chance = random.Random(f"{how} {seed}")
    feed = rig.expect(seed)
    rig.run_all()
    for role, instance in list(rig.running):
        rig.ready(role, instance)
    topic = chance.choice((RAW_DELIVERY, CLASSIFIED, EVENTS, SUPPRESSIONS, "__consumer_offsets"))
    leader = trio.leader(topic)
    feeder = rig.feeding(feed.records, 8.0)
    time.sleep(chance.uniform(0.5, 3.0))
    {"killed": trio.kill, "stopped": trio.stop, "frozen": trio.freeze}[how](leader)
    away = [number for number in trio.nodes if number != leader]
    wait_until(lambda: trio.leader_among(topic, away), "another leads")
    time.sleep(chance.uniform(0.0, 5.0))
    if how == "frozen":
        trio.thaw(leader)
    else:
        trio.start(leader)
    feeder.finish()
    rig.exact()
