"""The matrix's rows of the lander and of ClickHouse. See `rows_workers` for what a row is."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from dataclasses import replace

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from mailecho.pipeline.landing.intents import Progress
from mailecho.schemas.topics import EVENTS, GROUP_LANDER
from tests.agents.harness import wait_until
from tests.faults.generator import Raw
from tests.faults.rig import Rig, halves

Records = list[Raw]
Chance = random.Random

POINTS = ("before_intent", "after_intent", "after_insert", "after_changes", "after_landed", "after_commit")


def crash_of_lander(rig: Rig, records: Records, chance: Chance) -> None:
    """The lander dies before and after the intent, each insert, and the commit of the end."""
    points = list(POINTS)
    chance.shuffle(points)
    size = len(records) // len(points) + 1
    for number, name in enumerate(points):
        rig.kill("lander")
        rig.feed(records[number * size : (number + 1) * size])
        rig.run_all("classify", "ledger")
        rig.dies("lander", f"lander.{name}")


def replay_across_restart(rig: Rig, records: Records, chance: Chance) -> None:
    """Emissions come a second time, some before and some after the lander dies with a range open."""
    second = rig.half_way(records)
    rig.kill("lander")
    again = {p: rig.emissions(p)[-chance.randint(3, 12) :] for p in range(rig.partitions)}
    rig.feed(second[: len(second) // 2])
    wait_until(rig.all_folded, "the ledger has folded all")
    _send_again(rig, {p: part[: len(part) // 2] for p, part in again.items()})
    rig.dies("lander", "lander.after_intent")
    _send_again(rig, {p: part[len(part) // 2 :] for p, part in again.items()})
    rig.feed(second[len(second) // 2 :])


def _send_again(rig: Rig, parts: dict[int, list]) -> None:  # type: ignore[type-arg]
    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=rig.bootstrap) as producer:
            for partition, part in parts.items():
                for record in part:
                    await producer.send_and_wait(
                        EVENTS, record.value, headers=list(record.headers), partition=partition
                    )

    asyncio.run(send())


def two_landers(rig: Rig, records: Records, chance: Chance) -> None:
    """A second lander joins, and is killed with a range open; the first takes it over."""
    first, second = halves(records)
    rig.feed(first)
    other = rig.start("lander", "1", faults=f"lander.after_insert:{chance.randint(1, 3)}")
    rig.ready("lander", "1")
    feeder = rig.feeding(second, 3.0)
    feeder.finish()
    wait_until(lambda: not other.running or rig.all_landed(), "it is killed, or there was too little to land")


def zombie_lander(rig: Rig, records: Records, chance: Chance) -> None:
    """The lander is stopped, another takes over when its session has expired, then it wakes."""
    first, second = halves(records)
    asleep = rig.ready("lander")
    feeder = rig.feeding(first, 1.0)
    time.sleep(chance.uniform(0.2, 1.5))
    asleep.pause()
    feeder.finish()
    rig.start("lander", "b")
    rig.ready("lander", "b")
    wait_until(rig.all_landed, "the other has landed all")
    asleep.wake()
    rig.feed(second)


def landing_shared_out(rig: Rig, records: Records, chance: Chance) -> None:
    """The lander dies in the middle of an insert for all partitions, and two others share them out."""
    first, second = halves(records)
    rig.kill("lander")
    rig.feed(first)
    wait_until(rig.all_folded, "the ledger has folded all")
    rig.dies("lander", f"lander.{chance.choice(POINTS[1:5])}")
    for name in ("b", "c"):
        rig.start("lander", name, faults=f"lander.after_insert:{chance.randint(2, 4)}" if chance.random() < 0.3 else "")
    rig.feed(second)
    others = [rig.running["lander", name] for name in ("b", "c")]
    wait_until(
        lambda: rig.all_landed() or not all(other.running for other in others), "it has landed, or one is killed"
    )


def clickhouse_killed(rig: Rig, records: Records, chance: Chance) -> None:
    """ClickHouse is killed in the middle of inserts, again and again."""
    feeder = rig.feeding(records, 6.0)
    for _ in range(3):
        time.sleep(chance.uniform(0.5, 1.5))
        rig.clickhouse.restart()
    feeder.finish()


def clickhouse_down(rig: Rig, records: Records, chance: Chance) -> None:
    """ClickHouse is away for a while: the backlog waits in `events`, suppressions go on."""
    first, second = halves(records)
    rig.feed(first)
    waits = rig.hears("lander", "trying again for ever")
    rig.clickhouse.kill()
    rig.feed(second)
    wait_until(rig.all_folded, "events and suppressions go on")
    wait_until(waits, "the lander waits")
    time.sleep(chance.uniform(0.0, 15.0))
    rig.clickhouse.start()
    assert rig.running["lander", "0"].running


def view_failure(rig: Rig, records: Records, chance: Chance) -> None:
    """A view's target is gone: inserts fail with the table written and a view not; then it is back."""
    second = rig.half_way(records)
    table = chance.choice(
        ("rollup_minute_provider", "rollup_minute_ip_cause", "rollup_quarter", "rollup_hour_campaign")
    )
    waits = rig.hears("lander", "trying again for ever")
    rig.client.command(f"RENAME TABLE {table} TO aside")
    try:
        rig.feed(second)
        wait_until(waits, "the lander waits")
        if chance.random() < 0.5:
            rig.start("lander")
            time.sleep(2.0)
    finally:
        rig.client.command(f"RENAME TABLE aside TO {table}")


