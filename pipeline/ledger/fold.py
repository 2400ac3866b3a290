"""The ledger's fold: one record of `classified` in, one output out, state in a store.

Deterministic: no wall clock and no randomness. Time is the running maximum of `received_at`.
The same records folded twice, in one process or in ten that died, give the same outputs, so a
reader who drops what is at or below its watermark sees each exactly once (DESIGN 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from mailecho.pipeline.ids import event_id
from mailecho.pipeline.ledger.dedupe import Seen
from mailecho.pipeline.ledger.entries import FORGET_MS, Change, Entries, load
from mailecho.pipeline.ledger.policy import Incident, Policy, parse_policy
from mailecho.pipeline.ledger.store import Transaction
from mailecho.pipeline.times import row_ms
from mailecho.schemas.classified import COMMAND_PREFIX, COPY_PREFIX, ID_END, ROW_PREFIX, row_of
from mailecho.schemas.event import NO_ID
from mailecho.schemas.taxonomy import Kind, Trust
from mailecho.schemas.topics import DAY_MS, RAW_DELIVERY, Windows

META = "meta"
NEXT = b"next"
CLOCK = b"clock"
TOTALS = b"totals"
POLICY = b"policy"
PARTITIONS = b"partitions"

_DELIVERY = Kind.DELIVERY.value
_VERIFIED = Trust.VERIFIED.value


@dataclass(slots=True)
class Totals:
    """What the fold of one partition has counted; each field at the branch that decides it."""

    classified: int = 0
    duplicates: int = 0
    events: int = 0
    late: int = 0
    commands: int = 0
    copies: int = 0

    def to_json(self) -> bytes:
        """The header `totals` of an output record."""
        return orjson.dumps(self)


@dataclass(slots=True)
class Output:
    """What one input record leads to. `n` is its offset, the emission number."""

    n: int
    rows: list[bytes] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    late: list[tuple[bytes, str]] = field(default_factory=list)  # line, why
    totals: bytes = b""
    policy: bytes | None = None  # the policy that came into force, as JSON
    clock: int = 0  # the fold's clock after the record, epoch milliseconds


class NotClassified(ValueError):
    """A line that is none of `schemas.classified`: something else writes to the topic."""


class Fold:
    """One partition's fold. All state is in the transaction's store; nothing is kept between calls
    but what a store's owner may know without reading (the policy, parsed)."""

    def __init__(
        self,
        windows: Windows,
        default_policy: Policy,
        *,
        keep_addresses: bool = True,
        forget_ms: int = FORGET_MS,
    ) -> None:
        near = min(DAY_MS, windows.delivery_ms // 3)
        self._windows = windows
        self._seen_delivery = Seen("delivery", windows.delivery_ms, near)
        self._seen_report = Seen("report", windows.report_ms, min(DAY_MS, windows.report_ms // 3))
        self._default = default_policy
        self._policies: dict[bytes, Policy] = {}
        #: What was last asked of a store, and by which transaction: nobody else changes it meanwhile.
        self._policy_of: tuple[Transaction, Policy] | None = None
        self._totals_of: tuple[Transaction, Totals] | None = None
        self._entries = Entries(windows.report_ms, keep_addresses=keep_addresses, forget_ms=forget_ms)

    def next_offset(self, tx: Transaction) -> int:
        """The offset that the store expects next; 0 for a new one."""
        return _int(tx.get(META, NEXT))

    def start_at(self, tx: Transaction, offset: int) -> None:
        """Say that a new store begins at `offset`."""
        tx.put(META, NEXT, offset.to_bytes(8, "big"))

    def partitions(self, tx: Transaction) -> int:
        """How many partitions there were when the store was made; 0 for a new one."""
        return _int(tx.get(META, PARTITIONS))

    def made_for(self, tx: Transaction, partitions: int) -> None:
        """Say how many partitions there are: with another number a store holds what has moved away."""
        tx.put(META, PARTITIONS, partitions.to_bytes(4, "big"))

    def count_from(self, tx: Transaction, totals: bytes) -> None:
        """Go on counting from these totals: those of the emission that a rebuilt store stands at."""
        self._totals_of = None
        tx.put(META, TOTALS, totals)

    def totals(self, tx: Transaction) -> Totals:
        """What has been counted up to the store's offset."""
        return Totals(**orjson.loads(tx.get(META, TOTALS) or b"{}"))

    def restore_entry(self, tx: Transaction, key: bytes, value: bytes, last_emission: int) -> None:
        """Put an entry, as read from the topic, into a new store. See `entries.load`."""
        load(tx, self._entries, key, value, last_emission)

    def restore_policy(self, tx: Transaction, policy: bytes) -> None:
        """Put the policy in force, as read from the topic, into a new store."""
        self._policy_of = None
        tx.put(META, POLICY, policy)

    def explicit_policy(self, tx: Transaction) -> bytes | None:
        """The policy that a command has put in force, as JSON; None before the first."""
        return tx.get(META, POLICY)

    def policy(self, tx: Transaction) -> Policy:
        """The policy in force at the store's offset."""
        if self._policy_of is not None and self._policy_of[0] is tx:
            return self._policy_of[1]
        data = tx.get(META, POLICY)
        known = self._default if data is None else self._policies.get(data)
        if known is None:
            known = self._policies[data or b""] = parse_policy(orjson.loads(data or b""))
        self._policy_of = tx, known
        return known

    def apply(self, tx: Transaction, offset: int, value: bytes) -> Output:
        """Fold the record at `offset` (which must be the next one) into the store.

        Raises NotClassified before anything is changed.
        """
        facts = [_parse(line, offset) for line in value.split(b"\n") if line]
        out = Output(offset)
        started = clock = _int(tx.get(META, CLOCK))
        if self._totals_of is None or self._totals_of[0] is not tx:
            self._totals_of = tx, self.totals(tx)
        totals = self._totals_of[1]
        self._entries.begin(tx, self.policy(tx), offset)
        for fact in facts:
            if isinstance(fact, _Event):
                totals.classified += 1
                clock = self._event(tx, fact, clock, totals, out)
                continue
            parsed, received = fact
            clock = max(clock, received)
            if "copy" in parsed:
                totals.copies += 1
                self._entries.domain_fact(parsed["copy"]["domain"], _copied(parsed["copy"]))
            else:
                totals.classified += 1
                self._command(tx, parsed["command"], clock, totals, out)
        if clock > started:
            for seen in (self._seen_delivery, self._seen_report):
                seen.advance(tx, clock)
            self._entries.advance(tx, clock)
        out.changes = self._entries.finish(clock)
        out.totals, out.clock = totals.to_json(), clock
        tx.put(META, CLOCK, clock.to_bytes(8, "big"))
        tx.put(META, TOTALS, out.totals)
        tx.put(META, NEXT, (offset + 1).to_bytes(8, "big"))
        return out

    def skip(self, tx: Transaction, offset: int) -> Output:
        """Pass a record that is not classified: its output is empty, as for any other number."""
        return self.apply(tx, offset, b"")

    def _event(self, tx: Transaction, event: _Event, clock: int, totals: Totals, out: Output) -> int:
        line, parsed, row_bytes, raw_id, delivery_log, received, at = event
        window = self._windows.delivery_ms if delivery_log else self._windows.report_ms
        if received < clock - window:
            totals.late += 1
            behind = f"{(clock - received) / 1000:.0f} s behind the clock, the window is {window / 1000:.0f} s"
            out.late.append((line, f"received {behind}"))
            return clock
        if received > clock:
            clock = received
        row = parsed["row"]
        kind = row["kind"]
        seen = self._seen_delivery if delivery_log else self._seen_report
        if seen.check(tx, raw_id, clock):
            totals.duplicates += 1
            if kind == _DELIVERY:
                return clock
            # A twin may be trusted more than the one that came first: policy sees both.
        else:
            totals.events += 1
            out.rows.append(row_bytes)
        if kind == _DELIVERY:
            key = row.get("recipient_key")
            if key and key != NO_ID and row.get("trust") == _VERIFIED:
                self._entries.delivery(row.get("tenant", ""), row.get("stream", ""), key, at)
        elif kind in self._entries.counted and row.get("recipient_key", NO_ID) != NO_ID:
            self._entries.recipient_fact(row, parsed.get("address", ""), _incident(row, at))
        return clock

    def _command(self, tx: Transaction, command: dict[str, Any], clock: int, totals: Totals, out: Output) -> None:
        # an id without a time: a repeated send arrives at another
        if self._seen_report.check(tx, UUID(event_id(0, "command", command["id"])).bytes, clock):
            totals.duplicates += 1
            return
        totals.commands += 1
        if command["type"] == "policy":
            out.policy = orjson.dumps(command["policy"], option=orjson.OPT_SORT_KEYS)
            tx.put(META, POLICY, out.policy)
            self._policy_of = None
            self._entries.use(self.policy(tx))
        else:
            self._entries.command(command)


class _Event(NamedTuple):
    """An event line, read: `received` and `at` are epoch milliseconds, `at` is never after `received`."""

    line: bytes
    parsed: dict[str, Any]
    row: bytes
    event_id: bytes
    delivery_log: bool
    received: int
    at: int


def _parse(line: bytes, offset: int) -> _Event | tuple[dict[str, Any], int]:
    """An event, or a command's or copy's JSON and when it was received (epoch ms). Raises NotClassified."""
    try:
        parsed = orjson.loads(line)
        if line.startswith(ROW_PREFIX):
            row = parsed["row"]
            if line[ID_END : ID_END + 1] != b'"' or row["kind"].__class__ is not str:
                raise ValueError("event_id is no UUID, or kind no text")
            raw_id = _uuid_bytes(row["event_id"])
            if "recipient_key" in row:
                _uuid_bytes(row["recipient_key"])
            received, occurred = row_ms(row["received_at"]), row_ms(row["occurred_at"])
            at = occurred if occurred < received else received
            return _Event(line, parsed, row_of(line), raw_id, row["raw_topic"] == RAW_DELIVERY, received, at)
        if line.startswith(COPY_PREFIX):
            return parsed, int(parsed["copy"]["received"])
        if line.startswith(COMMAND_PREFIX):
            return parsed, int(parsed["command"]["received"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotClassified(f"offset {offset}: no classified line ({error!r}): {line[:120]!r}") from None
    raise NotClassified(f"offset {offset}: a line that begins with {line[:24]!r} is no classified line")


def _uuid_bytes(text: str) -> bytes:
    raw = bytes.fromhex(text.replace("-", ""))
    if len(text) != 36 or len(raw) != 16:
        raise ValueError("no UUID")
    return raw


def _int(data: bytes | None) -> int:
    return int.from_bytes(data, "big") if data else 0


def _incident(row: dict[str, Any], at: int) -> Incident:
    outcome = row.get("outcome_id", NO_ID)
    return Incident(
        event_id=row["event_id"],
        kind=row["kind"],
        at=at,
        cause=row.get("cause", ""),
        permanence=row.get("permanence", "unknown"),
        feedback_type=row.get("feedback_type", ""),
        confidence=row.get("confidence", 0.0),
        trust=row.get("trust", "unverified"),
        message=outcome if outcome != NO_ID else row["event_id"],
    )


def _copied(copy: dict[str, Any]) -> Incident:
    names = ("event_id", "kind", "at", "cause", "permanence", "confidence", "trust", "message")
    return Incident(**{name: copy[name] for name in names})
