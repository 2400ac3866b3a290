"""Delivery records of made-up mail for benchmarks of the whole system, and what sends them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from mailecho.schemas.topics import RAW_DELIVERY

#: One record in so many is a hard bounce of an address of its own.
BOUNCE_EACH = 20
#: Deliveries go to so many addresses.
ADDRESSES = 100_000

#: As `mailecho intake` sends.
LINGER_MS = 10

_HEADERS = [("source", b"mailecho")]
_TICK_SECONDS = 0.005


class Record:
    """One line of a delivery log: `bounces` says whether it is a hard bounce of `recipient`."""

    __slots__ = ("bounces", "message_id", "recipient", "value")

    def __init__(self, number: int, label: str, now: float) -> None:
        self.bounces = number % BOUNCE_EACH == 0
        self.message_id = f"{label}{number}@mail.example.com"
        self.recipient = (
            f"gone{number}.{label}@example.org" if self.bounces else f"user{number * 7919 % ADDRESSES}@example.net"
        )
        entry: dict[str, Any] = {
            "kind": "bounce" if self.bounces else "delivery",
            "recipient": self.recipient,
            "message_id": self.message_id,
            "occurred_at": now,
            "sending_ip": f"192.0.2.{number % 250}",
        }
        if self.bounces:
            entry |= {"smtp_code": 550, "status": "5.1.1", "diagnostic": "550 5.1.1 User unknown: no such user here"}
        self.value = orjson.dumps(entry)


def records(label: str) -> Iterator[Record]:
    """Records without end. Those of one label are the same but for their times, and differ from another label's."""
    return (Record(number, label, time.time()) for number in count())


@asynccontextmanager
async def producer_to(bootstrap: str) -> Any:
    """A producer as a careful MTA's: every record acknowledged, what is sent together goes together."""
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=LINGER_MS, compression_type="lz4"
    ) as producer:
        yield producer


async def send_at(
    producer: AIOKafkaProducer,
    rate: float,
    seconds: float,
    label: str,
    sent: Callable[[Record, float], None] = lambda _record, _at: None,
    topic: str = RAW_DELIVERY,
) -> int:
    """Send at a steady rate; `sent` is told each record and when (monotonic seconds) it was due. Gives their number.

    A record counts from when it was due, so that a sender that lags behind hides nothing.
    """
    began, number = time.monotonic(), 0
    source = records(label)
    futures: deque[asyncio.Future[Any]] = deque()
    while number < int(rate * seconds):
        due = min(int((time.monotonic() - began) * rate) + 1, int(rate * seconds))
        while number < due:
            record = next(source)
            sent(record, began + number / rate)
            futures.append(await producer.send(topic, record.value, headers=_HEADERS))
            number += 1
        while futures and futures[0].done():
            futures.popleft().result()
        await asyncio.sleep(_TICK_SECONDS)
    await asyncio.gather(*futures)
    return number
