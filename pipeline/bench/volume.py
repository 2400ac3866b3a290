"""Delivery events from a raw topic to rows counted in ClickHouse, beside a bare loop over the same records."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from mailecho.pipeline.bench.feed import RECIPIENTS, Record, batches, singles
from mailecho.pipeline.bench.harness import Progress, Result, silent
from mailecho.pipeline.bench.system import BenchFailed, Part, Stage, System, complete, drain, running
from mailecho.schemas import headers as h
from mailecho.schemas.topics import (
    CLASSIFIED,
    CLASSIFY_INPUT,
    EVENTS,
    GROUP_CLASSIFY,
    GROUP_LANDER,
    GROUP_LEDGER,
    RAW_DELIVERY,
)

OURS, BARE = "raw topic to ClickHouse", "bare loop (getmany, orjson, same rows, JSONEachRow)"
FORMS: dict[str, Callable[[int, float], Iterator[Record]]] = {"single": singles, "batch": batches}

#: A request to the broker while the topic is filled.
FILL_BYTES = 512 * 1024
_BARE_DATABASE = "bare"


@dataclass(slots=True)
class Measured:
    """One run: CPU seconds by part, for so many events, and what else was seen."""

    events: int
    cpu: dict[str, float]
    wall: float = 0.0
    inserts: int = 0
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        """Events for each CPU-second of all but the broker."""
        return self.events / sum(seconds for name, seconds in self.cpu.items() if name != "kafka")

    def micros(self) -> dict[str, float]:
        """Microseconds of CPU an event, by part."""
        return {name: seconds / self.events * 1e6 for name, seconds in self.cpu.items()}


def run(
    events: int = 1_000_000, runs: int = 3, partitions: int = 4, workers: int = 1, progress: Progress = silent
) -> Result:
    """Events for each CPU-second of our processes and ClickHouse; the broker's is told apart.

    Each run has a fresh Kafka and ClickHouse, fills the topic (not counted), runs the real roles beside each other
    until all has landed, then the bare loop over the same records into the same tables of another database, and
    compares what stands in both. Raises BenchFailed where a row is missing, double or different.
    """
    ours: dict[str, list[Measured]] = {form: [] for form in FORMS}
    bare: dict[str, list[Measured]] = {form: [] for form in FORMS}
    for number in range(runs):
        for form, make in FORMS.items():
            what = f"run {number + 1} of {runs}, {form} records"
            with running(partitions, lambda text, what=what: progress(f"{what}: {text}")) as system:  # type: ignore[misc]
                found, base = _one(system, events, make, workers, lambda text, what=what: progress(f"{what}: {text}"))  # type: ignore[misc]
            ours[form].append(found)
            bare[form].append(base)
            progress(f"{what}: {found.speed:,.0f} against {base.speed:,.0f} events/CPU-second")
    single, batch = _summary(ours["single"], bare["single"]), _summary(ours["batch"], bare["batch"])
    more: dict[str, Any] = {
        "events": events,
        "recipients": RECIPIENTS,
        "partitions": partitions,
        "workers": workers,
        "spread": single["spread"],
        "ratio_runs": single["ratio_runs"],
        "cpu_us_per_event": single["cpu_us_per_event"],
        "bare_cpu_us_per_event": single["bare_cpu_us_per_event"],
        "events_per_second": single["events_per_second"],
        "rows_per_insert": single["rows_per_insert"],
        "peak_rss_mb": single["peak_rss_mb"],
        "batch": batch,
    }
    return Result(
        "volume", "events/CPU-second", [m.speed for m in ours["single"]], BARE, [m.speed for m in bare["single"]], more
    )


def _one(
    system: System, events: int, make: Callable[[int, float], Iterator[Record]], workers: int, progress: Progress
) -> tuple[Measured, Measured]:
    bootstrap = system.settings.kafka.bootstrap_servers
    starts = starting(system, workers)
    asyncio.run(fill(bootstrap, RAW_DELIVERY, system.partitions, make(events, time.time()), progress))
    system.settle()
    found = pipeline(system, events, workers, starts, progress)
    rows = max(1, events // max(1, found.inserts))
    progress(f"the bare loop, {rows:,} rows an insert")
    base = _bare(system, rows)
    _compare(system, events)
    return found, base


def starting(system: System, workers: int) -> dict[str, float]:
    """CPU seconds that a process of each role takes to start, on topics that hold nothing yet: no event's cost."""
    roles = _roles(system, workers)
    asyncio.run(complete(system, list(roles.values())))
    costs = {role: statistics.mean(part.cpu() for part in stage.parts) for role, stage in roles.items()}
    for stage in roles.values():
        for part in stage.parts:
            system.end(part)
    return costs


def _roles(system: System, workers: int) -> dict[str, Stage]:
    def each(role: str) -> list[Part]:
        return [system.role(f"{role}-{n}", "worker", role) for n in range(workers)]

    return {
        "classify": Stage(GROUP_CLASSIFY, CLASSIFY_INPUT, each("classify")),
        "ledger": Stage(GROUP_LEDGER, (CLASSIFIED,), each("ledger")),
        "lander": Stage(GROUP_LANDER, (EVENTS,), [system.role("lander", "lander")]),
    }


