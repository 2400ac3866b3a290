"""The table of docs/DESIGN.md, row by row: a fault in the middle of a feed, then all must be exact.

A seeded selection is part of `make test`; `make faults` plays each row five times, with other seeds.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import rows_kafka, rows_lander, rows_workers
from tests.faults.rig import Rig, halves
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import HEAP_MB, KafkaProcess

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.faults]

ROWS = {row.__name__: row for row in (*rows_workers.ROWS, *rows_lander.ROWS, *rows_kafka.ROWS)}
#: How often `make faults` plays each row, each time with another seed.
SEEDS = int(os.environ.get("FAULT_PLAYS", "5"))
#: Played on one rig before a new one is made: what the end compares grows with each.
PLAYS = 12


class Rigs:
    """The rig on which rows are played, made anew when one has failed on it."""

    def __init__(self, make: Callable[[], tuple[Rig, Callable[[], None]]]) -> None:
        self._make = make
        self._rig: Rig | None = None
        self._end: Callable[[], None] = lambda: None
        self._plays = 0
        self.sound = False

    def take(self) -> Rig:
        """A rig with its workers running, on which everything stands as it should."""
        if self._rig is None or not self.sound or self._plays >= PLAYS:
            self.close()
            self._rig, self._end = self._make()
            self._plays = 0
        self.sound = False
        self._plays += 1
        self._rig.run_all()
        return self._rig

    def close(self) -> None:
        """End the rig."""
        self._end()
        self._rig, self._end = None, lambda: None


@pytest.fixture(scope="module")
def rigs(
    kafka_jars: None, _watch_brokers: Callable[[int], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rigs]:
    from mailecho.pipeline.embedded.kafka import EmbeddedKafka

    def make() -> tuple[Rig, Callable[[], None]]:
        directory: Path = tmp_path_factory.mktemp("rig")
        broker = EmbeddedKafka(directory / "kafka", heap_mb=HEAP_MB, extra={"log.cleaner.backoff.ms": "200"})
        kafka = KafkaProcess(broker, _watch_brokers)
        rig = Rig(kafka, EmbeddedClickHouse(directory / "data"), directory / "data")

        def end() -> None:
            rig.close()
            broker.stop()

        return rig, end

    rigs = Rigs(make)
    yield rigs
    rigs.close()


def play(rigs: Rigs, name: str, seed: int) -> None:
    rig = rigs.take()
    feed = rig.expect(seed)
    ROWS[name](rig, feed.records, random.Random(f"{name} {seed}"))
    rig.exact()
    rigs.sound = True


#: Those that a change breaks first, and that take seconds.
SELECTED = ("two_owners", "failed_send_of_ledger", "view_failure")


@pytest.mark.parametrize("name", SELECTED)
def test_selected_rows(rigs: Rigs, name: str) -> None:
    play(rigs, name, 20_264)


@pytest.mark.faults(full=True)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", ROWS)
def test_every_row_five_times(rigs: Rigs, name: str, seed: int) -> None:
    play(rigs, name, seed)


@pytest.mark.faults(full=True)
@pytest.mark.timeout(900)
def test_clickhouse_down_for_six_minutes(rigs: Rigs) -> None:
    """Longer than an intent is repeated on its word: what was under way is looked up."""
    rig = rigs.take()
    first, second = halves(rig.expect(20_265).records)
    feeder = rig.feeding(first, 3.0)
    time.sleep(1.5)
    rig.clickhouse.kill()
    feeder.finish()
    time.sleep(360.0)
    rig.feed(second)
    rig.clickhouse.start()
    rig.exact()
    rigs.sound = True
