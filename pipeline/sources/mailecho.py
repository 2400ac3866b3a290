"""Our own normalised JSON (`source: mailecho`): what a producer sends that can choose its format.

`DeliveryEntry` is the contract. The hot path checks every field by tables made from the contract's
JSON Schema, in one loop; pydantic runs only to say what is wrong with an entry that failed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mailecho.pipeline.finding import Finding, Unreadable
from mailecho.pipeline.sources.clock import instant_ms
from mailecho.pipeline.sources.entry import Context, Rejected, encode, is_address, is_ip, json_entries, rejected
from mailecho.pipeline.sources.verdict import FAILURES, judge
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.taxonomy import Kind, Trust

NAME = "mailecho"

#: These say nothing without a recipient. A complaint or an open may be known by its message only.
_NEEDS_RECIPIENT = frozenset((*FAILURES, Kind.DELIVERY, Kind.INJECTION))

_Text = Annotated[str, Field(max_length=500)] | None
_Name = Annotated[str, Field(max_length=200)] | None
_Ip = Annotated[str, Field(max_length=64)] | None


class DeliveryEntry(BaseModel):
    """One event as a producer may state it. Only `kind` and `occurred_at` are always needed.

    `null` counts as absent. The cause is not among the fields: it follows from `diagnostic`,
    `status` and `smtp_code` by the same rules as everywhere.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal[
        "bounce",
        "delay",
        "delivery",
        "injection",
        "expiry",
        "rejection",
        "complaint",
        "not_spam",
        "unsubscribe",
        "open",
        "click",
        "auto_reply",
    ] = Field(description="What happened")
    occurred_at: str | int | float = Field(
        description="When: RFC 3339, `YYYY-MM-DD hh:mm:ss.mmm` (UTC), epoch seconds or epoch milliseconds"
    )
    id: Annotated[str, Field(min_length=1, max_length=500)] | None = Field(
        None, description="Your own id of this fact: the same id (of one tenant, at one time) is the same event"
    )
    recipient: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="The address you sent to; needed for bounce, delay, delivery, injection, expiry, rejection"
    )
    message_id: Annotated[str, Field(max_length=998)] | None = Field(None, description="Message-ID of your message")
    envelope_id: _Text = Field(None, description="ENVID, or your queue id")
    mail_from: Annotated[str, Field(max_length=1000)] | None = Field(
        None, description="Envelope sender, address or domain; only its domain is kept"
    )
    tenant: _Name = Field(None, description="Wins over the header `tenant`")
    stream: _Name = Field(None, description="Wins over the header `stream`")
    campaign: _Text = Field(None, description="Your name of the mailing")
    pool: _Text = Field(None, description="Your name of the group of IPs that sent it")
    source_host: _Text = Field(None, description="Host that writes this")
    sending_ip: _Ip = Field(None, description="Our address that connected")
    remote_host: _Text = Field(None, description="Name of the server that answered")
    remote_ip: _Ip = Field(None, description="Its address")
    stage: Literal["connect", "helo", "mail", "rcpt", "data", "end_of_data", ""] | None = Field(
        None, description="Where in the SMTP session the reply came"
    )
    smtp_code: Annotated[int, Field(ge=0, le=599)] | None = Field(None, description="Three-digit reply code; 0: none")
    status: Annotated[str, Field(pattern=r"^([245]\.\d{1,3}\.\d{1,3})?$")] | None = Field(
        None, description="Enhanced status code x.y.z (RFC 3463)"
    )
    diagnostic: Annotated[str, Field(max_length=16_384)] | None = Field(
        None, description="The remote reply as it came; the event keeps its first 2,000 characters, addresses masked"
    )
    attempt: Annotated[int, Field(ge=0, le=65_535)] | None = Field(None, description="Which attempt, from 1")
    queue_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="Seconds since you took the message"
    )
    size_bytes: Annotated[int, Field(ge=0, le=4_294_967_295)] | None = Field(None, description="Of the message")
    tls: Annotated[str, Field(max_length=64)] | None = Field(None, description="TLS version and cipher")
    feedback_type: Annotated[str, Field(max_length=64)] | None = Field(None, description="ARF Feedback-Type (RFC 5965)")
    incidents: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="How often the same complaint was made"
    )

    @field_validator("occurred_at")
    @classmethod
    def _time(cls, value: str | int | float) -> str | int | float:
        instant_ms(value)
        return value

    @field_validator("recipient")
    @classmethod
    def _recipient(cls, value: str | None) -> str | None:
        if value and not is_address(value):
            raise ValueError("no address: it needs a local part, an @ and a domain")
        return value

    @field_validator("sending_ip", "remote_ip")
    @classmethod
    def _ip(cls, value: str | None) -> str | None:
        if value and not is_ip(value):
            raise ValueError("not an IPv4 or IPv6 address")
        return value

    @model_validator(mode="after")
    def _complete(self) -> DeliveryEntry:
        if Kind(self.kind) in _NEEDS_RECIPIENT and not self.recipient:
            raise ValueError(f"recipient: needed for kind={self.kind}")
        return self


