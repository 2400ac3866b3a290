"""One assigned partition: what was fetched of it, the range that grows, and what is committed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

from aiokafka import ConsumerRecord, TopicPartition

from mailecho.pipeline.config import LanderSettings
from mailecho.pipeline.landing.intents import Intent, Progress
from mailecho.pipeline.landing.ranges import Range
from mailecho.pipeline.landing.start import RESUME, Refused

#: After a silence a range waits for so long, so that a burst is one range and not its first record and the rest.
GATHER_SECONDS = 0.1


class Partition:
    """Collects records into the next range.

    `offset` and `progress` are what is committed. With an open intent the range is formed exactly up
    to the intent's end, whatever the limits say now: the limits may have changed since.
    """

    def __init__(self, where: TopicPartition, offset: int, progress: Progress) -> None:
        self.where = where
        self._queue: deque[ConsumerRecord] = deque()
        self.offset = offset
        self.progress = progress
        self.repeated = progress.intent is not None
        self._landed = float("-inf")  # when it last had its turn
        self._begin()

    def _begin(self) -> None:
        self.range = Range(self.offset, self.progress.watermark, self.progress.jump)
        self._since = 0.0

    @property
    def plain(self) -> bool:
        """Whether its next range may land with those of others: nothing has to be asked or allowed for it alone."""
        progress = self.progress
        return not (progress.intent or progress.jump or progress.resumed or self.offset < progress.lookup_below)

    def advance(self, offset: int, progress: Progress) -> None:
        """The commit of `offset` is done: begin the range after it."""
        self.offset, self.progress, self.repeated = offset, progress, False
        self._begin()

    def fetched(self, records: Iterable[ConsumerRecord]) -> None:
        """Take fetched records, in order."""
        self._queue.extend(records)

    @property
    def intent(self) -> Intent:
        """The open intent, of which there must be one."""
        intent = self.progress.intent
        assert intent is not None, "a range is landed under an intent"
        return intent

    @property
    def size(self) -> int:
        """Bytes of the growing range."""
        return self.range.size

    def turn(self, now: float) -> None:
        """What there is lands now, or there is nothing: the next range is due by time a flush later."""
        self._landed = now

    def due(self, limits: LanderSettings, now: float) -> bool:
        """Move what was fetched into the range; whether it is to be landed now. `now` is monotonic seconds.

        Raises OffsetGap, EmissionGap, SchemaRefused, and Refused where an open intent was about other
        records than the topic now has.
        """
        while self._queue and not self._full(limits):
            record = self._queue.popleft()
            if not self.range:
                self._since = now
                self._same(record)
            self.range.add(record)
        if not self.range:
            return False
        if self.progress.intent is not None:
            return self._full(limits)
        return self._full(limits) or now >= self._due_at(limits)

    def wait(self, limits: LanderSettings) -> float:
        """Seconds until the range is due by time; infinite without one."""
        if not self.range or self.progress.intent is not None:
            return float("inf")
        return max(0.0, self._due_at(limits) - time.monotonic())

    def _due_at(self, limits: LanderSettings) -> float:
        # from range to range, not from a range's first record: what came while others were landed has waited already
        return max(self._since + min(GATHER_SECONDS, limits.flush_seconds), self._landed + limits.flush_seconds)

    def _full(self, limits: LanderSettings) -> bool:
        intent = self.progress.intent
        if intent is not None:
            return self.range.end >= intent.end
        return self.range.events.rows >= limits.flush_rows or self.range.size >= limits.flush_bytes

    def _same(self, record: ConsumerRecord) -> None:
        intent = self.progress.intent
        # 0: written by the lander for a range whose first record it had not seen
        if intent is not None and intent.timestamp and record.timestamp != intent.timestamp:
            raise Refused(
                f"{self.where.topic}[{self.where.partition}]: an insert of the range from offset {self.offset} was "
                f"under way, but the record there has another timestamp ({record.timestamp}, not {intent.timestamp}): "
                f"the topic was recreated. {RESUME}"
            )
