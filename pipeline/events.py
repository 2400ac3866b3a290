"""Findings become events: ids, keys, masked diagnostics, believable times.

This is where clear addresses end: the row carries the recipient key, and the address travels
beside it in the classified line only (DESIGN 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from mailecho.pipeline import ids
from mailecho.pipeline.classify.template import mask_addresses, template_hash, template_of
from mailecho.pipeline.finding import NOBODY, Finding
from mailecho.pipeline.identity import Identity, NotAnAddress, normalise, normalise_domain
from mailecho.pipeline.provider import provider_of
from mailecho.pipeline.times import plausible, row_ms, row_time
from mailecho.schemas.classified import COPY_PREFIX, event_line
from mailecho.schemas.event import NO_ID
from mailecho.schemas.taxonomy import FAULT_OF, Cause, Kind, Permanence, Trust

#: Longest text that a row keeps: a diagnostic is a few lines; what is longer is somebody's attack.
MAX_DIAGNOSTIC = 2_000
MAX_TEXT = 500
MAX_INCIDENTS = 100_000

_REPORTS = frozenset((Kind.BOUNCE, Kind.DELAY, Kind.DELIVERY, Kind.EXPIRY, Kind.BACKSCATTER, Kind.QUARANTINE_NOTICE))
_COMPLAINTS = frozenset((Kind.COMPLAINT, Kind.NOT_SPAM, Kind.UNSUBSCRIBE))
_DOMAIN_CAUSES = frozenset((Cause.DOMAIN_UNKNOWN, Cause.DOMAIN_NO_MAIL))
_FINAL_FAILURES = frozenset((Kind.BOUNCE, Kind.EXPIRY))


@dataclass(slots=True)
class Origin:
    """The raw record that an event comes from; `received_ms` is its append time."""

    topic: str
    partition: int
    offset: int
    received_ms: int
    tenant: str = ""
    stream: str = ""
    source: str = ""


class Line(NamedTuple):
    """A line of `feedback.classified`, and the key (UUID text) whose partition it goes to.

    An event without recipient goes by its own id, so that a copy of it meets it there.
    """

    key: str
    data: bytes


class EventBuilder:
    """Turns findings into lines of `feedback.classified`, under one identity and one rule set."""

    def __init__(self, identity: Identity, rules_version: str, own_mtas: frozenset[str] = frozenset()) -> None:
        self._identity = identity
        self._rules_version = rules_version
        self._own_mtas = own_mtas
        self._keyed = lru_cache(maxsize=65_536)(self._key_uncached)

    def lines(self, finding: Finding, origin: Origin, index: int, raw_id: Callable[[], str]) -> list[Line]:
        """The event's line, and for a domain failure a copy for the domain's own partition.

        `raw_id` gives the identity of the raw message; it is asked only where the content has no
        better one. Never raises for anything that a finding's text may hold.
        """
        f = finding
        normalised, key, domain = self._keyed(f.recipient)
        if f.recipient_key or f.recovery in NOBODY:  # what is written is a placeholder
            normalised, key = "", f.recipient_key or NO_ID
        row = self._row(f, origin, index, key, domain, raw_id)
        event_id = row["event_id"]
        lines = [Line(key if key != NO_ID else ids.place(event_id), event_line(orjson.dumps(row), normalised))]
        if f.cause in _DOMAIN_CAUSES and domain and f.kind in _FINAL_FAILURES:
            received = origin.received_ms
            copy = {
                "event_id": event_id,
                "domain": domain,
                "kind": row["kind"],
                "cause": row["cause"],
                "permanence": f.permanence.value,
                "confidence": row.get("confidence", 0.0),
                "trust": f.trust.value,
                "at": min(row_ms(row["occurred_at"]), received),
                "received": received,
                "message": row.get("outcome_id", event_id),
            }
            lines.append(Line(self._identity.domain_key(domain), COPY_PREFIX + orjson.dumps(copy) + b"}"))
        return lines

    def _row(
        self, f: Finding, origin: Origin, index: int, key: str, domain: str, raw_id: Callable[[], str]
    ) -> dict[str, Any]:
        """The row: what is not a default of `schemas.event.Event`, in its order. A test holds the two together.

        One `if` a column: it costs half of leaving the defaults out of a whole row.
        """
        message_key = f.message_id or f.envelope_id
        received, occurred = origin.received_ms, f.occurred_at_ms
        believable = plausible(occurred, received)
        row: dict[str, Any] = {"event_id": self._event_id(f, origin, index, key, message_key, raw_id)}
        if key != NO_ID:
            row["recipient_key"] = key
        row["kind"] = f.kind._value_
        row["received_at"] = row_time(received)
        row["occurred_at"] = row_time(occurred if believable and occurred is not None else received)
        if not believable and (text := _raw_time(f)):
            row["occurred_at_raw"] = text
        tenant = f.tenant or origin.tenant
        if tenant:
            row["tenant"] = tenant
        if text := f.stream or origin.stream:
            row["stream"] = text
        if text := f.campaign:
            row["campaign"] = text[:MAX_TEXT]
        if text := f.source or origin.source:
            row["source"] = text
        source_host = f.source_host.lower()
        if source_host:
            row["source_host"] = source_host[:MAX_TEXT]
        if text := f.message_id:
            row["message_id"] = text[:MAX_TEXT]
        if text := f.envelope_id:
            row["envelope_id"] = text[:MAX_TEXT]
        if message_key and key != NO_ID:
            # by the key, so that a report with a redacted recipient and the log of the same message meet
            row["outcome_id"] = ids.plain_id("outcome", tenant, message_key, key)
        if domain:
            row["recipient_domain"] = domain
        remote_host = f.remote_host.lower()[:MAX_TEXT]
        if text := provider_of(domain, remote_host):
            row["provider"] = text
        if f.mail_from and (text := _domain_of(f.mail_from)):
            row["mail_from_domain"] = text
        if text := f.sending_ip:
            row["sending_ip"] = text[:64]
        if text := f.pool:
            row["pool"] = text[:MAX_TEXT]
        if remote_host:
            row["remote_host"] = remote_host
        if text := f.remote_ip:
            row["remote_ip"] = text[:64]
        if text := f.stage:
            row["stage"] = text
        if f.smtp_code:
            row["smtp_code"] = f.smtp_code
        if text := f.status:
            row["status"] = text
        if text := f.action:
            row["action"] = text
        if f.diagnostic:
            diagnostic = f.diagnostic[:MAX_DIAGNOSTIC]
            row["diagnostic"] = mask_addresses(diagnostic)
            if f.kind is not Kind.DELIVERY and (text := template_hash(template_of(diagnostic))):
                row["template"] = text
        if f.permanence is not Permanence.UNKNOWN:
            row["permanence"] = f.permanence._value_
        if f.cause:
            row["cause"] = f.cause._value_
        if text := f.cause_detail:
            row["cause_detail"] = text[:MAX_TEXT]
        if f.cause and (text := FAULT_OF[f.cause]._value_):
            row["fault"] = text
        if f.confidence and (confidence := round(f.confidence, 3)):
            row["confidence"] = confidence
        if text := f.rule_id:
            row["rule_id"] = text
        if text := self._rules_version:
            row["rules_version"] = text
        if text := f.feedback_type:
            row["feedback_type"] = text[:64]
        if f.incidents > 1:
            row["incidents"] = min(f.incidents, MAX_INCIDENTS)
        if text := f.recovery:
            row["recovery"] = text
        if f.trust is not Trust.UNVERIFIED:
            row["trust"] = f.trust._value_
        if source_host in self._own_mtas and f.source in ("dsn", "arf"):
            row["echo"] = True
        if f.attempt:
            row["attempt"] = f.attempt
        if f.queue_seconds:
            row["queue_seconds"] = f.queue_seconds
        if f.size_bytes:
            row["size_bytes"] = f.size_bytes
        if text := f.tls:
            row["tls"] = text[:64]
        row["raw_topic"] = origin.topic
        row["raw_partition"] = origin.partition
        row["raw_offset"] = origin.offset
        if index:
            row["raw_index"] = index
        return row

    def _key_uncached(self, recipient: str) -> tuple[str, str, str]:
        """(normalised address, recipient key, domain), all empty (the key zero) for what is no address."""
        try:
            normalised = normalise(recipient)
        except NotAnAddress:
            return "", NO_ID, ""
        return normalised, self._identity.key_of(normalised), normalised.rpartition("@")[2]

    def _event_id(
        self, f: Finding, origin: Origin, index: int, key: str, message_key: str, raw_id: Callable[[], str]
    ) -> str:
        when = f.identity_ms if f.identity_ms is not None else (f.occurred_at_ms or 0)
        if f.identity:
            return ids.event_id(when, "log", origin.tenant, f.source, *f.identity)
        if f.kind in _REPORTS:
            # rounded, since copies of one report differ by seconds in what they say of the last attempt
            hour = when // ids.HOUR_MS * ids.HOUR_MS
            return ids.event_id(
                hour,
                "dsn",
                message_key or raw_id(),
                key if key != NO_ID else f.recipient,
                f.action or f.kind.value,
                f.source_host.lower(),
                f.status,
            )
        if f.kind in _COMPLAINTS:
            known = message_key and key != NO_ID
            # no time: the same complaint comes again through other channels at other times
            return ids.event_id(0, "arf", f.kind.value, message_key, key, "" if known else raw_id())
        return ids.event_id(when, "mail", f.kind.value, raw_id(), str(index))


def _raw_time(f: Finding) -> str:
    return f.occurred_at_raw[:MAX_TEXT] or ("" if f.occurred_at_ms is None else str(f.occurred_at_ms))


def _domain_of(address: str) -> str:
    return _normal_domain(address.strip().strip("<>").rpartition("@")[2])


@lru_cache(maxsize=4096)
def _normal_domain(domain: str) -> str:
    return normalise_domain(domain)[:255] if domain else ""
