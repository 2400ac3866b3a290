"""How long a consumer's fetches wait at the broker: the one pace of all consumers.

At live rates cost is per wake-up, not per event, so a consumer should wake seldom and get much. Resting in the client
does that badly: aiokafka fetches a partition again only when it was drained, so what came during the rest stays at the
broker for another one. The broker can wait instead (`fetch.min.bytes` and `fetch.max.wait.ms`,
https://kafka.apache.org/43/configuration/consumer-configs/):

* while records come, for the pace, or until there is enough of them to be a backlog; they all come together then;
* when none came, for one byte: the first record after a silence wakes the consumer at once, and a silent topic costs
  a request a second.

aiokafka reads both values anew for each request, but has no way to set them later; `tests/test_paced.py` fails
when an upgrade changes that.
"""

from __future__ import annotations

from typing import Any

#: So much of one fetch is a backlog, which waits for nothing. Below what the broker gives of one partition (1 MiB).
BACKLOG_BYTES = 512 * 1024

#: While nothing comes. A seek takes effect when the fetch under way has returned, so no longer than this.
IDLE_MS = 1_000


class Pace:
    """The pace of one consumer. `pace_ms` 0 lets every fetch return with the first byte."""

    def __init__(self, pace_ms: int) -> None:
        self._pace_ms = pace_ms
        self._busy: bool | None = None

    def after(self, consumer: Any, records: bool) -> None:
        """Tell what a fetch brought, records or none; `consumer` is the AIOKafkaConsumer that did it, started."""
        busy = records and self._pace_ms > 0
        if busy is self._busy:
            return
        self._busy = busy
        fetcher = consumer._fetcher
        fetcher._fetch_min_bytes = BACKLOG_BYTES if busy else 1
        fetcher._fetch_max_wait_ms = self._pace_ms if busy else IDLE_MS
