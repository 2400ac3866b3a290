"""What the transport makes of fetches, without a broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from mailecho.agents.app import make_app
from mailecho.agents.transport import STEP_BYTES, BatchConsumer
from mailecho.pipeline.config import load
from mailecho.pipeline.paced import Pace

HERE = TP("topic", 0)


def record(offset: int, where: TP = HERE, value: bytes = b"x") -> ConsumerRecord:
    return ConsumerRecord(where.topic, where.partition, offset, 0, 0, None, value, None, 0, len(value), ())


class Log:
    """A partition with records up to `end`, and a client's position in it."""

    def __init__(self, end: int, position: int) -> None:
        self.end = end
        self.position = position

    def fetch(self) -> dict[TP, list[ConsumerRecord]]:
        found = [record(offset) for offset in range(self.position, self.end)]
        self.position = self.end
        return {HERE: found} if found else {}


def make_consumer(directory: Path) -> BatchConsumer:
    """Call it in the loop that it will run in."""
    settings = load(directory, kafka={"bootstrap_servers": "127.0.0.1:1", "pace_ms": 0})
    app: Any = make_app(settings, "group", "classify")

    async def nothing(*_: Any) -> None: ...

    made: BatchConsumer = app.transport.create_consumer(
        nothing, on_partitions_revoked=nothing, on_partitions_assigned=nothing
    )
    return made


@pytest.mark.parametrize("when", ["before flow resumes", "in another generation"])
def test_a_fetch_that_a_rebalance_throws_away_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Else the records wait until the next one of their partition comes and shows the gap."""
    log = Log(end=7, position=3)

    async def run() -> None:
        consumer = make_consumer(tmp_path)
        fetches = 0

        async def fetch(timeout: float) -> tuple[dict[TP, list[ConsumerRecord]], set[TP]]:
            nonlocal fetches
            fetches += 1
            if fetches > 1:
                return log.fetch(), {HERE}
            # it began before the rebalance, and answers after the seek that ends it
            if when == "before flow resumes":
                consumer.stop_flow()
            else:
                consumer.app.consumer_generation_id += 1
            return log.fetch(), set()

        async def seek(tp: TP, offset: int) -> None:
            log.position = offset

        async def poll() -> list[int]:
            return [r.offset async for _, message in consumer.getmany(0.1) for chunk in message.value for r in chunk]

        monkeypatch.setattr(Pace, "after", lambda *_: None)  # it needs a client that is connected
        monkeypatch.setattr(consumer, "_wait_next_records", fetch)
        monkeypatch.setattr(consumer, "_seek", seek)
        consumer._expected[HERE] = 3
        assert await poll() == []
        consumer.resume_flow()
        assert await poll() == [3, 4, 5, 6]
        assert await poll() == []
        consumer._thread.thread_loop.close()  # of a thread that was never started

    asyncio.run(run())


def test_a_step_is_what_came_of_all_partitions_and_is_done_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = TP("topic", 1)
    large = b"x" * (STEP_BYTES // 2)
    fetched = {
        HERE: [record(n) for n in range(3)],
        there: [record(7, there), *(record(n, there, large) for n in (8, 9)), record(10, there)],
    }

    async def run() -> None:
        consumer = make_consumer(tmp_path)

        async def fetch(timeout: float) -> tuple[dict[TP, list[ConsumerRecord]], set[TP]]:
            return fetched, {HERE, there}

        monkeypatch.setattr(Pace, "after", lambda *_: None)  # it needs a client that is connected
        monkeypatch.setattr(consumer, "_wait_next_records", fetch)
        consumer.resume_flow()
        messages = [(tp, message) async for tp, message in consumer.getmany(0.1)]
        offsets = [[[r.offset for r in chunk] for chunk in message.value] for _, message in messages]
        assert offsets == [[[0, 1, 2], [7, 8]], [[9, 10]]], "no more than a step holds"
        assert [(tp, message.offset) for tp, message in messages] == [(HERE, 2), (there, 10)]
        assert consumer._new_offset(HERE) is None
        consumer.done(SimpleNamespace(message=messages[0][1]))
        assert (consumer._new_offset(HERE), consumer._new_offset(there)) == (3, 9)
        consumer._thread.thread_loop.close()  # of a thread that was never started

    asyncio.run(run())
