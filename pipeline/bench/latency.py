"""How long the whole system takes for one raw record, and what it costs, at a steady rate and with nothing to do.

A system of its own is started. Records go in one by one, a hard bounce among twenty. Two ends of a bounce's way are
watched by asking again and again: its row in ClickHouse, and the lookup's answer over HTTP. Questions cost the system
something, so the processor time is taken before, at the same rate, without them.

The baseline is the shortest way that a program of a page could take: aiokafka's getmany, orjson, one insert into the
same ClickHouse for all that came, at once and with no rest. It keeps nothing that a crash or a second copy would need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from mailecho.pipeline.bench.harness import Progress, Result, percentile, silent
from mailecho.pipeline.bench.traffic import Record, producer_to, send_at
from mailecho.pipeline.bench.up import System, SystemFailed, percent_of_a_core, whole_system
from mailecho.pipeline.landing.database import write_client

#: Between two questions for what has arrived: the answer's time is taken, so this is in every latency.
ASK_SECONDS = 0.02
#: What has not arrived by then is lost.
LOST_SECONDS = 30.0
#: A worker's first records are its slowest: imports, first connections, first parts of tables.
WARM_SECONDS = 5.0
#: After work: commits, merges and the JIT compiler go on for some seconds.
SETTLE_SECONDS = 10.0
#: One latency of the 99th percentile is taken of so many seconds.
RUN_SECONDS = 10.0

BARE_TOPIC = "bench.bare"
BARE_TABLE = "bench_bare"
ROW, DENY = "row", "deny"


def run(rate: int = 1000, seconds: float = 60.0, idle: float = 30.0, progress: Progress = silent) -> Result:
    """Latency from raw record to row and to denial, and the processor time of every process.

    `rate` in records a second; `seconds` of load for the processor time and again for the latency; `idle` seconds
    without load. Raises SystemFailed where a record did not arrive.
    """
    progress("starting a whole system")
    with whole_system() as system:
        return measure(system, rate, seconds, idle, progress)


def measure(system: System, rate: int, seconds: float, idle: float, progress: Progress = silent) -> Result:
    """`run` on a system that runs already and has nothing to do."""
    return asyncio.run(_measure(system, rate, seconds, idle, progress))


async def _measure(system: System, rate: int, seconds: float, idle: float, progress: Progress) -> Result:
    async with producer_to(system.endpoints["kafka"]) as producer:
        progress("warming up")
        await _watched(system, lambda sent: send_at(producer, rate, min(WARM_SECONDS, seconds), "warm", sent))
        await asyncio.sleep(min(SETTLE_SECONDS, idle))
        progress(f"idle, {idle:g} s")
        resting = await _cpu(system, asyncio.sleep(idle))
        progress(f"processor time at {rate:,} records a second, {seconds:g} s")
        load = asyncio.create_task(send_at(producer, rate, seconds + 2, "load"))
        await asyncio.sleep(2)
        working = await _cpu(system, asyncio.sleep(seconds))
        await load
        progress(f"latency at {rate:,} records a second, {seconds:g} s")
        found = await _watched(system, lambda sent: send_at(producer, rate, seconds, "lat", sent))
        progress("the bare loop")
        bare = await _bare(system, rate, min(seconds, 20.0))
    more: dict[str, Any] = {"rate": rate, "bounces": len(found[DENY])}
    for prefix, latencies in (("", found[ROW]), ("deny_", found[DENY]), ("baseline_", bare)):
        values = sorted(latency for _, latency in latencies)
        more |= {f"{prefix}p{n}_ms": round(percentile(values, n / 100) * 1000, 1) for n in (50, 95, 99)}
    more |= {
        "cpu_percent": round(sum(working.values()), 1),
        "cpu_percent_by_process": working,
        "idle_cpu_percent": round(sum(resting.values()), 1),
        "idle_cpu_percent_by_process": resting,
    }
    return Result("latency", "rows/s one after the other (1/p99)", _runs(found[ROW]), "bare loop", _runs(bare), more)


#: (when it was due, seconds until it was seen)
Latencies = list[tuple[float, float]]


def _runs(latencies: Latencies) -> list[float]:
    """1/p99 of each RUN_SECONDS."""
    first = min(due for due, _ in latencies)
    runs: dict[int, list[float]] = {}
    for due, latency in latencies:
        runs.setdefault(int((due - first) / RUN_SECONDS), []).append(latency)
    return [1 / percentile(sorted(run), 0.99) for run in runs.values()]


async def _cpu(system: System, meanwhile: Awaitable[None]) -> dict[str, float]:
    before, began = system.cpu_seconds(), time.monotonic()
    await meanwhile
    return percent_of_a_core(before, system.cpu_seconds(), time.monotonic() - began)


# --- what is watched ------------------------------------------------------------------------------------------


async def _watched(
    system: System, load: Callable[[Callable[[Record, float], None]], Awaitable[int]]
) -> dict[str, Latencies]:
    """Run a load and give the latencies of its bounces, by end. Raises SystemFailed where one did not arrive."""
    due: dict[str, dict[str, float]] = {ROW: {}, DENY: {}}
    found: dict[str, Latencies] = {ROW: [], DENY: []}
    stop = asyncio.Event()

    def sent(record: Record, at: float) -> None:
        if record.bounces:
            due[ROW][record.message_id] = at
            due[DENY][record.recipient] = at

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        questions: dict[str, Callable[[list[str]], Awaitable[list[str]]]] = {
            ROW: lambda waiting: _rows(session, system, time.monotonic() - due[ROW][waiting[0]]),
            DENY: lambda waiting: _denied(session, system, waiting),
        }

        async def watch(end: str) -> None:
            while not stop.is_set() or due[end]:
                if waiting := list(due[end]):
                    seen = await questions[end](waiting)
                    now = time.monotonic()
                    for name in seen:
                        if (at := due[end].pop(name, None)) is not None:
                            found[end].append((at, now - at))
                    if due[end] and now - next(iter(due[end].values())) > LOST_SECONDS:
                        name = next(iter(due[end]))
                        raise SystemFailed(f"{name} did not arrive within {LOST_SECONDS:g} s ({end})")
                await asyncio.sleep(ASK_SECONDS)

        try:
            async with asyncio.TaskGroup() as group:
                for end in questions:
                    group.create_task(watch(end))
                await load(sent)
                stop.set()
        except* SystemFailed as failed:
            raise failed.exceptions[0] from None
    return found


async def _rows(session: aiohttp.ClientSession, system: System, age: float) -> list[str]:
    """Message ids of the bounces received within the last seconds."""
    sql = (
        "SELECT message_id FROM events WHERE kind = 'bounce' "
        f"AND received_at > now64() - INTERVAL {int(age) + 1} SECOND FORMAT TabSeparated"
    )
    params = {"database": system.settings.clickhouse.database, "query": sql}
    async with session.get(system.endpoints["clickhouse"], params=params) as answer:
        text = await answer.text()
        if answer.status != 200:
            raise SystemFailed(f"ClickHouse: {text}")
        return text.split()


async def _denied(session: aiohttp.ClientSession, system: System, addresses: list[str]) -> list[str]:
    url = f"{system.endpoints['api']}/v1/suppressions/check"
    async with session.post(url, json={"addresses": addresses}) as answer:
        if answer.status != 200:
            raise SystemFailed(f"the lookup: {await answer.text()}")
        return [result["address"] for result in (await answer.json())["results"] if not result["allowed"]]


# --- the baseline ---------------------------------------------------------------------------------------------


async def _bare(system: System, rate: int, seconds: float) -> Latencies:
    """The latencies of all records of a bare loop, beside a system that has nothing to do."""
    bootstrap = system.endpoints["kafka"]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(BARE_TOPIC, 1, 1)])
    await admin.close()
    client = await asyncio.to_thread(write_client, system.settings)
    await asyncio.to_thread(
        client.command,
        f"CREATE TABLE {BARE_TABLE} (kind String, recipient String, message_id String, occurred_at DateTime64(3)) "
        "ENGINE = MergeTree ORDER BY occurred_at",
    )
    due: dict[str, float] = {}
    found: Latencies = []
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(BARE_TOPIC, 0)])

    def insert(values: list[bytes]) -> list[str]:
        rows = [orjson.loads(value) for value in values]
        names = ("kind", "recipient", "message_id", "occurred_at")
        body = b"\n".join(orjson.dumps({name: row[name] for name in names}) for row in rows)
        client.raw_insert(BARE_TABLE, insert_block=body, settings={"async_insert": 0}, fmt="JSONEachRow")
        return [row["message_id"] for row in rows]

    async def loop(total: int) -> None:
        while len(found) < total:
            batches = await consumer.getmany(timeout_ms=1_000)
            values = [record.value for batch in batches.values() for record in batch]
            if values:
                inserted = await asyncio.to_thread(insert, values)
                now = time.monotonic()
                found.extend((due[name], now - due[name]) for name in inserted)

    def sent(record: Record, at: float) -> None:
        due[record.message_id] = at

    try:
        async with producer_to(bootstrap) as producer, asyncio.timeout(seconds + LOST_SECONDS):
            looping = asyncio.create_task(loop(int(rate * seconds)))
            await send_at(producer, rate, seconds, "bare", sent, topic=BARE_TOPIC)
            await looping
    finally:
        await consumer.stop()
        client.close()
    return found