def _tables() -> tuple[dict[str, int], dict[str, tuple[float, float]], frozenset[str]]:
    """Fields of plain text with their longest length, whole numbers with their range, and all the others."""
    text: dict[str, int] = {}
    number: dict[str, tuple[float, float]] = {}
    for name, schema in DeliveryEntry.model_json_schema()["properties"].items():
        branches = [b for b in schema.get("anyOf", ()) if b.get("type") != "null"]
        if len(branches) != 1:
            continue
        (branch,) = branches
        if branch["type"] == "string" and not {"pattern", "enum", "minLength"} & branch.keys():
            text[name] = branch["maxLength"]
        elif branch["type"] == "integer":
            number[name] = (branch["minimum"], branch["maximum"])
    return text, number, frozenset(DeliveryEntry.model_fields.keys() - text.keys() - number.keys())


_TEXT, _NUMBER, _OTHERS = _tables()
#: kind -> (Kind, whether it needs a recipient)
_KINDS = {
    name: (Kind(name), Kind(name) in _NEEDS_RECIPIENT)
    for name in DeliveryEntry.model_json_schema()["properties"]["kind"]["enum"]
}
_STAGES = frozenset(("connect", "helo", "mail", "rcpt", "data", "end_of_data", "", None))
_STATUS = re.compile(r"(?:[245]\.[0-9]{1,3}\.[0-9]{1,3})?")
_MAX_QUEUE_SECONDS = 1e9
_MAX_ID = 500


class _Refused(Exception):
    """The hot path does not take the entry."""


def recognise(value: bytes) -> bool:
    """Whether a record is ours for certain: JSON with the two fields that every entry has."""
    return value.lstrip()[:1] in (b"{", b"[") and b'"occurred_at"' in value and b'"kind"' in value


def read(value: bytes, context: Context) -> Iterator[Finding | Rejected]:
    """The events of one record: an object, an array of objects, or lines of objects."""
    for item in json_entries(value):
        if isinstance(item, Rejected):
            yield item
            continue
        index, data, entry = item
        try:
            yield finding(entry, context)
        except Unreadable as error:
            yield rejected(index, error, encode(entry) if data is None else data)


def finding(entry: Any, context: Context) -> Finding:
    """The event that one entry states. Raises Unreadable (reason `invalid`), which names the field."""
    if not isinstance(entry, dict):
        raise Unreadable("not a JSON object", Reason.INVALID.value)
    try:
        result = _checked(entry, context)
    except (_Refused, TypeError, ValueError, OverflowError):
        raise _explain(entry) from None
    judge(result)
    return result


