"""The agents of both apps over topics in memory: their own code, without broker, Faust and disk.

What a broker adds (acknowledgements, offsets, order within a partition) is in `Topics`; everything
else is `ClassifyAgent` and `LedgerAgent` as the workers run them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aiokafka.structs import ConsumerRecord

from mailecho.agents.breaker import Breaker
from mailecho.agents.catchup import Owned
from mailecho.agents.classify import ClassifyAgent
from mailecho.agents.ledger import LedgerAgent
from mailecho.agents.outputs import Outputs, Record
from mailecho.agents.poison import Inflight
from mailecho.agents.transport import Step
from mailecho.pipeline.config import DeadLetterSettings
from mailecho.pipeline.identity import Identity
from mailecho.pipeline.ledger.fold import Fold
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.ledger.policy import load_policy
from mailecho.pipeline.ledger.store import MemoryStore
from mailecho.pipeline.raw import Reading
from mailecho.schemas import headers as h
from mailecho.schemas.topics import CLASSIFIED, Windows

PARTITIONS = 2


class Topics(Outputs):
    """Partitions as lists of records; what is sent is there at once."""

    def __init__(self) -> None:
        super().__init__("", "")
        self.partitions_of: defaultdict[str, defaultdict[int, list[ConsumerRecord]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.now = 0

    async def send(self, batches: Iterable[tuple[str, int, Sequence[Record]]]) -> None:
        """Append at the time `now`."""
        for topic, partition, records in batches:
            for record in records:
                self.append(topic, partition, record, self.now)

    def append(self, topic: str, partition: int, record: Record, timestamp: int) -> ConsumerRecord:
        """Append one record, as a producer and the broker do."""
        log = self.partitions_of[topic][partition]
        value = record.value
        log.append(
            ConsumerRecord(
                topic, partition, len(log), timestamp, 0, record.key, value, None, 0, len(value or b""),
                tuple(record.headers),
            )
        )  # fmt: skip
        return log[-1]

    def all(self, topic: str) -> list[ConsumerRecord]:
        """All records of a topic."""
        return [record for log in self.partitions_of[topic].values() for record in log]


class Memory:
    """One classify worker and one ledger worker, which own everything."""

    def __init__(self, reading: Reading, inflight: Path) -> None:
        self.topics = Topics()
        self._inflight = Inflight(inflight)
        self._classify = ClassifyAgent(
            reading.reader,
            self.topics,
            self._inflight,
            Breaker(DeadLetterSettings(max_consecutive=0, max_ratio=1.0), inflight.with_name("breaker")),
            partitions=PARTITIONS,
            rules_version=reading.rules,
            fingerprint=reading.fingerprint,
            clock=lambda: self.topics.now / 1000,
        )
        fold = Fold(Windows(), load_policy())
        places = Places(Identity(b"k" * 32), PARTITIONS)  # asked when a partition is taken over alone
        self._ledger = LedgerAgent("", fold, self.topics, places, inflight.parent, reading.fingerprint)
        for partition in range(PARTITIONS):
            self._ledger.owned[partition] = Owned(MemoryStore(), 0)  # type: ignore[arg-type]

    async def classify(self, step: Step) -> None:
        """Have a step of chunks of raw partitions classified."""
        await self._classify.handle(step)

    async def fold(self, counts: Mapping[int, int]) -> set[int]:
        """Have up to so many more records of partitions of `classified` folded in a step; those that had none."""
        step, empty = [], set()
        for partition, count in counts.items():
            next_ = self._ledger.owned[partition].next
            chunk = self.topics.partitions_of[CLASSIFIED][partition][next_ : next_ + count]
            if chunk:
                step.append(chunk)
            else:
                empty.add(partition)
        await self._ledger.handle(step)
        return empty

    def close(self) -> None:
        """Give the file back."""
        self._inflight.close()


def rows_of(records: Iterable[ConsumerRecord]) -> list[bytes]:
    """The rows of `events` records."""
    rows: list[bytes] = []
    for record in records:
        at = int(h.get(record.headers, h.CHANGES_AT) or 0)
        rows += [line for line in (record.value or b"")[:at].split(b"\n") if line]
    return rows
