"""Generated histories of recipients, as classified lines, and what tests need to fold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import strategies as st

from mailecho.pipeline import ids
from mailecho.pipeline.ledger.entries import FORGET_MS
from mailecho.pipeline.ledger.fold import Fold, Output
from mailecho.pipeline.ledger.policy import Policy, load_policy
from mailecho.pipeline.ledger.store import MemoryStore
from mailecho.pipeline.times import row_time
from mailecho.schemas.classified import COPY_PREFIX, event_line
from mailecho.schemas.topics import DAY_MS, RAW_DELIVERY, RAW_DSN, Windows
from tests.schemas.rows import dump_row

#: A clock to begin at: 2026-03-01.
START = 1_772_323_200_000
HOUR_MS = 3_600_000
RECIPIENTS = ("ann@example.org", "bob@example.org", "cee@example.net")


def key_of(address: str) -> str:
    """A stand-in for the HMAC: any UUID that is the same for the same address."""
    return ids.plain_id("test recipient", address)


@dataclass(frozen=True)
class Fact:
    """One thing that happened, as a generated history has it; hours count from START."""

    kind: str
    cause: str
    recipient: str
    message: int
    hour: int
    permanence: str = "permanent"
    log: bool = False

    def line(self, received_ms: int, **more: Any) -> bytes:
        """The classified line that reports it, received at a time of its own."""
        at = START + self.hour * HOUR_MS
        trust = "verified" if self.log else "unverified"
        row = {
            "event_id": self._id(at),
            "recipient_key": key_of(self.recipient),
            "kind": self.kind,
            "received_at": row_time(received_ms),
            "occurred_at": row_time(at),
            "outcome_id": ids.plain_id("outcome", str(self.message), self.recipient),
            "recipient_domain": self.recipient.rpartition("@")[2],
            "permanence": self.permanence,
            "cause": self.cause,
            "confidence": 0.9,
            "trust": trust,
            "raw_topic": RAW_DELIVERY if self.log else RAW_DSN,
            "raw_partition": 0,
            "raw_offset": 0,
            **more,
        }
        return event_line(dump_row(row), self.recipient)

    def _id(self, at: int) -> str:
        return ids.event_id(at, "test", self.kind, self.cause, self.permanence, self.recipient, str(self.message))

    def copy(self, received_ms: int) -> bytes:
        """The copy for the domain's partition, of a domain failure."""
        at = START + self.hour * HOUR_MS
        return (
            COPY_PREFIX
            + orjson.dumps(
                {
                    "event_id": self._id(at),
                    "domain": self.recipient.rpartition("@")[2],
                    "kind": self.kind,
                    "cause": self.cause,
                    "permanence": self.permanence,
                    "confidence": 0.9,
                    "trust": "unverified",
                    "at": at,
                    "received": received_ms,
                    "message": ids.plain_id("outcome", str(self.message), self.recipient),
                }
            )
            + b"}"
        )


_SOFT = ("mailbox_full", "mailbox_disabled", "recipient_restricted")
_OTHER = ("mailbox_unknown", "spam_content", "rate_limit", "greylist", "domain_unknown")


def facts() -> st.SearchStrategy[Fact]:
    """Failures, complaints and deliveries of few recipients over a month, so that they meet."""
    failure = st.builds(
        Fact,
        kind=st.sampled_from(("bounce", "expiry", "delay")),
        cause=st.sampled_from(_SOFT + _OTHER),
        recipient=st.sampled_from(RECIPIENTS),
        message=st.integers(0, 9),
        hour=st.integers(0, 30 * 24),
        permanence=st.sampled_from(("permanent", "transient")),
    )
    delivery = st.builds(
        Fact,
        kind=st.just("delivery"),
        cause=st.just(""),
        recipient=st.sampled_from(RECIPIENTS),
        message=st.integers(0, 9),
        hour=st.integers(0, 30 * 24),
        log=st.just(True),
    )
    complaint = st.builds(
        Fact,
        kind=st.just("complaint"),
        cause=st.just(""),
        recipient=st.sampled_from(RECIPIENTS),
        message=st.integers(0, 9),
        hour=st.integers(0, 30 * 24),
    )
    return st.one_of(failure, failure, delivery, complaint)


class Folded:
    """A fold over a memory store, record by record."""

    def __init__(
        self, windows: Windows | None = None, policy: Policy | None = None, forget_ms: int = FORGET_MS
    ) -> None:
        self.store = MemoryStore()
        self.fold = Fold(windows or Windows(), policy or load_policy(), forget_ms=forget_ms)
        self.outputs: list[Output] = []

    def record(self, *lines: bytes) -> Output:
        """Fold the next record."""
        with self.store.begin() as tx:
            output = self.fold.apply(tx, len(self.outputs), b"\n".join(lines))
        self.outputs.append(output)
        return output

    def entries(self) -> dict[str, dict[str, Any]]:
        """The list as its records leave it, by key, without what may differ between orders."""
        latest: dict[str, dict[str, Any]] = {}
        for output in self.outputs:
            for change in output.changes:
                if change.value is None:
                    del latest[change.key.decode()]
                    continue
                entry = orjson.loads(change.value)
                entry.pop("version")
                latest[change.key.decode()] = entry
        return latest

    def rows(self) -> list[dict[str, Any]]:
        """All rows that were let through, without what may differ between orders."""
        rows = [orjson.loads(row) for output in self.outputs for row in output.rows]
        for row in rows:
            del row["received_at"]
        return sorted(rows, key=lambda row: row["event_id"])


__all__ = ["DAY_MS", "HOUR_MS", "RECIPIENTS", "START", "Fact", "Folded", "facts", "key_of"]
