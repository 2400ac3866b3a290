"""Reports in words that no format reads: whether it is one, and whom it is about."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_rows
from mailecho.pipeline.classify.formats.lists import by_list_manager
from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import find_addresses

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

_NO_ADDRESS = re.compile(
    r"(?i)^(?:postmaster|mailer-daemon|mailerdaemon|abuse|support|help|helpdesk|info|admin|administrator|noreply|no-reply|webmaster|hostmaster|root|spam|antispam|unblock|delist|removal|feedback)"
)
#: What speaks for a report, in points. It takes four, of which some must come from what the message says.
_ENOUGH = 4


def looks_like_report(letter: Letter) -> bool:
    """Whether a message reads like a report that mail did not arrive: its words, and who says so.

    A person who writes about a failed delivery, a newsletter about failure and an absence note each have some of
    the signs; a report has several.
    """
    headers = letter.headers
    if not headers.has_fields():
        return False  # a page of text that was taken for mail
    if "x-failed-recipients" in headers or ("lists" in letter.marks and by_list_manager(letter)):
        return True
    subject, sender, marks = letter.subject, letter.sender, letter.marks
    path = _return_path(letter)
    said = 0
    if "subject.report" in letter.head:
        said += 2
    elif "subject.maybe_report" in letter.head:
        said += 1
    if marks & _TOLD:
        said += 2
    formats = _formats(marks)
    if formats:
        said += 1 if formats <= {"labelled", "angle"} else 2
    if not said:
        return False
    points = said
    if "mailer-daemon" in sender or not sender.strip("<> "):
        points += 3
    elif "sender.daemon" in letter.head:
        points += 2
    elif "sender.program" in letter.head:
        points += 1
    if path in _NULL or path.startswith("<mailer-daemon"):
        points += 1
    if _automatic(letter):
        points += 1
    if "delivery-status" in headers.first("content-type"):
        points += 2
    if subject.startswith(_ANSWERS) and not _formats(marks):
        return False  # a person who answers about a failure
    if points - said >= 2:
        return points >= _ENOUGH
    # Nothing tells that a program wrote it: then it must say so in every other way, and be no mailing.
    if subject.startswith(_ANSWERS) or "list-unsubscribe" in headers:
        return False
    return points >= _ENOUGH + 2


#: A reverse path that nothing comes back to (RFC 5321 4.5.5), as it is written.
_NULL = ("<>", "<@>")


def _return_path(letter: Letter) -> str:
    return letter.headers.first("return-path").replace(" ", "").lower()


def _automatic(letter: Letter) -> bool:
    return letter.headers.first("auto-submitted").lower().startswith("auto")


_ANSWERS = ("re:", "re ", "fwd:", "fw:", "aw:", "sv:", "antw:", "tr:", "rv:")
_TOLD = frozenset(("failed", "delayed", "delivered"))
_NO_FORMAT = frozenset(("delivered", "failed", "delayed", "gave_up", "still_trying", "challenge"))


def _formats(marks: frozenset[str]) -> frozenset[str]:
    return marks - _NO_FORMAT


#: What worms attach to what they call a failed delivery.
_PROGRAM = re.compile(r"(?i)name\*?=[^;]{0,200}\.(?:zip|rar|7z|iso|exe|scr|pif|com|bat|cmd|vbs|js|hta|lnk|cpl)\b")


def may_name_nobody(letter: Letter) -> bool:
    """Whether a report that names nobody is one all the same: a mail system wrote it, and there is a sign of that.

    Worms and phishing take the names of mail systems; they return nothing, and bring a program or a link.
    """
    if _return_path(letter) in _NULL or letter.enclosed is not None or not letter.sender.strip("<> "):
        return True
    if any(_PROGRAM.search(part.headers.first("content-type")) for part in letter.mail.parts):
        return False
    return "sender.daemon" in letter.head and (_automatic(letter) or bool(letter.tail) or "daemon" in letter.sender)


def guess_rows(letter: Letter) -> list[Row]:
    """Rows for whom such a report is about: lines that begin with an address, then addresses that are spoken of,
    then the recipient of the returned message. [] where nobody can be named.
    """
    text = letter.text
    whole = " ".join(text.split())[:4000]
    failed = find_addresses(letter.headers.first("x-failed-recipients"))
    if failed:
        return [Row(a, aside=whole, found="X-Failed-Recipients") for a in failed]
    mine = _ours(letter)
    rows = [row for row in address_rows(text.split("\n")) if _may_be(row.recipient, mine)]
    if rows:
        for row in rows:
            row.aside = whole
        return rows[:50]
    spoken = _spoken_of(text, mine)
    if spoken:
        return [Row(a, aside=whole) for a in spoken]
    returned = find_addresses(letter.returned.first("to"))
    if len(returned) == 1:
        return [Row(returned[0], aside=whole, found="To of the returned message")]
    for value in letter.returned.all("received"):
        _, mark, rest = value.partition(" for ")
        found = find_addresses(rest, 1) if mark else []
        if found and _may_be(found[0], mine):
            return [Row(found[0], aside=whole, found="Received (for …) of the returned message")]
    return []


def _ours(letter: Letter) -> set[str]:
    """Addresses that cannot be whom the report is about: to whom it was sent, who wrote it, who sent the original."""
    fields = [
        letter.headers.first(name) for name in ("to", "from", "reply-to", "delivered-to", "x-original-to", "sender")
    ]
    fields += [letter.returned.first(name) for name in ("from", "return-path", "reply-to", "sender")]
    return {a.lower() for field in fields for a in find_addresses(field)}


def _may_be(address: str, mine: set[str]) -> bool:
    return address.lower() not in mine and not _NO_ADDRESS.match(address)


def _spoken_of(text: str, mine: set[str]) -> list[str]:
    """Addresses behind a word such as "to" or "recipient", each once."""
    found: dict[str, str] = {}
    for address in find_addresses(text, 40):
        at = text.find(address)
        before = text[max(0, at - 80) : at]
        if _may_be(address, mine) and "contact" not in before.lower() and "mailto:" not in before[-10:].lower():
            found.setdefault(address.lower(), address)
    return list(found.values())[:5]
