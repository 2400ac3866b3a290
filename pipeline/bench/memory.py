"""Whether memory stays flat: many events through the whole system, and what each process holds meanwhile.

What is read is anonymous memory (RssAnon): pages that are mapped from files, LMDB's above all, come and go with the
page cache. A process is flat when its line over the last part of the run, after caches and heaps have filled, does
not rise by what matters.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from aiokafka import AIOKafkaProducer

from mailecho.pipeline.bench.harness import Progress, machine, silent
from mailecho.pipeline.bench.traffic import producer_to, records
from mailecho.pipeline.bench.up import System, SystemFailed, whole_system
from mailecho.pipeline.landing.database import write_client
from mailecho.schemas.topics import RAW_DELIVERY

#: Lines of one raw record, as a program that tails a log sends them.
LINES = 20
#: No more events than this are under way, so that the disk does not fill with a backlog.
AHEAD = 200_000
SAMPLE_SECONDS = 2.0
#: The claim is about this share of the run, the last.
SETTLED = 0.6
#: Without a new row for this long, the system has stopped.
STUCK_SECONDS = 120.0

_HEADERS = [("source", b"mailecho")]
_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60


def run(events: int = 10_000_000, samples: Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """Feed so many events through a whole system; each process's anonymous memory over the events that landed.

    `processes` has, by name: `first_mb`, `peak_mb`, `last_mb`, and `slope_mb_per_million`, the least-squares line over
    the last SETTLED of the run in MB per million events. All samples go to the file `samples`, tab separated:
    seconds, events, process, MB. Raises SystemFailed where the system stops landing.
    """
    progress("starting a whole system")
    with whole_system() as system:
        return measure(system, events, samples, progress)


def measure(system: System, events: int, samples: Path | None = None, progress: Progress = silent) -> dict[str, Any]:
    """`run` on a system that runs already and has nothing to do."""
    if samples is None:
        return asyncio.run(_measure(system, events, None, progress))
    with samples.open("w") as file:
        file.write("seconds\tevents\tprocess\tmb\n")
        return asyncio.run(_measure(system, events, file, progress))


async def _measure(system: System, events: int, file: TextIO | None, progress: Progress) -> dict[str, Any]:
    client = await asyncio.to_thread(write_client, system.settings)
    count_sql = "SELECT count() FROM events"
    there = int(await asyncio.to_thread(client.command, count_sql))  # type: ignore[arg-type]
    landed, began, moved = 0, time.monotonic(), time.monotonic()
    taken: dict[str, list[tuple[int, float]]] = {}
    room = asyncio.Condition()

    async def feed(producer: AIOKafkaProducer) -> None:
        source = records("mem")
        for number in range(0, events, LINES):
            async with room:
                while number - landed >= AHEAD:
                    await room.wait()
            count = min(LINES, events - number)
            value = b"\n".join(next(source).value for _ in range(count))
            await producer.send(RAW_DELIVERY, value, headers=_HEADERS)
        await producer.flush()

    async def sample() -> None:
        nonlocal landed, moved
        while landed < events:
            before = landed
            landed = int(await asyncio.to_thread(client.command, count_sql)) - there  # type: ignore[arg-type]
            now = time.monotonic()
            moved = now if landed > before else moved
            if now - moved > STUCK_SECONDS:
                raise SystemFailed(f"no new row for {STUCK_SECONDS:g} s, {landed:,} of {events:,} events have landed")
            for name, mb in system.memory_mb().items():
                taken.setdefault(name, []).append((landed, mb))
                if file is not None:
                    file.write(f"{now - began:.1f}\t{landed}\t{name}\t{mb:.1f}\n")
            if file is not None:
                file.flush()
            progress(f"{landed:,} of {events:,} events, {landed / (now - began):,.0f} a second")
            async with room:
                room.notify_all()
            await asyncio.sleep(SAMPLE_SECONDS)

    try:
        async with producer_to(system.endpoints["kafka"]) as producer, asyncio.TaskGroup() as group:
            group.create_task(feed(producer))
            group.create_task(sample())
    except* SystemFailed as failed:
        raise failed.exceptions[0] from None
    finally:
        await asyncio.to_thread(client.close)
    return {
        "name": "memory",
        "events": events,
        "seconds": round(time.monotonic() - began, 1),
        "processes": {name: line(samples) for name, samples in taken.items()},
        "machine": machine(),
    }


def line(samples: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """What (events, MB) samples of one process, in order, say; `plot` is their course from 0 to the peak."""
    settled = [(at, mb) for at, mb in samples if at >= samples[-1][0] * (1 - SETTLED)]
    return {
        "first_mb": round(samples[0][1], 1),
        "peak_mb": round(max(mb for _, mb in samples), 1),
        "last_mb": round(samples[-1][1], 1),
        "slope_mb_per_million": round(slope(settled) * 1e6, 1),
        "plot": plot(samples),
    }


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Rise of the least-squares line through (x, y) points; 0 where all have one x."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def plot(samples: Sequence[tuple[int, float]]) -> str:
    """A line of bars from 0 to the peak, events from left to right."""
    last, peak = max(samples[-1][0], 1), max(mb for _, mb in samples) or 1.0
    columns: dict[int, float] = {}
    for at, mb in samples:
        column = min(at * _WIDTH // last, _WIDTH - 1)
        columns[column] = max(mb, columns.get(column, 0.0))
    bars, height = "", 0.0
    for column in range(_WIDTH):
        height = columns.get(column, height)
        bars += _BARS[min(int(height / peak * len(_BARS)), len(_BARS) - 1)]
    return bars


def readable(result: dict[str, Any]) -> list[str]:
    """A result as lines."""
    host = result["machine"]
    lines = [f"{result['events']:,} events in {result['seconds']:,} s; MB of anonymous memory over the events landed"]
    lines += [f"{'process':<12} {'first':>7} {'peak':>7} {'last':>7}  MB/million, last {SETTLED:.0%}"]
    for name, found in result["processes"].items():
        numbers = "".join(f" {found[key]:>7,.1f}" for key in ("first_mb", "peak_mb", "last_mb"))
        lines.append(f"{name:<12}{numbers} {found['slope_mb_per_million']:>+10,.1f}    {found['plot']}")
    lines.append(f"{host['processor']}, {host['cores']} cores, load {host['load']}, Python {host['python']}")
    return lines
