"""Complaints and other feedback reports: ARF (RFC 5965), authentication failures (RFC 6591, RFC 9991).

Reports in other forms (complaint.py) are brought into ARF's fields, and read here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.dates import milliseconds
from mailecho.pipeline.classify.dsn import recipient_of, xtext
from mailecho.pipeline.classify.recipients import CONFIDENCE, Found, recipients
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.message.headers import Headers
from mailecho.schemas.taxonomy import Kind

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

FEEDBACK_TYPE = "message/feedback-report"

#: What a Feedback-Type means. Unknown types count as complaints: RFC 5965 treats them as "other".
KINDS = {
    "not-spam": Kind.NOT_SPAM,
    "auth-failure": Kind.AUTH_REPORT,
    "dkim": Kind.AUTH_REPORT,  # of the drafts before RFC 6591
    "opt-out": Kind.UNSUBSCRIBE,
    "opt-out-list": Kind.UNSUBSCRIBE,
}


@dataclass(frozen=True, slots=True)
class Told:
    """A complaint, in ARF's names. `returned` replaces the message that the letter encloses; `sender` is the
    address of who wrote it, where that is whom it is about.
    """

    fields: Headers
    feedback_type: str
    returned: Headers | None = None
    sender: str = ""


def read(letter: Letter) -> Told | None:
    """The complaint in a message/feedback-report part, None where there is none."""
    part = next((p for p in letter.mail.parts if p.type == FEEDBACK_TYPE), None)
    if part is None:
        return None
    fields = Headers(part.text().strip("\n"))
    return Told(fields, feedback_type(fields))


def feedback_type(fields: Headers) -> str:
    """The Feedback-Type in lower case, "other" where there is none."""
    return fields.first("feedback-type").lower().split(";")[0].strip() or "other"


def kind_of(name: str) -> Kind:
    """The kind of event that a Feedback-Type makes."""
    return KINDS.get(name, Kind.COMPLAINT)


def findings_of(letter: Letter, told: Told) -> list[Finding]:
    """A finding for each recipient of a complaint, one at least; without recipient it is counted all the same."""
    fields, name = told.fields, told.feedback_type
    returned = letter.returned if told.returned is None else told.returned
    kind = kind_of(name)
    incidents = fields.first("incidents")
    date = letter.headers.first("date")
    found = [Found(told.sender, "sender", CONFIDENCE["sender"])] if told.sender else recipients(fields, returned)
    message_id = letter.message_id if told.returned is None else returned.first("message-id").strip("<> ")
    return [
        Finding(
            kind,
            recipient=item.address,
            recovery=item.step if item.address or kind is not Kind.AUTH_REPORT else "",
            confidence=0.95 if kind is Kind.AUTH_REPORT else item.confidence,
            rule_id=f"arf.{name}" if len(name) < 40 else "arf.other",
            feedback_type=name[:60],
            message_id=message_id or fields.first("original-message-id").strip("<> "),
            envelope_id=xtext(fields.first("original-envelope-id")),
            source="arf",
            source_host=fields.first("reporting-mta").rpartition(";")[2].strip().split(" ")[0],
            sending_ip=fields.first("source-ip").strip("[]").split(" ")[0],
            mail_from=recipient_of(fields.first("original-mail-from")),
            campaign=_campaign(returned.first("feedback-id")),
            cause_detail=_failed_check(fields) if kind is Kind.AUTH_REPORT else "",
            incidents=max(int(incidents[:6]), 1) if incidents.isdecimal() else 1,
            last_attempt_raw=fields.first("arrival-date") or fields.first("received-date"),
            occurred_at_ms=milliseconds(date),
            occurred_at_raw=date[:200],
        )
        for item in found
    ]


def _campaign(feedback_id: str) -> str:
    """The campaign of Google's `Feedback-ID: campaign:customer:kind:sender`."""
    return feedback_id.partition(":")[0].strip()[:200] if feedback_id.count(":") >= 3 else ""


def _failed_check(fields: Headers) -> str:
    """Which check failed. DMARC reports (RFC 9991) are told by Identity-Alignment where Auth-Failure is old."""
    failed = fields.first("auth-failure").lower().strip()[:60]
    return failed or ("dmarc" if "identity-alignment" in fields else "")
