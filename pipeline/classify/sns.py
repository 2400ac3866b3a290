"""Amazon SES notifications that arrive as mail: the JSON of an SNS notification in the text of a message.

https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from mailecho.pipeline.classify.row import MAX_ROWS, Report, Row

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

_START = re.compile(r'\{\s*"(?:notificationType|eventType|Type)"\s*:\s*"(?:Bounce|DeliveryDelay|Notification)"')


def read(letter: Letter) -> Report | None:
    """The report of a bounce notification, None where there is none."""
    if "amazonaws" not in letter.sender and "bouncedRecipients" not in letter.text:
        return None
    found = _START.search(letter.text)
    if not found:
        return None
    try:
        notice: Any = json.JSONDecoder(strict=False).raw_decode(letter.text, found.start())[0]
        if isinstance(notice.get("Message"), str):  # SNS puts the notification into its envelope as a string
            notice = json.loads(notice["Message"], strict=False)
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
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None
