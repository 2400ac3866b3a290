"""Findings become events: ids, keys, masked diagnostics, believable times.

This is where clear addresses end: the row carries the recipient key, and the address travels
beside it in the classified line only (DESIGN 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import orjson

from mailecho.pipeline import ids
from mailecho.pipeline.classify.template import mask_addresses, template_hash, template_of
from mailecho.pipeline.finding import NOBODY, Finding
from mailecho.pipeline.identity import Identity, NotAnAddress, normalise, normalise_domain
from mailecho.pipeline.provider import provider_of
from mailecho.pipeline.times import plausible, row_time
from mailecho.schemas.classified import COPY_PREFIX, event_line
from mailecho.schemas.event import NO_ID, dump_row
from mailecho.schemas.taxonomy import FAULT_OF, Cause, Kind

#: Longest text that a row keeps: a diagnostic is a few lines; what is longer is somebody's attack.
MAX_DIAGNOSTIC = 2_000
MAX_TEXT = 500

_REPORTS = frozenset((Kind.BOUNCE, Kind.DELAY, Kind.DELIVERY, Kind.EXPIRY, Kind.BACKSCATTER, Kind.QUARANTINE_NOTICE))
_COMPLAINTS = frozenset((Kind.COMPLAINT, Kind.NOT_SPAM, Kind.UNSUBSCRIBE))
_DOMAIN_CAUSES = frozenset((Cause.DOMAIN_UNKNOWN, Cause.DOMAIN_NO_MAIL))
_FINAL_FAILURES = frozenset((Kind.BOUNCE, Kind.EXPIRY))


@dataclass(frozen=True, slots=True)
class Origin:
    """The raw record that an event comes from; `received_ms` is its append time."""

    topic: str
    partition: int
    offset: int
    received_ms: int
    tenant: str = ""
    stream: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Line:
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
        message_key = f.message_id or f.envelope_id
        occurred = f.occurred_at_ms
        believable = plausible(occurred, origin.received_ms)
        occurred_ms = occurred if believable and occurred is not None else origin.received_ms
        event_id = self._event_id(f, origin, index, key, message_key, raw_id)
        remote_host = f.remote_host.lower()[:MAX_TEXT]
        tenant, stream = f.tenant or origin.tenant, f.stream or origin.stream
        cause = f.cause
        diagnostic = f.diagnostic[:MAX_DIAGNOSTIC]
        # by the key, so that a report with a redacted recipient and the log of the same message meet
        outcome = ids.plain_id("outcome", tenant, message_key, key) if message_key and key != NO_ID else NO_ID
        row = {
            "event_id": event_id,
            "recipient_key": key,
            "kind": f.kind.value,
            "received_at": row_time(origin.received_ms),
            "occurred_at": row_time(occurred_ms),
            "occurred_at_raw": "" if believable else _raw_time(f),
            "tenant": tenant,
            "stream": stream,
            "campaign": f.campaign[:MAX_TEXT],
            "source": f.source or origin.source,
            "source_host": f.source_host.lower()[:MAX_TEXT],
            "message_id": f.message_id[:MAX_TEXT],
            "envelope_id": f.envelope_id[:MAX_TEXT],
            "outcome_id": outcome,
            "recipient_domain": domain,
            "provider": provider_of(domain, remote_host),
            "mail_from_domain": _domain_of(f.mail_from),
            "sending_ip": f.sending_ip[:64],
            "pool": f.pool[:MAX_TEXT],
            "remote_host": remote_host,
            "remote_ip": f.remote_ip[:64],
            "stage": f.stage,
            "smtp_code": f.smtp_code,
            "status": f.status,
            "action": f.action,
            "diagnostic": mask_addresses(diagnostic) if diagnostic else "",
            "template": template_hash(template_of(diagnostic)) if diagnostic and f.kind is not Kind.DELIVERY else "",
            "permanence": f.permanence.value,
            "cause": cause.value if cause else "",
            "cause_detail": f.cause_detail[:MAX_TEXT],
            "fault": FAULT_OF[cause].value if cause else "",
            "confidence": round(f.confidence, 3),
            "rule_id": f.rule_id,
            "rules_version": self._rules_version,
            "feedback_type": f.feedback_type[:64],
            "incidents": max(1, min(f.incidents, 100_000)),
            "recovery": f.recovery,
            "trust": f.trust.value,
            "echo": f.source_host.lower() in self._own_mtas and f.source in ("dsn", "arf"),
            "attempt": f.attempt,
            "queue_seconds": f.queue_seconds,
            "size_bytes": f.size_bytes,
            "tls": f.tls[:64],
            "raw_topic": origin.topic,
            "raw_partition": origin.partition,
            "raw_offset": origin.offset,
            "raw_index": index,
        }
        lines = [Line(key if key != NO_ID else ids.place(event_id), event_line(dump_row(row), normalised))]
        if cause in _DOMAIN_CAUSES and domain and f.kind in _FINAL_FAILURES:
            copy = {
                "event_id": event_id,
                "domain": domain,
                "kind": f.kind.value,
                "cause": row["cause"],
                "permanence": row["permanence"],
                "confidence": row["confidence"],
                "trust": row["trust"],
                "at": min(occurred_ms, origin.received_ms),
                "received": origin.received_ms,
                "message": row["outcome_id"] if row["outcome_id"] != NO_ID else event_id,
            }
            lines.append(Line(self._identity.domain_key(domain), COPY_PREFIX + orjson.dumps(copy) + b"}"))
        return lines

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


@lru_cache(maxsize=4096)
def _domain_of(address: str) -> str:
    domain = address.strip().strip("<>").rpartition("@")[2]
    return normalise_domain(domain)[:255] if domain else ""
