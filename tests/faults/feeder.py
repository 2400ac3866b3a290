"""Produces a feed over any outage of the broker: each record until it is acknowledged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from tests.faults.generator import Raw

#: Above the largest raw record that a topic takes.
MAX_BYTES = 2 * 1024 * 1024


class Feeder(threading.Thread):
    """Sends the records at a pace that takes `seconds`; `where` gives the broker's address."""

    def __init__(self, where: Callable[[], str], records: list[Raw], seconds: float) -> None:
        super().__init__(daemon=True)
        self._where = where
        self._records = records
        self._seconds = seconds
        self.sent = 0

    def run(self) -> None:
        """Send everything."""
        asyncio.run(self._run())

    def finish(self, seconds: float = 300.0) -> None:
        """Wait until everything is acknowledged."""
        self.join(seconds)
        assert self.sent >= len(self._records), f"the feed did not end: {self.sent} of {len(self._records)}"

    async def _run(self) -> None:
        slice_ = max(1, int(len(self._records) / max(self._seconds, 0.1) / 10))
        while self.sent < len(self._records):
            producer = AIOKafkaProducer(
                bootstrap_servers=self._where(), acks="all", enable_idempotence=True, max_request_size=MAX_BYTES
            )
            try:
                await producer.start()
                while self.sent < len(self._records):
                    part = self._records[self.sent : self.sent + slice_]
                    futures = [
                        await producer.send(raw.topic, raw.value, headers=[("source", raw.source.encode())])
                        for raw in part
                    ]
                    await asyncio.gather(*futures)
                    self.sent += len(part)
                    if self._seconds:
                        await asyncio.sleep(0.1)
            except (KafkaError, OSError):
                await asyncio.sleep(0.5)  # the slice goes again: what comes twice is dropped
            finally:
                await producer.stop()
