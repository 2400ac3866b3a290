"""Mailed reports from the raw topic to rows counted in ClickHouse, beside a bare loop that only parses them.

    python -m mailecho.pipeline.bench.dsn

is that loop: one process with aiokafka's getmany and the parse of flanker, or flufl.bounce's scan where that is
installed; it makes no event, no id, no row. It prints one JSON object: `messages`, and `cpu` in seconds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from random import Random
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from mailecho.pipeline.bench.classify import FLANKER, FLUFL, made_up, readers
from mailecho.pipeline.bench.harness import Progress, Result, silent
from mailecho.pipeline.bench.system import BenchFailed, System, running
from mailecho.pipeline.bench.volume import Measured, fill, pipeline, starting
from mailecho.pipeline.config import load
from mailecho.schemas.topics import RAW_DSN

#: The roles whose CPU counts; that of ClickHouse and of the broker is told apart.
WORKERS = ("classify", "ledger", "lander")

_LAST_RETURNED = b"List-Unsubscribe: <https://example.com/unsubscribe>\r\n"
_TEXT = b"Thank you for shopping with us. Here is what is new this week, at prices that stay until Sunday.\r\n"


def run(messages: int = 50_000, runs: int = 3, progress: Progress = silent) -> Result:
    """Reports for each CPU-second of the workers, all threads. Raises BenchFailed where a row is missing or double."""
    ours: list[Measured] = []
    base: list[float] = []
    sizes: list[int] = []
    for number in range(runs):

        def say(text: str, number: int = number) -> None:
            progress(f"run {number + 1} of {runs}: {text}")

        with running(4, say) as system:
            feed = (("", raw) for raw in _noted(reports(messages, time.time(), seed=number), sizes))
            starts = starting(system, 1)
            asyncio.run(fill(system.settings.kafka.bootstrap_servers, RAW_DSN, system.partitions, feed, say))
            system.settle()
            ours.append(pipeline(system, messages, 1, starts, say))
            say("the bare loop")
            base.append(_bare(system, messages))
    speeds = [m.events / sum(m.cpu[role] for role in WORKERS) for m in ours]
    micros = [m.micros() for m in ours]
    more: dict[str, Any] = {
        "messages": messages,
        "mean_bytes": round(statistics.mean(sizes)),
        "spread": round((max(speeds) - min(speeds)) / statistics.median(speeds), 3),
        "cpu_us_per_event": {name: round(statistics.median(m[name] for m in micros), 1) for name in micros[0]},
        "with_clickhouse": round(statistics.median(m.speed for m in ours), 1),
        "events_per_second": round(statistics.median(m.events / m.wall for m in ours)),
        "peak_rss_mb": {name: round(max(m.peak_mb[name] for m in ours)) for name in ours[0].peak_mb},
    }
    return Result("dsn", "reports/CPU-second", speeds, f"getmany, {_reader()}", base, more)


def reports(count: int, now: float, seed: int = 1) -> Iterator[bytes]:
    """Distinct reports of several MTAs, of 1 to 20 kB as real ones are; each gives one event."""
    rng = Random(seed)
    for _, raw in islice(made_up(seed), count):
        head = _trace(rng, now)
        size = min(16_000, int(rng.lognormvariate(7.36, 0.9)))
        body = b"\r\n" + (_TEXT * (size // len(_TEXT) + 1))[:size] + b"\r\n"
        yield head + raw.replace(_LAST_RETURNED, _LAST_RETURNED + body, 1)


def _trace(rng: Random, now: float) -> bytes:
    """What the way here adds to a header."""
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(now))
    hops = "".join(
        f"Received: from mx{n}.example.net (mx{n}.example.net [198.51.100.{n}])\r\n"
        f"\tby in{n}.example.com (Postfix) with ESMTPS id {rng.getrandbits(44):X}\r\n"
        f"\tfor <bounces@example.com>; {stamp}\r\n"
        for n in range(1, rng.randrange(2, 5))
    )
    text = b64encode(rng.randbytes(258)).decode()
    signed = "\r\n\t ".join(text[at : at + 70] for at in range(0, len(text), 70))
    return (
        f"{hops}DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net; s=k1;\r\n"
        f"\th=from:to:subject:date:message-id; bh={text[:44]};\r\n\tb={signed}\r\n"
        f"Authentication-Results: in1.example.com; dkim=pass header.d=example.net; spf=none\r\n"
    ).encode()


def _noted(messages: Iterator[bytes], sizes: list[int]) -> Iterator[bytes]:
    for raw in messages:
        sizes.append(len(raw))
        yield raw


def _reader() -> str:
    found = dict(readers())
    return FLUFL if FLUFL in found else FLANKER


def _bare(system: System, messages: int) -> float:
    said = system.wait(system.part("bare", ["-m", "mailecho.pipeline.bench.dsn"]))
    try:
        answer = orjson.loads(said.splitlines()[-1])
    except (IndexError, orjson.JSONDecodeError):
        raise BenchFailed(f"the bare loop ended: {said[-1000:]}") from None
    if answer["messages"] != messages:
        raise BenchFailed(f"{messages:,} were sent, the bare loop read {answer['messages']:,}")
    return float(messages / answer["cpu"])


async def _parse_all() -> None:
    settings = load()
    read = dict(readers())[_reader()]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    places = [TopicPartition(RAW_DSN, partition) for partition in range(settings.kafka.partitions)]
    consumer.assign(places)
    left = {place: end for place, end in (await consumer.end_offsets(places)).items() if end}
    began, count = time.process_time(), 0
    while left:
        for place, records in (await consumer.getmany(timeout_ms=1000)).items():
            for record in records:
                with suppress(Exception):  # whatever a peer raises: it has looked at the message
                    read(record.value)
            count += len(records)
            if records and records[-1].offset + 1 >= left.get(place, 0):
                left.pop(place, None)
    spent = time.process_time() - began
    await consumer.stop()
    sys.stdout.write(orjson.dumps({"messages": count, "cpu": spent}).decode() + "\n")


if __name__ == "__main__":
    asyncio.run(_parse_all())
