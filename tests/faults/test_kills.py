"""kill -9 of anything, at random, while a feed that knows the truth goes in; then all must be exact.

A seeded selection is part of `make test`; `make faults` kills a hundred times.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest

from mailecho.pipeline.config import load
from mailecho.pipeline.endpoints import read_endpoints
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.landing.database import write_client
from tests.faults.feeder import Feeder
from tests.faults.generator import Feed, Generator
from tests.faults.truth import assert_events
from tests.system import System, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.faults]

#: The broker needs seconds to come back, so it is killed less often than the others.
VICTIMS = ("classify-0", "ledger-0", "lander", "clickhouse", "serve", "classify-0", "ledger-0", "lander", "kafka")


@pytest.fixture
def system(kafka_jars: None, tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.end()


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
        assert_events(client, identity, feed)
    finally:
        client.close()
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
    feeder = Feeder(lambda: read_endpoints(system.data)["kafka"], feed.records, seconds=max(20.0, kills * 3.0))
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
    feeder.finish()
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
