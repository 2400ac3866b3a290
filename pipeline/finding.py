"""What a classifier or a source adapter says of one (message, recipient): the core's result type.

A `Finding` still holds clear addresses and the diagnostic as it came. `pipeline.events` turns it,
with its record's origin, into the event that goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mailecho.schemas.taxonomy import Cause, Kind, Permanence, Trust

#: `recovery` of a complaint whose recipient nobody can tell: it counts, and suppresses nobody. The second one's
#: Feedback-ID still tells the campaign.
UNRESOLVED = "unresolved"
CAMPAIGN_ONLY = "feedback_id"
NOBODY = frozenset((UNRESOLVED, CAMPAIGN_ONLY))


@dataclass
class Finding:
    """One (message, recipient). Text fields are "" and numbers 0 where nothing is known.

    `recipient` is the address that we sent to (the original recipient where both are known),
    as written, without brackets. `occurred_at_ms` is epoch milliseconds UTC from the content, None
    where the content has no readable time (then `occurred_at_raw` may still hold its text).

    `recipient_key` (UUID text) is who it is about where a token of ours says so and the address is not known; then, and
    with a `recovery` of NOBODY, `recipient` is what the report wrote in its place (`redacted@isp.example`), of
    which the domain alone is used.

    `identity` makes the event id, together with kind-independent fields that `pipeline.ids` adds:
    a log adapter gives the fields by which its format tells facts apart (queue id, recipient,
    time, status, …); a mailed report leaves it empty and is identified as domain-reference 5 says.
    `identity_ms` is the time that goes into the id's first 48 bits: None means occurred_at_ms.
    """

    kind: Kind
    recipient: str = ""
    recipient_key: str = ""
    status: str = ""
    smtp_code: int = 0
    action: str = ""
    permanence: Permanence = Permanence.UNKNOWN
    cause: Cause | None = None
    cause_detail: str = ""
    confidence: float = 0.0
    rule_id: str = ""
    feedback_type: str = ""
    message_id: str = ""
    envelope_id: str = ""
    diagnostic: str = ""
    stage: str = ""
    source: str = ""
    source_host: str = ""  # the reporting MTA, or the host that wrote the log
    remote_host: str = ""
    remote_ip: str = ""
    sending_ip: str = ""
    mail_from: str = ""  # envelope sender address or domain
    tenant: str = ""
    stream: str = ""
    campaign: str = ""
    pool: str = ""
    incidents: int = 1
    recovery: str = ""
    trust: Trust = Trust.UNVERIFIED
    attempt: int = 0
    queue_seconds: float = 0.0
    size_bytes: int = 0
    tls: str = ""
    occurred_at_ms: int | None = None
    occurred_at_raw: str = ""
    last_attempt_raw: str = ""  # DSN Last-Attempt-Date or Arrival-Date, for the id
    identity: tuple[str, ...] = ()
    identity_ms: int | None = None

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Finding:
        """A finding of these fields, which it keeps; the others have their defaults. For hot paths: nothing is checked.

        (No slots: what is not set is found in the class, so that a finding costs what is known of it.)
        """
        finding = cls.__new__(cls)
        finding.__dict__ = fields
        return finding


class Unreadable(ValueError):
    """A raw record that no adapter can use. The message says why, in words for an operator.

    `reason` is a value of `schemas.deadletter.Reason`.
    """

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason
