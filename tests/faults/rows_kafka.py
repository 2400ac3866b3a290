"""The matrix's rows of the broker. See `rows_workers` for what a row is."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from pathlib import Path

from mailecho.pipeline.supervise.machine import pad_classified, rewind
from mailecho.schemas.topics import CLASSIFIED, EVENTS, SUPPRESSIONS
from tests.agents.harness import wait_until
from tests.faults.generator import Raw
from tests.faults.rig import Rig, fill_disk, halves
from tests.faults.rows_lander import resume

Records = list[Raw]
Chance = random.Random


def broker_killed(rig: Rig, records: Records, chance: Chance) -> None:
    """The broker is killed in the middle, and comes back on the same address."""
    feeder = rig.feeding(records, 5.0)
    time.sleep(chance.uniform(0.5, 3.0))
    rig.kafka.kill()
    time.sleep(chance.uniform(0.0, 5.0))
    rig.kafka.start()
    feeder.finish()
    assert all(worker.running for worker in rig.running.values()), "nobody ends for that"


def broker_restarted(rig: Rig, records: Records, chance: Chance) -> None:
    """The broker is stopped as it should be, and started again; a worker starts while it is away."""
    feeder = rig.feeding(records, 5.0)
    time.sleep(chance.uniform(0.5, 3.0))
    rig.kafka.stop()
    rig.start(chance.choice(("classify", "ledger", "lander")))
    time.sleep(chance.uniform(0.0, 3.0))
    rig.kafka.start()
    feeder.finish()


def broker_frozen(rig: Rig, records: Records, chance: Chance) -> None:
    """The broker answers nothing for longer than a request may take, then does what it was asked long ago."""
    first, second = halves(records)
    rig.feed(first)
    feeder = rig.feeding(second, 3.0)
    time.sleep(chance.uniform(0.5, 2.0))
    rig.kafka.freeze()
    time.sleep(50.0)
    rig.kafka.thaw()
    feeder.finish()
    time.sleep(2.0)  # those who gave up end


def broker_disk_full(rig: Rig, records: Records, chance: Chance) -> None:
    """The broker's disk is full: it ends, and everyone waits until there is room and it starts again."""
    first, second = halves(records)
    rig.feed(first)
    sizes = [file.stat().st_size for file in rig.kafka.broker.data.glob("feedback.raw.delivery-*/*.log")]
    fill_disk(rig.kafka.pid, max(sizes) + chance.randint(1_000, 6_000))
    feeder = rig.feeding(second, 2.0)
    process = rig.kafka.broker.process
    assert process is not None
    wait_until(lambda: process.poll() is not None, "the broker ends")
    rig.kafka.kill()
    rig.kafka.start()
    feeder.finish()


def tail_of_classified_lost(rig: Rig, records: Records, chance: Chance) -> None:
    """The machine stops without warning, and the broker has lost the end of `classified`."""
    rig.origins_differ = True
    _tail_lost(rig, records, chance, CLASSIFIED)


def tail_of_events_lost(rig: Rig, records: Records, chance: Chance) -> None:
    """The same with `events`: the ledger emits it again, the lander's place is above its end until then."""
    _tail_lost(rig, records, chance, EVENTS)


def tail_of_list_lost(rig: Rig, records: Records, chance: Chance) -> None:
    """The same with the suppression list: the owner has its entries."""
    _tail_lost(rig, records, chance, SUPPRESSIONS)


def _tail_lost(rig: Rig, records: Records, chance: Chance, topic: str) -> None:
    first, second = halves(records)
    for quarter in (*halves(halves(first)[0]), *halves(halves(first)[1])):
        rig.feed(quarter)  # in several batches: Kafka keeps or loses a whole one
        wait_until(rig.all_landed, "it has landed")
    rig.verify()
    rig.kill_all()
    rig.kafka.kill()
    for directory in rig.kafka.broker.data.glob(f"{topic}-*"):
        _cut(directory, chance.uniform(0.02, 0.3))
    rig.kafka.start()
    # as `up` does after such a stop
    asyncio.run(pad_classified(rig.bootstrap))
    asyncio.run(rewind(rig.bootstrap))
    rig.feed(second)
    rig.run_all("ledger", "classify")
    lander = rig.start("lander")
    wait_until(lambda: not lander.running or rig.all_landed(), "it refuses, or has nothing against it")
    if not lander.running:
        rig.ended(lander, 78)
        resume(rig)


def _cut(directory: Path, share: float) -> None:
    """Take a share off the end of a partition's newest segment, and all that was derived from it."""
    segment = max(directory.glob("*.log"))
    os.truncate(segment, int(segment.stat().st_size * (1 - share)))
    for derived in directory.glob(f"{segment.stem}.*index"):
        derived.unlink()
    for snapshot in directory.glob("*.snapshot"):
        snapshot.unlink()


def compaction(rig: Rig, records: Records, chance: Chance) -> None:
    """The list is compacted down to the last record of each key, and the store is rebuilt from it."""
    second = rig.half_way(records)
    rig.alter(
        SUPPRESSIONS,
        min_compaction_lag_ms="0",
        segment_ms="100",
        min_cleanable_dirty_ratio="0.01",
        delete_retention_ms="100",
    )
    try:
        rig.feed(second)
        rig.verify()
        begun = superseded(rig)
        assert begun
        for _ in range(3):  # a segment is closed by what comes after it
            time.sleep(0.5)
            rig.feed(rig.expect(chance.randint(0, 1 << 30), 30).records)
            rig.verify()
        wait_until(lambda: superseded(rig) < begun, "it is compacted")
        rig.kill("ledger")
        for store in (rig.data_dir / "ledger" / "0").glob("p*"):
            shutil.rmtree(store)
    finally:
        rig.alter(SUPPRESSIONS)


def superseded(rig: Rig) -> int:
    """How many records of the list are followed by another of their key."""
    records = [record.key for p in range(rig.partitions) for record in rig.records(SUPPRESSIONS, p)]
    return len(records) - len(set(records))


ROWS = (
    broker_killed,
    broker_restarted,
    broker_frozen,
    broker_disk_full,
    tail_of_classified_lost,
    tail_of_events_lost,
    tail_of_list_lost,
    compaction,
)
