"""kill -9 of anything, at random, while a feed that knows the truth goes in; then all must be exact.

A seeded selection is part of `make test`; `make faults` kills a hundred times.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from mailecho.pipeline.config import load
from mailecho.pipeline.endpoints import read_endpoints
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.landing.database import write_client
from tests.faults.generator import Feed, Generator, Raw
from tests.system import System, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.faults]

#: The broker needs seconds to come back, so it is killed less often than the others.
VICTIMS = ("classify-0", "ledger-0", "lander", "clickhouse", "serve", "classify-0", "ledger-0", "lander", "kafka")


@pytest.fixture
def system(kafka_jars: None, tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.end()


class Feeder(threading.Thread):
    """Produces the feed at a pace, over any outage of the broker: each record until it is acknowledged."""

    def __init__(self, data_dir: Path, records: list[Raw], seconds: float) -> None:
        super().__init__(daemon=True)
        self._data_dir = data_dir
        self._records = records
        self._seconds = seconds
        self.sent = 0

    def run(self) -> None:
        """Send everything."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        slice_ = max(1, int(len(self._records) / self._seconds / 10))
        while self.sent < len(self._records):
            try:
                async with AIOKafkaProducer(
                    bootstrap_servers=read_endpoints(self._data_dir)["kafka"], acks="all", enable_idempotence=True
                ) as producer:
                    while self.sent < len(self._records):
                        part = self._records[self.sent : self.sent + slice_]
                        futures = [
                            await producer.send(raw.topic, raw.value, headers=[("source", raw.source.encode())])
                            for raw in part
                        ]
                        await asyncio.gather(*futures)
                        self.sent += len(part)
                        await asyncio.sleep(0.1)
            except (KafkaError, OSError):
                await asyncio.sleep(0.5)  # the slice goes again: what comes twice is dropped


def kill_something(system: System, chance: random.Random) -> str:
    """kill -9 one part, sometimes with its store; says what was done."""
    name = chance.choice(VICTIMS)
    process = system.processes().get(name)
    if process is None or process["state"] != "running" or not psutil.pid_exists(process["pid"]):
        return ""
    psutil.Process(process["pid"]).kill()
    if name == "ledger-0" and chance.random() < 0.5:
        files = list((system.data / "ledger").glob("*/p*/data.mdb"))
        if files:
            file = chance.choice(files)
            if chance.random() < 0.5:
                os.truncate(file, file.stat().st_size // 2)
                return f"{name}, and one of its stores cut"
            file.unlink()
            return f"{name}, and one of its stores deleted"
    return name


def settle(system: System, feed: Feed) -> dict[str, Any]:
    """Wait until nothing is under way."""
    status: dict[str, Any] = {}

    def settled() -> bool:
        nonlocal status
        status = system.status()
        lag = status.get("lag") or {"": 1}
        return (
            not any(lag.values())
            and status["raw"] is not None
            and status["raw"] >= len(feed.records)
            and status["balanced"] is True
            and all(process["state"] == "running" for process in status["processes"])
        )

    until(settled, 240)
    return status


def assert_truth(system: System, feed: Feed) -> None:
    """The tables and the list hold what the generator knows, and nothing else."""
    settings = load(system.data)
    identity = load_identity(settings)
    client = write_client(settings)
    try:
        rows = client.query(
            "SELECT kind, cause, recipient_key, toString(occurred_at), count() FROM events GROUP BY ALL"
        )
        found = Counter({(kind, cause, str(key), at): count for kind, cause, key, at, count in rows.result_rows})
        counters = client.query(
            "SELECT sum(delivery), sum(bounce), sum(delay), sum(complaint) FROM rollup_minute_provider"
        ).result_rows[0]
    finally:
        client.close()
    wanted = Counter(
        {(kind, cause, identity.recipient_key(address), at): n for (kind, cause, address, at), n in feed.events.items()}
    )
    assert found - wanted == Counter(), "events that nobody sent, or that came twice"
    assert wanted - found == Counter(), "events that were lost"
    by_kind: Counter[str] = Counter()
    for (kind, *_), n in feed.events.items():
        by_kind[kind] += n
    assert counters == tuple(by_kind[kind] for kind in ("delivery", "bounce", "delay", "complaint"))
    api = read_endpoints(system.data)["api"]
    for addresses, denied in ((list(feed.denied), True), (feed.allowed, False)):
        for at in range(0, len(addresses), 5_000):
            part = addresses[at : at + 5_000]
            answer = httpx.post(f"{api}/v1/suppressions/check", json={"addresses": part}, timeout=30).json()
            for address, result in zip(part, answer["results"], strict=True):
                assert result["allowed"] is not denied, (address, result)
                if denied:
                    assert result["reason"] == feed.denied[address], (address, result)
                    assert result["evidence"]["event_ids"], "it says which events"


def run(system: System, seed: int, size: int, kills: int) -> None:
    chance = random.Random(seed)
    feed = Generator(seed).make(size)
    system.start()
    feeder = Feeder(system.data, feed.records, seconds=max(20.0, kills * 3.0))
    feeder.start()
    done: list[str] = []
    deadline = time.monotonic() + kills * 30
    while len(done) < kills and time.monotonic() < deadline:
        time.sleep(chance.uniform(0.5, 4.0))
        what = kill_something(system, chance)
        if what:
            done.append(what)
    tally = ", ".join(f"{n} x {what}" for what, n in sorted(Counter(done).items()))
    print(f"seed {seed}: {len(done)} kills: {tally}")  # noqa: T201 - the tally of a fault run
    feeder.join(timeout=300)
    assert feeder.sent >= len(feed.records), "the feed did not end"
    status = settle(system, feed)
    assert len(done) == kills
    assert status["dead_letters"] >= feed.dead_letters
    assert status["events"] == sum(feed.events.values())
    ran = system.run("verify", "--from-raw", "--json")
    report = orjson.loads(ran.stdout)
    assert report["differences"] == [], ran.stderr.decode()
    assert (report["events"], ran.returncode) == (status["events"], 0)
    assert_truth(system, feed)
    assert system.stop() == 0


@pytest.mark.timeout(900)
def test_ten_seeded_kills(system: System) -> None:
    run(system, seed=20_261, size=50_000, kills=10)


@pytest.mark.faults(full=True)
@pytest.mark.timeout(7200)
def test_a_hundred_kills(system: System) -> None:
    run(system, seed=20_262, size=100_000, kills=100)
