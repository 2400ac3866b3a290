"""The registry of topics: the one place that names them and says how each is kept.

Windows and retention come from two numbers. A raw topic's retention plus its segment time stays
below the dedupe window of its events, so that re-reading all of it is dropped as duplicates;
`classified` outlives the longest window, since a lost store is rebuilt from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

RAW_DSN = "feedback.raw.dsn"
RAW_ARF = "feedback.raw.arf"
RAW_DELIVERY = "feedback.raw.delivery"
COMMANDS = "feedback.commands"
CLASSIFIED = "feedback.classified"
EVENTS = "feedback.events"
SUPPRESSIONS = "feedback.suppressions"

#: What the classify app reads.
RAW = (RAW_DSN, RAW_ARF, RAW_DELIVERY)
CLASSIFY_INPUT = (*RAW, COMMANDS)

#: A micro-batch is closed at this size: large enough to amortise a record, small enough that one
#: record is folded in well under a second.
BATCH_BYTES = 256 * 1024

#: No single raw record is larger; intake cuts the returned message out of what would be.
RAW_RECORD_BYTES = 1024 * 1024


def dlq(topic: str) -> str:
    """The dead-letter topic of a topic."""
    return f"{topic}.dlq"


@dataclass(frozen=True, slots=True)
class Windows:
    """Dedupe windows in milliseconds: delivery logs 3 days, all else 15 (DESIGN 2, point 6)."""

    delivery_ms: int = 3 * DAY_MS
    report_ms: int = 15 * DAY_MS

    def of(self, raw_topic: str) -> int:
        """The window of an event that came in on this raw topic."""
        return self.delivery_ms if raw_topic == RAW_DELIVERY else self.report_ms


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: what it holds and how Kafka keeps it."""

    name: str
    holds: str
    key: str
    value: str
    headers: tuple[str, ...]
    partitions: int
    retention_ms: int  # -1: for ever
    segment_ms: int
    max_message_bytes: int
    compact: bool = False
    log_append_time: bool = False
    extra: dict[str, str] = field(default_factory=dict)

    def config(self) -> dict[str, str]:
        """The topic's settings, as Kafka names them."""
        return {
            "cleanup.policy": "compact" if self.compact else "delete",
            "retention.ms": str(self.retention_ms),
            "segment.ms": str(self.segment_ms),
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": "LogAppendTime" if self.log_append_time else "CreateTime",
            **self.extra,
        }


def registry(partitions: int = 4, windows: Windows | None = None) -> dict[str, Topic]:
    """All topics by name.

    `partitions` is the number for raw and keyed topics. It is fixed once `classified` exists: a
    recipient's place depends on it, and workers refuse to start with another.
    """
    w = windows or Windows()
    raw_headers = ("source", "tenant", "stream", "original-size", "file")
    reports = Topic(
        name=RAW_DSN,
        holds="Bounces, delays and whatever else the bounce mailbox received",
        key="any; messages without a recipient are ordered by it",
        value="one RFC 5322 message",
        headers=raw_headers,
        partitions=partitions,
        retention_ms=w.report_ms * 12 // 15,
        segment_ms=w.report_ms // 15,
        max_message_bytes=RAW_RECORD_BYTES + 64 * 1024,
        log_append_time=True,
    )
    topics = [
        reports,
        replace(
            reports,
            name=RAW_ARF,
            holds="Complaints (ARF) and whatever else the feedback-loop mailbox received",
        ),
        replace(
            reports,
            name=RAW_DELIVERY,
            holds="Delivery logs and webhooks",
            key="any",
            value="one log line, one JSON object, one webhook body, or a chunk of lines",
            retention_ms=w.delivery_ms * 2 // 3,
            segment_ms=w.delivery_ms // 6,
        ),
        replace(
            reports,
            name=COMMANDS,
            holds="Manual adds and releases, imports, markers",
            key="none",
            value="one JSON command",
            headers=("schema",),
            partitions=1,
        ),
        Topic(
            name=CLASSIFIED,
            holds="Classified events and commands, by recipient key",
            key="none; the partition follows from the recipient key",
            value="micro-batch: newline-delimited JSON lines",
            headers=("schema", "rules-version", "identity", "origin"),
            partitions=partitions,
            # outlives the longest window and the ledger's downtime
            retention_ms=w.report_ms * 22 // 15,
            segment_ms=w.report_ms // 15,
            max_message_bytes=2 * 1024 * 1024,
        ),
        Topic(
            name=EVENTS,
            holds="Deduplicated events, one record for each record of classified",
            key="none; the partition is that of classified",
            value="newline-delimited JSON rows, then suppression changes from byte `changes-at` on",
            headers=("schema", "n", "answered", "rows", "changes-at", "totals"),
            partitions=partitions,
            retention_ms=7 * DAY_MS,
            segment_ms=DAY_MS // 4,
            # a classified record plus the suppression changes that it caused
            max_message_bytes=8 * 1024 * 1024,
        ),
        Topic(
            name=SUPPRESSIONS,
            holds="The suppression list: the last record of a key is its entry",
            key="scope/scope id/subject/subject key",
            value="one JSON entry; null removes it",
            headers=("schema", "version"),
            partitions=partitions,
            retention_ms=-1,
            segment_ms=DAY_MS,
            max_message_bytes=1024 * 1024,
            compact=True,
            # time for the owner to repair what a zombie wrote, and for a follower that was away
            extra={
                "min.compaction.lag.ms": str(HOUR_MS),
                "delete.retention.ms": str(30 * DAY_MS),
            },
        ),
    ]
    dead = [
        Topic(
            name=dlq(name),
            holds=f"What could not be read from {name}" if name != EVENTS else "Rows that ClickHouse refused",
            key="that of the origin",
            value="the bytes as they came",
            headers=(
                *("schema", "reason", "detail", "redriven", "reinserted"),
                *("origin-topic", "origin-partition", "origin-offset", "origin-timestamp"),
            ),
            partitions=1,
            retention_ms=30 * DAY_MS,
            segment_ms=DAY_MS,
            max_message_bytes=8 * 1024 * 1024,
        )
        for name in (*CLASSIFY_INPUT, CLASSIFIED, EVENTS)
    ]
    return {topic.name: topic for topic in (*topics, *dead)}


#: Consumer groups; the two Faust apps are named like theirs.
GROUP_CLASSIFY = "mailecho-classify"
GROUP_LEDGER = "mailecho-ledger"
GROUP_LANDER = "mailecho-lander"


def partition_of(key: str, partitions: int) -> int:
    """The partition of a recipient key or domain key (UUID text): its first 32 bits, modulo.

    The keys are hashes, so this spreads evenly; it is fixed for the life of the data.
    """
    return int(key[:8], 16) % partitions
