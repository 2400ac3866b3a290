"""Header blocks: unfolding, lookup, RFC 2047 encoded words, parameters."""

from __future__ import annotations

import re
from functools import lru_cache

from mailecho.pipeline.message import fallback

#: A field that any message has, or one of those that programs add.
_NAMED = re.compile(
    r"\n(?:from|to|subject|date|received|message-id|return-path|mime-version|content-[a-z-]+|x-[a-z0-9-]+):"
)
_FOLD = re.compile(r"\n[ \t]+")
_BOUNDARY = re.compile(r'(?i)\bboundary\s*=\s*(?:"([^"]*)"|([^\s;]+))')
_CHARSET = re.compile(r'(?i)\bcharset\s*=\s*"?([A-Za-z0-9_.:+-]+)')

#: What is searched of one header block. A header of 64 kB is no mail system's, and each look-up costs its length.
MAX_BLOCK = 64 * 1024


class Headers:
    """The fields of one header block. Names are given in lower case; values are unfolded.

    Nothing is parsed ahead: a look-up is a search for the name at the start of a line, which takes a quarter of
    the time, since a message has forty fields and a report is told by five.
    """

    __slots__ = ("_block", "_lower")

    def __init__(self, block: str = "") -> None:
        self._block = "\n" + block[:MAX_BLOCK]
        self._lower = self._block.lower()
        if len(self._lower) != len(self._block):  # a letter whose lower case is longer (İ): offsets must agree
            self._lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in self._block)

    def __contains__(self, name: str) -> bool:
        return f"\n{name}:" in self._lower

    def __bool__(self) -> bool:
        """Whether there is anything at all in it."""
        return len(self._block) > 1

    def has_fields(self) -> bool:
        """Whether it looks like a header at all: a page of text has none."""
        return _NAMED.search(self._lower) is not None

    def first(self, name: str, default: str = "") -> str:
        """The first field of this name, or the default."""
        at = self._lower.find(f"\n{name}:")
        return self._value(at + len(name) + 2) if at >= 0 else default

    def all(self, name: str) -> list[str]:
        """All fields of this name, in order."""
        mark = f"\n{name}:"
        found: list[str] = []
        at = -1
        while (at := self._lower.find(mark, at + 1)) >= 0 and len(found) < 1000:
            found.append(self._value(at + len(mark)))
        return found

    def starts_with(self, prefix: str) -> bool:
        """Whether a field's name begins so."""
        return f"\n{prefix}" in self._lower

    def text(self, name: str) -> str:
        """The first field of this name with its encoded words decoded (RFC 2047)."""
        value = self.first(name)
        return decoded(value) if value else ""

    def _value(self, start: int) -> str:
        block = self._block
        end = block.find("\n", start)
        while end >= 0 and block[end + 1 : end + 2] in (" ", "\t"):
            end = block.find("\n", end + 1)
        value = block[start:end] if end >= 0 else block[start:]
        return (_FOLD.sub(" ", value) if "\n" in value else value).strip()


def decoded(value: str) -> str:
    """A header value as people read it: encoded words decoded (RFC 2047), raw 8-bit text repaired."""
    if "=?" in value:
        value = fallback.decode_words(value)
    return printable(value)


def printable(text: str) -> str:
    """Text without lone surrogates: bytes that were no UTF-8 are read as Windows-1252."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogateescape" if _escaped(text) else "surrogatepass")
        return data.decode("cp1252", "replace") if _escaped(text) else data.decode("utf-8", "replace")
    return text


def _escaped(text: str) -> bool:
    return all(0xDC80 <= ord(c) <= 0xDCFF for c in text if 0xD800 <= ord(c) <= 0xDFFF)


@lru_cache(maxsize=256)
def media_type(content_type: str) -> str:
    """`type/subtype` in lower case, "" where the field is none."""
    kind = content_type.split(";", 1)[0].strip().lower()
    return kind if "/" in kind else ""


def boundary(content_type: str) -> str:
    """The boundary parameter, "" without one."""
    found = _BOUNDARY.search(content_type)
    return (found[1] if found[1] is not None else found[2]).rstrip() if found else ""


def charset(content_type: str) -> str:
    """The charset parameter in lower case, "" without one."""
    found = _CHARSET.search(content_type)
    return found[1].lower() if found else ""
