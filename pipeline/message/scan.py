"""The fast scanner: bytes of a message -> headers and a flat list of parts.

It cuts at boundaries and never builds a tree (RFC 2046). Every limit is there so that no input can
cost more than a few times its length: 50 MB messages, a thousand nested parts, headers without end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailecho.pipeline.message import fallback
from mailecho.pipeline.message.body import decode_body
from mailecho.pipeline.message.headers import Headers, boundary, media_type

#: What is read of a message. A report's own parts come before what it returns; worst case a report
#: behind a first part of 4 MB is not seen.
MAX_BYTES = 4 * 1024 * 1024
MAX_HEAD = 256 * 1024
MAX_PARTS = 200
#: Nesting of multiparts that is followed. Each level reads its body once more.
MAX_DEPTH = 12

_TEXT_BYTES = bytes(range(32, 256)) + b"\t\r\n\x0b\f\x1b"
_FIELD = re.compile(rb"(?:^|[\r\n])[A-Za-z][A-Za-z0-9-]{2,60}[ \t]{0,8}:")

RETURNED_TYPES = frozenset(
    (
        "message/rfc822",
        "text/rfc822-headers",
        "message/rfc822-headers",
        "text/rfc822",
        "message/global",
        "message/global-headers",
        "message/partial",
    )
)


@dataclass(slots=True)
class Part:
    """One leaf of a message: its media type (lower case), its headers and its body, still encoded."""

    type: str
    headers: Headers
    raw: str
    plain: bool = False  # `raw` is decoded already

    @property
    def returned(self) -> bool:
        """Whether it is a message (or its headers) that is enclosed."""
        return self.type in RETURNED_TYPES

    def text(self) -> str:
        """The body with transfer encoding and charset decoded."""
        if not self.plain:
            self.raw = decode_body(self.raw, self.headers)
            self.plain = True
        return self.raw


@dataclass(slots=True)
class Mail:
    """A message, read: its headers and its leaves in order."""

    headers: Headers
    type: str
    parts: list[Part]


class NotAMessage(ValueError):
    """Bytes that cannot be a message at all: nothing, or binary data without any header."""


def read_mail(raw: bytes) -> Mail:
    """Read a message, with any line ends. Raises NotAMessage; else it always gives a Mail."""
    text = _as_text(raw[:MAX_BYTES])
    if len(text) < 1000 and not text.strip():
        raise NotAMessage("the message is empty")
    mail = scan(text)
    if not mail.type and _binary(raw[:4096]):
        raise NotAMessage("binary data without a header: not an RFC 5322 message")
    return mail


def _binary(start: bytes) -> bool:
    """Whether it begins with data that no mail system sends: control characters, and no header field."""
    controls = len(start.translate(None, _TEXT_BYTES))
    return controls * 50 > len(start) and not _FIELD.search(start)


def _as_text(raw: bytes) -> str:
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
    if "\r" in text:
        text = text.replace("\r\r\n", "\n").replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        text = text.replace("\0", "")
    return text


def scan(text: str) -> Mail:
    """Read a message from text with LF line ends."""
    headers, body = split_head(text)
    content_type = headers.first("content-type")
    kind = media_type(content_type)
    mail = Mail(headers, kind, [])
    if not kind.startswith("multipart/"):
        mail.parts.append(Part(kind or "text/plain", headers, body))
        return mail
    mark = boundary(content_type)
    if not mark or not _cut(mail.parts, body, mark):
        mail.parts = [
            Part(leaf_type, Headers(block), leaf_body, plain=not leaf_type.startswith("message/"))
            for leaf_type, block, leaf_body in fallback.structure(text)
        ]
    if not mail.parts:  # declared as multipart, and without parts
        mail.parts.append(Part("text/plain", headers, body))
    return mail


def split_head(text: str) -> tuple[Headers, str]:
    """Headers and body. An mbox separator and leading blank lines are skipped."""
    if text.startswith("\n"):
        text = text.lstrip("\n")
    if text.startswith(("From ", ">From ")):
        text = text.partition("\n")[2]
    if text.startswith("\ufeff"):
        text = text[1:]
    end = text.find("\n\n")
    if end < 0:
        return Headers(text[:MAX_HEAD]), ""
    return Headers(text[: min(end, MAX_HEAD)]), text[end + 2 :]


def _cut(parts: list[Part], body: str, mark: str) -> bool:
    """Append the leaves of a multipart body, in order. False where the boundary does not occur at all."""
    pieces = _pieces(body, mark)
    if not pieces:
        return False
    stack = [(piece, 1) for piece in reversed(pieces)]
    while stack and len(parts) < MAX_PARTS:
        piece, depth = stack.pop()
        headers, body = _open(piece)
        content_type = headers.first("content-type")
        kind = media_type(content_type)
        if kind.startswith("multipart/") and depth < MAX_DEPTH:
            inner = _pieces(body, boundary(content_type))
            if inner:
                stack.extend((piece, depth + 1) for piece in reversed(inner))
                continue
            kind = "text/plain"
        parts.append(Part(kind or "text/plain", headers, body))
    return True


def _pieces(body: str, mark: str) -> list[str]:
    """The bodies between the boundary lines, without preamble and epilogue."""
    if not mark:
        return []
    raw = ("\n" + body).split("\n--" + mark, MAX_PARTS + 1)
    pieces: list[str] = []
    for index in range(1, len(raw)):
        piece = raw[index]
        line, _, rest = piece.partition("\n")
        line = line.strip()
        if not line:
            pieces.append(rest)
        elif line.startswith("--"):
            break
        elif pieces:  # a longer boundary that begins with this one
            pieces[-1] += "\n--" + mark + piece
    return pieces


def _open(piece: str) -> tuple[Headers, str]:
    """Headers and body of a part. Text right after the boundary has no headers."""
    if piece.startswith("\n"):
        return Headers(), piece[1:]
    end = piece.find("\n\n")
    headers = Headers(piece[: min(end, MAX_HEAD)] if end >= 0 else piece[:MAX_HEAD])
    if not headers.starts_with("content-"):
        return Headers(), piece
    return headers, piece[end + 2 :] if end >= 0 else ""