def _checked(entry: dict[str, Any], context: Context) -> Finding:
    name_of_kind = entry.get("kind", "")
    known = _KINDS.get(name_of_kind)
    if known is None:
        raise _Refused
    kind, needs_recipient = known
    occurred_at = entry.get("occurred_at")
    if not isinstance(occurred_at, (str, int, float)) or occurred_at.__class__ is bool:
        raise _Refused
    fields: dict[str, Any] = {
        "kind": kind,
        "source": context.source,
        "trust": Trust.VERIFIED,
        "tenant": context.tenant,
        "stream": context.stream,
    }
    text, number = _TEXT, _NUMBER
    for name, value in entry.items():
        longest = text.get(name)
        if longest is not None:
            if value.__class__ is str and len(value) <= longest:
                fields[name] = value
                continue
        elif name in number:
            low, high = number[name]
            if value.__class__ is int and low <= value <= high:
                fields[name] = value
                continue
        elif name in _OTHER:
            if value is not None and (check := _OTHER[name]) is not None:
                fields[name] = check(value)
            continue
        else:
            raise _Refused
        if value is not None:
            raise _Refused
    recipient = fields.get("recipient", "")
    if (recipient and not is_address(recipient)) or (not recipient and needs_recipient):
        raise _Refused
    for name in _IPS:
        ip = fields.get(name)
        if ip and not is_ip(ip):
            raise _Refused
    message_id = fields.get("message_id", "")
    if message_id:
        message_id = fields["message_id"] = message_id.strip("<> ")
    occurred_ms = instant_ms(entry["occurred_at"])
    fields["occurred_at_ms"] = occurred_ms
    fields["occurred_at_raw"] = str(occurred_at)
    native = fields.pop("id", None)
    if native is not None:
        fields["identity"] = ("id", fields["tenant"], native)
    else:
        fields["identity"] = (
            name_of_kind,
            message_id or fields.get("envelope_id", ""),
            recipient.lower(),
            str(occurred_ms),
            fields.get("status", ""),
            str(fields.get("attempt", 0)),
            fields.get("remote_host", "").lower(),
        )
    return Finding.of(fields)


def _status(value: Any) -> str:
    if value.__class__ is not str or not _STATUS.fullmatch(value):
        raise _Refused
    return str(value)


def _stage(value: Any) -> str:
    if value not in _STAGES:
        raise _Refused
    return str(value)


def _queue_seconds(value: Any) -> float:
    if value.__class__ not in (float, int) or not 0 <= value <= _MAX_QUEUE_SECONDS:
        raise _Refused
    return float(value)


def _id(value: Any) -> str:
    if value.__class__ is not str or not 1 <= len(value) <= _MAX_ID:
        raise _Refused
    return str(value)


#: The fields that are more than a length or a range; the first two are looked at before all others.
_OTHER: dict[str, Callable[[Any], Any] | None] = {
    "kind": None,
    "occurred_at": None,
    "id": _id,
    "status": _status,
    "stage": _stage,
    "queue_seconds": _queue_seconds,
}
_IPS = ("sending_ip", "remote_ip")
if _OTHER.keys() != _OTHERS:
    raise RuntimeError("a field of the contract has no check")


def _explain(entry: dict[str, Any]) -> Unreadable:
    """Why the contract refuses an entry, without its values: they may be addresses."""
    try:
        DeliveryEntry.model_validate(entry)
    except ValidationError as error:
        problems = [_problem(e["loc"], e["type"], e["msg"]) for e in error.errors(include_input=False)[:5]]
        return Unreadable("; ".join(dict.fromkeys(problems)), Reason.INVALID.value)
    except RecursionError:
        return Unreadable("nested too deeply", Reason.INVALID.value)
    return Unreadable("the check and the contract of source mailecho disagree: report this", Reason.INTERNAL.value)


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = str(location[0])[:60] if location else ""
    if kind == "extra_forbidden":
        return f"{name}: no such field; known are {', '.join(DeliveryEntry.model_fields)}"
    message = message.removeprefix("Value error, ")
    return f"{name}: {message}" if name else message
