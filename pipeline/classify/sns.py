"""Amazon SES notifications that arrive as mail: the JSON of an SNS notification in the text of a message.

https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mailecho.pipeline.classify.arf import Told
from mailecho.pipeline.classify.row import MAX_ROWS, Report, Row
from mailecho.pipeline.message.headers import Headers

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

_START = re.compile(
    r'\{\s*"(?:notificationType|eventType|Type)"\s*:\s*"(?:Bounce|Complaint|DeliveryDelay|Notification)"'
)


def read(letter: Letter) -> Report | None:
    """The report of a bounce notification, None where there is none."""
    notice = _notice(letter)
    if notice is None:
        return None
    try:
        bounce = notice.get("bounce") or notice.get("deliveryDelay") or {}
        people = bounce.get("bouncedRecipients") or bounce.get("delayedRecipients") or []
        rows = [
            Row(
                recipient=str(person.get("emailAddress", "")),
                diagnostic=str(person.get("diagnosticCode", "")).partition(";")[2].strip(),
                status=str(person.get("status", "")),
                action="delayed" if "deliveryDelay" in notice else "failed",
            )
            for person in people[:MAX_ROWS]
        ]
        return Report(rows, reporter=str(bounce.get("reportingMTA", "")).rpartition(";")[2].strip()) if rows else None
    except (ValueError, AttributeError, TypeError):
        return None


def read_complaint(letter: Letter) -> Told | None:
    """A complaint notification in ARF's names, None where there is none.

    SES names everybody at the complaining provider whom the message went to: of several nobody can say which.
    """
    notice = _notice(letter)
    try:
        complaint = notice.get("complaint") if notice is not None else None
        if not complaint or notice is None:
            return None
        people = complaint.get("complainedRecipients") or []
        mail = notice.get("mail") or {}
        fields = {
            "Original-Rcpt-To": people[0].get("emailAddress", "") if len(people) == 1 else "",
            "User-Agent": complaint.get("userAgent") or "",
            "Arrival-Date": complaint.get("arrivalDate") or "",
            "Original-Mail-From": mail.get("source") or "",
            "Source-IP": mail.get("sourceIp") or "",
        }
        headers = mail.get("headers") or []
        returned = [f"{item['name']}: {_line(item['value'])}" for item in headers[:200] if item["name"].lower() != "to"]
        if not headers:
            returned = [f"Message-ID: {_line((mail.get('commonHeaders') or {}).get('messageId', ''))}"]
        name = str(complaint.get("complaintFeedbackType") or "other").lower()
        block = "\n".join(f"{key}: {_line(value)}" for key, value in fields.items() if value)
        return Told(Headers(block), name, Headers("\n".join(returned)))
    except (ValueError, AttributeError, TypeError, KeyError):
        return None


def _notice(letter: Letter) -> Any:
    """The JSON of the notification in a message, None where there is none."""
    if "{" not in letter.text:
        return None
    if not any(mark in letter.text for mark in ("bouncedRecipients", "complainedRecipients", "notificationType")) and (
        "amazonaws" not in letter.sender
    ):
        return None
    found = _START.search(letter.text)
    if not found:
        return None
    try:
        notice: Any = json.JSONDecoder(strict=False).raw_decode(letter.text, found.start())[0]
        if isinstance(notice.get("Message"), str):  # SNS puts the notification into its envelope as a string
            notice = json.loads(notice["Message"], strict=False)
        return notice if isinstance(notice, dict) else None
    except (ValueError, AttributeError, RecursionError):
        return None


def _line(value: object) -> str:
    return " ".join(str(value).split())[:1000]
