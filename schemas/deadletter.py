"""Dead letters: the bytes as they came, and in the headers why and from where."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from mailecho.schemas import headers as h


class Reason(StrEnum):
    """Why a record could not be used."""

    EMPTY = "empty"  # no bytes at all
    UNREADABLE = "unreadable"  # not the format that its topic or source says
    UNKNOWN_SOURCE = "unknown_source"  # no adapter reads it
    SCHEMA = "schema"  # a newer major version, or another schema
    INVALID = "invalid"  # a field has a value that is not allowed
    TOO_LARGE = "too_large"  # one event is larger than a record may be
    LATE = "late"  # received more than a window behind the fold's clock
    POISON = "poison"  # a worker died on it three times
    REJECTED = "rejected"  # ClickHouse refused the row
    INTERNAL = "internal"  # our own error: a bug to report


class DeadLetter(BaseModel):
    """The headers of a dead letter, read."""

    model_config = ConfigDict(frozen=True)

    reason: Reason
    detail: str = ""
    origin_topic: str
    origin_partition: int
    origin_offset: int
    origin_timestamp: int
    redriven: int = 0
    reinserted: int = 0

    def headers(self, original: Iterable[tuple[str, bytes]] = ()) -> h.Headers:
        """Record headers: the original's, then ours. `detail` is cut at 1,000 characters."""
        ours: h.Headers = [
            h.schema_header("dead-letter"),
            (h.REASON, self.reason.value.encode()),
            (h.DETAIL, self.detail[:1000].encode("utf-8", "replace")),
            (h.ORIGIN_TOPIC, self.origin_topic.encode()),
            (h.ORIGIN_PARTITION, str(self.origin_partition).encode()),
            (h.ORIGIN_OFFSET, str(self.origin_offset).encode()),
            (h.ORIGIN_TIMESTAMP, str(self.origin_timestamp).encode()),
            (h.REDRIVEN, str(self.redriven).encode()),
            (h.REINSERTED, str(self.reinserted).encode()),
        ]
        names = {name for name, _ in ours}
        return [(k, v) for k, v in original if k not in names] + ours

    @classmethod
    def from_headers(cls, headers: Iterable[tuple[str, bytes]]) -> DeadLetter:
        """Read a dead letter's headers. Raises pydantic's ValidationError where one is missing."""
        values = dict(headers)

        def text(name: str) -> str | None:
            value = values.get(name)
            return None if value is None else value.decode("utf-8", "replace")

        return cls.model_validate(
            {
                "reason": text(h.REASON),
                "detail": text(h.DETAIL) or "",
                "origin_topic": text(h.ORIGIN_TOPIC),
                "origin_partition": text(h.ORIGIN_PARTITION),
                "origin_offset": text(h.ORIGIN_OFFSET),
                "origin_timestamp": text(h.ORIGIN_TIMESTAMP),
                "redriven": text(h.REDRIVEN) or 0,
                "reinserted": text(h.REINSERTED) or 0,
            }
        )