def clickhouse_disk_full(rig: Rig, records: Records, chance: Chance) -> None:
    """ClickHouse's disk has too little room for one of the tables: inserts fail there until it has."""
    second = rig.half_way(records)
    table = chance.choice(("events", "suppression_changes", "landed", "rollup_quarter", "rollup_hour_campaign"))
    # it refuses an insert where less than this is free, which no disk has
    setting = "min_free_disk_bytes_to_perform_insert"
    rig.client.command(f"ALTER TABLE {table} MODIFY SETTING {setting} = {1 << 60}")
    waits = rig.hears("lander", "enough free space")
    rig.feed(second)
    wait_until(waits, "the lander waits")
    lander = rig.running["lander", "0"]
    assert lander.running, lander.said()[-2000:]
    if chance.random() < 0.5:
        rig.start("lander")
        time.sleep(2.0)
    rig.client.command(f"ALTER TABLE {table} RESET SETTING {setting}")


def metadata_lost(rig: Rig, records: Records, chance: Chance) -> None:
    """The lander's commits lose their metadata, are deleted, or are set elsewhere: refused, then resumed."""
    second = rig.half_way(records)
    rig.kill("lander")
    rig.feed(second[: len(second) // 2])
    wait_until(rig.all_folded, "the ledger has folded all")
    rig.dies("lander", f"lander.{chance.choice(POINTS)}")
    stands = {place: offset for place, offset in rig.committed(GROUP_LANDER).items() if place[0] == EVENTS}
    match chance.randint(0, 2):
        case 0:
            rig.delete_group(GROUP_LANDER)
        case 1:
            rig.set_offsets(GROUP_LANDER, stands)
        case 2:
            rig.set_offsets(GROUP_LANDER, {place: offset // 2 for place, offset in stands.items()})
    lander = rig.start("lander")
    rig.ended(lander, 78)
    assert "--resume" in lander.said()
    rig.feed(second[len(second) // 2 :])
    resume(rig)


def resume(rig: Rig) -> None:
    """`mailecho lander --resume`, as soon as it may be."""

    def resumed() -> bool:
        ran = rig.command("lander", "--resume")
        return ran.returncode == 0

    wait_until(resumed, "Kafka has forgotten the lander, and it is resumed", 90)


def clock_of_lander(rig: Rig, records: Records, chance: Chance) -> None:
    """The lander's clock jumps between the intent and its repetition, either way: it is looked up."""
    rig.kill("lander")
    rig.feed(records)
    wait_until(rig.all_folded, "the ledger has folded all")
    rig.dies("lander", f"lander.{chance.choice(POINTS[1:5])}")

    async def read(admin: AIOKafkaAdminClient) -> dict[TopicPartition, tuple[int, str]]:
        found = await admin.list_consumer_group_offsets(GROUP_LANDER)
        return {where: (at.offset, at.metadata) for where, at in found.items()}

    jump = chance.choice((-1, 1)) * chance.randint(2, 48) * 3_600_000
    jumped = 0
    for where, (offset, metadata) in rig.administrate(read).items():
        progress = Progress.loads(metadata)
        if progress.intent is not None:
            moved = replace(progress, intent=replace(progress.intent, at=progress.intent.at + jump))
            rig.set_offsets(GROUP_LANDER, {(where.topic, where.partition): offset}, moved.dumps())
            jumped += 1
    assert jumped
    lander = rig.start("lander")
    wait_until(lambda: "looked up the range" in lander.said() or rig.all_landed(), "it is looked up")


def clickhouse_restored(rig: Rig, records: Records, chance: Chance) -> None:
    """ClickHouse is put back to an older state of its disk: the lander refuses, and is resumed."""
    second = rig.half_way(records)
    rig.clickhouse.stop(30)
    backup = rig.data_dir / "backup"
    shutil.copytree(rig.clickhouse.directory, backup, symlinks=True)
    rig.clickhouse.start()
    rig.feed(second)
    rig.verify()
    rig.kill("lander")
    rig.clickhouse.kill()
    shutil.rmtree(rig.clickhouse.directory)
    backup.rename(rig.clickhouse.directory)
    rig.clickhouse.start()
    lander = rig.start("lander")
    rig.ended(lander, 78)
    assert "ClickHouse was restored" in lander.said()
    resume(rig)


ROWS = (
    crash_of_lander,
    replay_across_restart,
    two_landers,
    zombie_lander,
    landing_shared_out,
    clickhouse_killed,
    clickhouse_down,
    view_failure,
    clickhouse_disk_full,
    metadata_lost,
    clock_of_lander,
    clickhouse_restored,
)
