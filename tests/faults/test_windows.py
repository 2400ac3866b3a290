"""Days made seconds: a run over several windows with kills, in which ids, raw records and `classified` expire.

What other fault runs cannot see: an id is dropped with its bucket or generation, a raw topic loses what was read, the
ledger's store is lost when the beginning of `classified` is gone, tombstones and old values of the list are compacted.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailecho.pipeline import config
from mailecho.pipeline.embedded.kafka import EmbeddedKafka
from mailecho.pipeline.side import side_reader
from mailecho.schemas.topics import CLASSIFIED, DAY_MS, RAW_DELIVERY, SUPPRESSIONS
from tests.faults.rig import ROLES, Rig
from tests.faults.test_matrix import SEEDS
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import HEAP_MB, KafkaProcess

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.faults(full=True), pytest.mark.timeout(900)]

DELIVERY_SECONDS, REPORT_SECONDS = 30, 45
WINDOWS = {
    "delivery_days": DELIVERY_SECONDS * 1000 / DAY_MS,
    "report_days": REPORT_SECONDS * 1000 / DAY_MS,
}
#: `classified` is kept for 66 s, so that the last store that is lost cannot be rebuilt from its beginning.
FEEDS, FEED_SECONDS = 14, 8.0


class ShortRig(Rig):
    """A rig whose windows are seconds, and with them the retention of its topics."""

    def environment(self, **more: str) -> dict[str, str]:
        """What a process is given."""
        windows = {f"MAILECHO_WINDOWS__{name.upper()}": str(days) for name, days in WINDOWS.items()}
        return super().environment(**windows, **more)

    def settings(self) -> config.Settings:
        """The same as Settings."""
        return super().settings().model_copy(update={"windows": config.WindowSettings(**WINDOWS)})

    def starts(self, topic: str) -> list[int]:
        """The first offset that is retained, by partition."""

        async def read() -> list[int]:
            async with side_reader(self.bootstrap) as side:
                return [(await side.span(topic, p))[0] for p in range(self.partitions)]

        return asyncio.run(read())


@pytest.fixture
def rig(kafka_jars: None, _watch_brokers: object, tmp_path: Path) -> Iterator[ShortRig]:
    extra = {"log.cleaner.backoff.ms": "200", "log.retention.check.interval.ms": "500"}
    broker = EmbeddedKafka(tmp_path / "kafka", heap_mb=HEAP_MB, extra=extra)
    kafka = KafkaProcess(broker, _watch_brokers)  # type: ignore[arg-type]
    made = ShortRig(kafka, EmbeddedClickHouse(tmp_path / "data"), tmp_path / "data")
    yield made
    made.close()
    broker.stop()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_expires_on_the_way_is_neither_missed_nor_counted_again(rig: ShortRig, seed: int) -> None:
    chance = random.Random(seed)
    rig.alter(SUPPRESSIONS, segment_ms="1000", min_compaction_lag_ms="0", delete_retention_ms="1000",
              min_cleanable_dirty_ratio="0.01")  # fmt: skip
    rig.run_all()
    for number in range(FEEDS):
        feeder = rig.feeding(rig.expect(seed * 100 + number, 60).records, FEED_SECONDS)
        time.sleep(chance.uniform(1.0, FEED_SECONDS / 2))
        role = chance.choice(ROLES)
        rig.kill(role)
        if (role == "ledger" and chance.random() < 0.5) or number == FEEDS - 2:
            rig.kill("ledger")
            shutil.rmtree(rig.data_dir / "ledger", ignore_errors=True)  # before it was made anew
        rig.run_all()
        feeder.finish()
    assert min(rig.starts(RAW_DELIVERY)) > 0, "raw records have expired"
    assert min(rig.starts(CLASSIFIED)) > 0, "and so has what was made of them"
    rig.exact()
