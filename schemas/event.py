"""The normalised event: one row of ClickHouse's `events` and one line of `feedback.events`.

`Event` is the documented contract (JSON Schema is generated from it): defaults are left out, `event_id`
is first. `pipeline.events` writes rows without the model; a test holds the two together.
"""

from __future__ import annotations

from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from mailecho.schemas.taxonomy import Cause, Fault, Kind, Permanence, Trust

NO_ID = "00000000-0000-0000-0000-000000000000"

_UTC = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$"


class Event(BaseModel):
    """What happened to one recipient of one message, as one report or log line tells it.

    Omitted fields have their defaults. Times are UTC, `YYYY-MM-DD hh:mm:ss.mmm`. Ids and keys are
    UUID text, so that ClickHouse stores 16 bytes and SQL compares them as printed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_enum_values=True)

    event_id: UUID = Field(description="Deterministic: the same fact has the same id, however often it comes")
    recipient_key: UUID = Field(UUID(NO_ID), description="HMAC of the normalised address; zero without one")
    kind: Kind
    received_at: str = Field(pattern=_UTC, description="Append time of the raw record")
    occurred_at: str = Field(pattern=_UTC, description="From the content, or received_at where that is nonsense")
    occurred_at_raw: str = Field("", description="The time as the content had it, where it was replaced")
    tenant: str = ""
    stream: str = ""
    campaign: str = ""
    source: str = Field("", description="postfix, mailecho, ses, …; dsn or arf for mailed reports")
    source_host: str = Field("", description="Host that wrote the log line or the report")
    message_id: str = Field("", description="Message-ID of our message, without brackets")
    envelope_id: str = Field("", description="ENVID (RFC 3461), xtext-decoded")
    outcome_id: UUID = Field(UUID(NO_ID), description="Same for all reports about one message and recipient")
    recipient_domain: str = ""
    provider: str = Field("", description="Mailbox provider, for example google, microsoft_consumer")
    mail_from_domain: str = Field("", description="Domain of the envelope sender")
    sending_ip: str = ""
    pool: str = ""
    remote_host: str = ""
    remote_ip: str = ""
    stage: str = Field("", description="connect, helo, mail, rcpt, data, end_of_data")
    smtp_code: int = Field(0, ge=0, le=999)
    status: str = Field("", description="Enhanced status code x.y.z (RFC 3463)")
    action: str = Field("", description="DSN action: failed, delayed, delivered, relayed, expanded")
    diagnostic: str = Field("", description="The remote reply, addresses masked")
    template: str = Field("", description="Hash of the diagnostic with its variable parts removed")
    permanence: Permanence = Permanence.UNKNOWN
    cause: Cause | str = Field("", description="One of the taxonomy; empty for a delivery and the like")
    cause_detail: str = ""
    fault: Fault = Fault.NONE
    confidence: float = Field(0.0, ge=0, le=1)
    rule_id: str = ""
    rules_version: str = ""
    feedback_type: str = Field("", description="ARF Feedback-Type (RFC 5965)")
    incidents: int = Field(1, ge=1, description="ARF Incidents: how often the same complaint was made")
    recovery: str = Field(
        "", description="How a complaint's recipient was found; unresolved or feedback_id: it was not"
    )
    trust: Trust = Trust.UNVERIFIED
    echo: bool = Field(False, description="A DSN of our own MTA, whose log we read: evidence, not a second bounce")
    attempt: int = Field(0, ge=0)
    queue_seconds: float = Field(0.0, ge=0)
    size_bytes: int = Field(0, ge=0)
    tls: str = ""
    raw_topic: str
    raw_partition: int = Field(ge=0)
    raw_offset: int = Field(ge=0)
    raw_index: int = Field(0, ge=0, description="Which event of the raw record")


COLUMNS: tuple[str, ...] = tuple(Event.model_fields)
