"""What a reader of reports gives: the reporter's facts and one row a recipient, not yet judged."""

from __future__ import annotations

from dataclasses import dataclass

#: No report names more recipients than an envelope may hold; more are noise, and each costs a verdict.
MAX_ROWS = 1000


@dataclass(slots=True)
class Row:
    """One recipient of one report, as the report says it. Empty where it says nothing.

    `action` is failed, delayed, delivered, relayed or expanded. `aside` is text that may tell more where the
    diagnostic tells too little. `found` names the field that gave the recipient, "" for the report's words.
    """

    recipient: str
    diagnostic: str = ""
    status: str = ""
    action: str = ""
    remote_host: str = ""
    stage: str = ""
    aside: str = ""
    last_attempt: str = ""
    found: str = ""


@dataclass(slots=True)
class Report:
    """One report of deliveries: who wrote it, about which message, and its rows.

    `message_id` is for where the report says it and does not return the message.
    """

    rows: list[Row]
    reporter: str = ""
    envelope_id: str = ""
    arrival: str = ""
    mail_from: str = ""
    message_id: str = ""
