"""The stage of an SMTP dialogue (connect, helo, mail, rcpt, data, end_of_data), in Postfix's words."""

from __future__ import annotations

import re

#: What Postfix adds to a reply: `(in reply to RCPT TO command)`, `(in reply to end of DATA command)`.
IN_REPLY = re.compile(r"\(in reply to ([A-Za-z ]{1,40}?)(?: command)?\)")

#: What the client was doing, longest first where one holds another.
_STAGES = (
    ("end of data", "end_of_data"),
    ("message body", "data"),
    ("initial server greeting", "connect"),
    ("handshake", "helo"),
    ("helo", "helo"),
    ("ehlo", "helo"),
    ("lhlo", "helo"),
    ("mail from", "mail"),
    ("rcpt to", "rcpt"),
    ("data", "data"),
)


def stage_of(words: str) -> str:
    """The stage that some words name, "" for none."""
    words = words.lower()
    return next((stage for phrase, stage in _STAGES if phrase in words), "")


def stage_for(recipient: str, text: str) -> str:
    """The stage of a recipient's reply in the words of a report: in its paragraph, which begins with `<recipient>:`."""
    at = text.find(f"<{recipient}>")
    if at < 0:
        return ""
    end = text.find("\n<", at + 1)
    found = IN_REPLY.search(" ".join(text[at : end if end > 0 else at + 4000].split()))
    return stage_of(found[1]) if found else ""
