"""Adds to the rollups what they lack, or takes off what they have too much: `mailecho reconcile --repair`.

For a rollup that a migration made over events that were there, and for whatever `reconcile` finds. While no range
is under way, `events` and the rollups stand still, and the difference of the two is what is missing: nothing that
comes later can be part of it. With a range under way its repeated insert would bring the same rows again, so this
refuses then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError

from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.landing.database import write_client
from mailecho.pipeline.landing.intents import read
from mailecho.pipeline.landing.migrations import INSERT_SETTINGS
from mailecho.pipeline.landing.reconcile import Difference, counters_of, of_day, reconcile, views
from mailecho.pipeline.members import has_members, offsets_of
from mailecho.schemas import topics

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from mailecho.pipeline.config import Settings


class RepairRefused(RuntimeError):
    """The rollups cannot be repaired now; the message says the way on."""


def repair(client: Client) -> list[Difference]:
    """Mend every difference that `reconcile` finds, and give what was found. Landers must be stopped.

    Each day of a rollup is one insert; killed in between, it goes on where it was. Raises the client's errors.
    """
    found = reconcile(client)
    selects = dict(views(client))
    for rollup, day in sorted({(d.rollup, d.day) for d in found}):
        _mend(client, rollup, selects[rollup], day)
    return found


def _mend(client: Client, rollup: str, select: str, day: str) -> None:
    counters = counters_of(client, rollup)
    columns = client.query(
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
        "ORDER BY position",
        parameters={"table": rollup},
    ).result_rows
    keys = ", ".join(f"`{name}`" for (name,) in columns if name not in counters)
    ours = ", ".join(f"-toInt64(sum(`{name}`)) AS `{name}`" for name in counters)
    theirs = ", ".join(f"toInt64(`{name}`) AS `{name}`" for name in counters)
    # a counter too high gets a negative number, which UInt64 holds and every sum takes off
    sums = ", ".join(f"reinterpretAsUInt64(sum(`{name}`))" for name in counters)
    differs = " OR ".join(f"sum(`{name}`) != 0" for name in counters)
    client.command(
        f"INSERT INTO `{rollup}` ({keys}, {', '.join(f'`{name}`' for name in counters)}) "
        f"SELECT {keys}, {sums} FROM (SELECT {keys}, {theirs} FROM ({select}) "
        f"UNION ALL SELECT {keys}, {ours} FROM `{rollup}` WHERE received_on = toDate('{day}') GROUP BY {keys}) "
        f"GROUP BY {keys} HAVING {differs}",
        # the same difference may come again on another day: it is no repetition
        settings={**INSERT_SETTINGS, "insert_deduplicate": "0", **of_day(client, day)},
    )


def run(settings: Settings) -> list[Difference]:
    """Repair, once no lander runs and no range is under way. Raises RepairRefused."""
    asyncio.run(_check(settings))
    client = write_client(settings)
    try:
        return repair(client)
    finally:
        client.close()


async def _check(settings: Settings, group: str = topics.GROUP_LANDER) -> None:
    bootstrap = kafka_bootstrap(settings)
    try:
        running, committed = await has_members(bootstrap, group), await offsets_of(bootstrap, group)
    except KafkaError as error:
        raise RepairRefused(f"Kafka does not say whether landers run: {error!r}") from error
    if running:
        raise RepairRefused(
            "landers run: stop all of them, and wait "
            f"{settings.kafka.session_timeout_ms / 1000:g} s, after which Kafka forgets them. Nothing is lost "
            "meanwhile: the backlog lies in feedback.events, and suppressions go on"
        )
    for where, at in committed.items():
        if under_way(at.metadata or ""):
            raise RepairRefused(
                f"{where.topic}[{where.partition}]: the last lander left a range half-way. Start one, which "
                "finishes it, stop it, and try again"
            )


def under_way(metadata: str) -> bool:
    """Whether a partition's commit says that a range is being inserted, or nothing that can be read."""
    progress = read(metadata)
    return progress is None or progress.intent is not None
