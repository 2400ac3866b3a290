"""Complaints and other feedback reports: ARF (RFC 5965), authentication failures (RFC 6591)."""

from __future__ import annotations

from mailecho.pipeline.message.addresses import field_address, find_addresses
from mailecho.pipeline.message.headers import Headers
from mailecho.schemas.taxonomy import Kind

FEEDBACK_TYPE = "message/feedback-report"

#: What a Feedback-Type means. Unknown types count as complaints: RFC 5965 treats them as "other".
KINDS = {
    "not-spam": Kind.NOT_SPAM,
    "auth-failure": Kind.AUTH_REPORT,
    "opt-out": Kind.UNSUBSCRIBE,
    "opt-out-list": Kind.UNSUBSCRIBE,
}


def kind_of(feedback_type: str) -> Kind:
    """The kind of event that a Feedback-Type makes."""
    return KINDS.get(feedback_type, Kind.COMPLAINT)


def recipients(fields: Headers, returned: Headers) -> list[tuple[str, str]]:
    """(address, how it was found) of each recipient of a complaint; [] where all is redacted.

    `fields` are those of the feedback report, `returned` the headers of the message complained about. A
    redacted address is given where nothing better is: it still has the domain.
    """
    for name, step in (
        ("original-rcpt-to", "original_rcpt_to"),
        ("removal-recipient", "removal_recipient"),
    ):
        found = _addresses(fields.all(name))
        if found:
            return [(address, step) for address in found]
    for name, step in (
        ("x-hmxmroriginalrecipient", "original_recipient_header"),
        ("x-original-to", "returned_header"),
        ("x-rcpt-to", "returned_header"),
        ("to", "returned_to"),
    ):
        found = _addresses(returned.all(name))
        if len(found) == 1 or (found and step != "returned_to"):
            return [(found[0], step)]
    for value in returned.all("received"):
        _, mark, rest = value.partition(" for ")
        found = find_addresses(rest, 1) if mark else []
        if found:
            return [(found[0], "received_for")]
    found = _addresses(fields.all("redacted-address"))
    return [(found[0], "redacted")] if found else []


def _addresses(values: list[str]) -> list[str]:
    found: dict[str, None] = {}
    for value in values:
        if "," in value:
            for address in find_addresses(value):
                found.setdefault(address)
        elif address := field_address(value):
            found.setdefault(address)
    return list(found)