def pipeline(system: System, events: int, workers: int, starts: dict[str, float], progress: Progress) -> Measured:
    """Run the roles until all that the raw topics hold has landed; counts the rows.

    `starts` is what `starting` gave: the CPU of starting is not counted.
    """
    engine, broker = system.parts["clickhouse"], system.parts["kafka"]
    for part in (engine, broker):
        part.since = part.cpu()
    roles = _roles(system, workers)
    stages = list(roles.values())
    parts: dict[str, list[Part]] = {role: stage.parts for role, stage in roles.items()}
    for role, group in parts.items():
        for part in group:
            part.since = starts[role]
    wall = asyncio.run(drain(system, stages, progress))
    cpu = {role: sum(part.spent() for part in group) for role, group in parts.items()}
    peak = {role: max(part.peak_mb for part in group) for role, group in parts.items()}
    for group in parts.values():
        for part in group:
            system.end(part)
    system.settle()
    cpu |= {"clickhouse": engine.spent(), "kafka": broker.spent()}
    peak |= {"clickhouse": engine.peak_mb, "kafka": broker.peak_mb}
    with system.client() as client:
        landed = int(client.query("SELECT count() FROM events").result_rows[0][0])
        inserts = int(client.query("SELECT count() FROM landed").result_rows[0][0])
    if landed != events:
        raise BenchFailed(f"{events:,} events were sent, ClickHouse has {landed:,}")
    return Measured(events, cpu, wall, inserts, peak)


def _bare(system: System, rows: int) -> Measured:
    with system.client(_BARE_DATABASE) as client:
        system.migrate(client)
    system.settle()
    engine, broker = system.parts["clickhouse"], system.parts["kafka"]
    for part in (engine, broker):
        part.since = part.cpu()
    began = time.monotonic()
    part = system.part("bare", ["-m", "mailecho.pipeline.bench.bare", _BARE_DATABASE, str(rows)])
    said = system.wait(part)
    wall = time.monotonic() - began
    try:
        answer = orjson.loads(said.splitlines()[-1])
    except (IndexError, orjson.JSONDecodeError):
        raise BenchFailed(f"the bare loop ended: {said[-1000:]}") from None
    system.settle()
    return Measured(
        answer["rows"], {"loop": answer["cpu"], "clickhouse": engine.spent(), "kafka": broker.spent()}, wall
    )


def _compare(system: System, events: int) -> None:
    """The bare loop's rows are ours, in every column: so it is the same work that both are measured at."""
    database = system.settings.clickhouse.database
    sql = (
        "SELECT count(), sum(cityHash64(*)) FROM {}.events",
        f"SELECT * FROM {database}.events EXCEPT SELECT * FROM {_BARE_DATABASE}.events ORDER BY event_id LIMIT 1",
    )
    with system.client() as client:
        ours = client.query(sql[0].format(database)).result_rows
        bare = client.query(sql[0].format(_BARE_DATABASE)).result_rows
        if ours != bare:
            one = client.query(sql[1]).named_results() if events <= 100_000 else []
            raise BenchFailed(f"our rows {ours} and the bare loop's {bare} differ, first {next(iter(one), '')}")


async def fill(bootstrap: str, topic: str, partitions: int, records: Iterator[Record], progress: Progress) -> int:
    """Send records to a topic, by turns to its partitions; gives how many."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        max_batch_size=FILL_BYTES,
        max_request_size=2 * FILL_BYTES,
    )
    await producer.start()
    sent = 0
    try:
        batches = [producer.create_batch() for _ in range(partitions)]
        under_way: list[Any] = [None] * partitions

        async def send(partition: int) -> None:
            if under_way[partition] is not None:
                await under_way[partition]
            batches[partition].close()
            under_way[partition] = await producer.send_batch(batches[partition], topic, partition=partition)
            batches[partition] = producer.create_batch()

        for source, value in records:
            partition = sent % partitions
            headers = [(h.SOURCE, source.encode())]
            while batches[partition].append(key=None, value=value, timestamp=None, headers=headers) is None:
                await send(partition)
            sent += 1
            if sent % 50_000 == 0:
                progress(f"{sent:,} records sent")
        for partition in range(partitions):
            if batches[partition].record_count():
                await send(partition)
        for future in under_way:
            if future is not None:
                await future
    finally:
        await producer.stop()
    return sent


def _summary(ours: list[Measured], bare: list[Measured]) -> dict[str, Any]:
    speeds, base = [m.speed for m in ours], [m.speed for m in bare]
    median, against = statistics.median(speeds), statistics.median(base)
    return {
        "runs": [round(speed) for speed in speeds],
        "median": round(median),
        "baseline": {"name": BARE, "runs": [round(speed) for speed in base], "median": round(against)},
        "ratio": round(median / against, 2),
        "ratio_runs": [round(a / b, 2) for a, b in zip(speeds, base, strict=True)],
        "spread": round((max(speeds) - min(speeds)) / median, 3),
        "cpu_us_per_event": _micros(ours),
        "bare_cpu_us_per_event": _micros(bare),
        "events_per_second": round(statistics.median(m.events / m.wall for m in ours)),
        "rows_per_insert": round(statistics.median(m.events / max(1, m.inserts) for m in ours)),
        "peak_rss_mb": {name: round(max(m.peak_mb[name] for m in ours)) for name in ours[0].peak_mb},
    }


def _micros(measured: list[Measured]) -> dict[str, float]:
    found = [m.micros() for m in measured]
    parts = {name: round(statistics.median(each[name] for each in found), 2) for name in found[0]}
    whole = round(statistics.median(1e6 / m.speed for m in measured), 2)
    return {**parts, "whole_without_kafka": whole}
