"""Where a token stands: in mail that we send, and in reports that bring it back."""

from __future__ import annotations

import re
from enum import StrEnum

from mailecho.pipeline.trust.token import VERP_PREFIX, tokens_in

#: Our own header. A report that returns headers brings it back whatever is redacted around it.
HEADER = "X-Mailecho-Token"


class Place(StrEnum):
    """Places in the order of the recovery ladder (domain-reference 2.1)."""

    CFBL = "cfbl_feedback_id"
    HEADER = "header"
    VERP = "verp"
    ENVELOPE_ID = "envelope_id"
    MESSAGE_ID = "message_id"
    LIST_UNSUBSCRIBE = "list_unsubscribe"
    TEXT = "text"


#: How sure a recipient is that was found there. People forward unsubscribe links and quote mail in words.
CONFIDENCE = {Place.LIST_UNSUBSCRIBE: 0.95, Place.TEXT: 0.9}

_VERP = re.compile(rf"(?<![a-z0-9]){VERP_PREFIX}([a-z2-7]{{5,48}}-[a-z2-7]{{13}})(?![a-z2-7])")


def placements(
    token: str, *, bounce_domain: str, message_id_domain: str = "", unsubscribe_url: str = ""
) -> dict[str, str]:
    """A token in all its places, by the name of the SMTP parameter or header field that takes it.

    `unsubscribe_url` is an https URL, which gets the token as its last part (RFC 8058 wants it hard to forge).
    """
    places = {
        "MAIL FROM": f"<{VERP_PREFIX}{token}@{bounce_domain}>",
        "ENVID": token,
        "Message-ID": f"<{token}@{message_id_domain or bounce_domain}>",
        "CFBL-Feedback-ID": token,
        HEADER: token,
    }
    if unsubscribe_url:
        joint = "" if unsubscribe_url.endswith(("/", "=")) else "/"
        places["List-Unsubscribe"] = f"<{unsubscribe_url}{joint}{token}>"
        places["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return places


def candidates(place: Place, text: str) -> list[str]:
    """What may be a token in the value of a place.

    VERP is found inside wrappers too (`SRS0=…=bounces.example=b-…@forwarder.example`, `prvs=…=b-…`).
    """
    if "-" not in text:
        return []
    if place is Place.VERP:
        return [match[1] for match in _VERP.finditer(text.lower())][:5]
    return tokens_in(text)
