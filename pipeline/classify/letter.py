"""A message as the classifier looks at it: its words, what it returns, and which marks occur in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailecho.pipeline.classify import guess, returned
from mailecho.pipeline.classify.lazy import lazy
from mailecho.pipeline.classify.marks import head_marks, probe
from mailecho.pipeline.message.headers import Headers
from mailecho.pipeline.message.scan import Mail, Part, split_head

if TYPE_CHECKING:
    from mailecho.pipeline.classify.arf import Told
    from mailecho.pipeline.classify.trace import Trace

#: What is read of the words of a report. A report in plain text is a page; the rest is what it returns.
MAX_WORDS = 24_000
MAX_RETURNED_HEAD = 64_000

_NOT_WORDS = frozenset(
    (
        "message/delivery-status",
        "message/global-delivery-status",
        "message/feedback-report",
        "message/disposition-notification",
    )
)


class Letter:
    """A message and what is computed from it at first need. `text` is what its writer says: without the
    returned message, without machine parts; `returned` are the headers of the message that it returns.
    """

    def __init__(self, mail: Mail, trace: Trace | None = None) -> None:
        self.mail = mail
        self.headers = mail.headers
        self.trace = trace
        self.told: Told | None = None  # the complaint that was read from it

    @lazy
    def subject(self) -> str:
        """The subject, decoded, in lower case."""
        return self.headers.text("subject").lower()

    @lazy
    def sender(self) -> str:
        """The From field in lower case, as it stands."""
        return self.headers.first("from").lower()

    @lazy
    def enclosed(self) -> Part | None:
        """The first part that encloses a message or its headers."""
        return next((p for p in self.mail.parts if p.returned), None)

    @lazy
    def _words(self) -> str:
        plain: list[str] = []
        html: list[str] = []
        size = 0
        for part in self.mail.parts:
            if part.returned:
                break
            if part.type in _NOT_WORDS or not part.type.startswith("text"):
                continue
            disposition = part.headers.first("content-disposition").lower()
            if plain and disposition.startswith("attachment"):
                continue
            words = part.text()[: MAX_WORDS * 4]
            (html if part.type == "text/html" else plain).append(words)
            size += len(words)
            if size > MAX_WORDS * 4:
                break
        text = "\n\n".join(plain)
        if html and len(text.strip()) < 60:
            text = "\n\n".join((text, *html))
        return text

    @lazy
    def _cut(self) -> tuple[str, str, frozenset[str]]:
        words = self._words
        head = words[:MAX_WORDS]
        marks, cut = probe("\n" + head)
        if cut >= 0:
            cut = max(cut - 1, 0)
        trace = returned.trace_start(head)
        if trace >= 0 and (cut < 0 or trace < cut):
            cut = trace
        if cut < 0:
            return head, "", marks
        return head[:cut], words[cut : cut + MAX_RETURNED_HEAD], marks

    @property
    def text(self) -> str:
        """What the report says in words, LF line ends, the returned message cut off."""
        return self._cut[0]

    @property
    def tail(self) -> str:
        """What was cut off the words: the returned message with the line that announces it."""
        return self._cut[1]

    @lazy
    def head(self) -> frozenset[str]:
        """Names of the marks in subject and sender."""
        return head_marks(self.subject, self.sender)

    @property
    def marks(self) -> frozenset[str]:
        """Names of the marks (see marks.py) that occur in the words."""
        return self._cut[2]

    @lazy
    def reads_like_report(self) -> bool:
        """Whether its words and who says them speak for a report in words (see guess.py)."""
        return guess.looks_like_report(self)

    @lazy
    def returned_text(self) -> str:
        """The returned message, as far as its headers; "" where nothing is returned."""
        part = self.enclosed
        if part is not None:
            return enclosed_text(part)[:MAX_RETURNED_HEAD]
        tail = self.tail.lstrip("\n")
        if tail:
            trace = returned.trace_start(tail)
            return tail[trace:] if trace >= 0 else tail.partition("\n")[2].lstrip("\n")
        return ""

    @lazy
    def returned(self) -> Headers:
        """The headers of the returned message."""
        return split_head(self.returned_text)[0] if self.returned_text else Headers()

    @lazy
    def message_id(self) -> str:
        """The Message-ID of the returned message, without brackets; "" where it is not returned."""
        value = self.returned.first("message-id") if self.returned_text else ""
        return value.partition(">")[0].lstrip("< ").partition(" ")[0][:400]


def enclosed_text(part: Part) -> str:
    """The message that a part encloses. RFC 2046 forbids to encode it, and some do."""
    encoding = part.headers.first("content-transfer-encoding").lower()
    return part.text() if encoding.startswith(("base64", "quoted")) else part.raw
