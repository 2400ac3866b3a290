"""Bodies: transfer encodings, charsets, and the words of an HTML part."""

from __future__ import annotations

import binascii
import codecs
import html
import quopri
import re

from mailecho.pipeline.message.headers import Headers, charset, media_type

#: What is decoded of one part. Reports are a few kilobytes; a log pasted into one may be hundreds.
MAX_TEXT = 512 * 1024

_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
#: What is read of an HTML part: a report's words come first, its styles and pictures follow.
MAX_HTML = 128 * 1024

_OPENED = re.compile(r"<(script|style|head)\b[^<>]{0,200}>")
_BREAK = re.compile(r"(?i)<(?:br|/?p|/?div|/?tr|/?li|/?h[1-6]|/?table|hr)\b[^<>]{0,500}>")
_CELL = re.compile(r"(?i)</t[dh]>")
_TAG = re.compile(r"<[!/a-zA-Z][^<>]{0,1000}>")
_ANGLE_ADDRESS = re.compile(r"<([^<>@\s]{1,100}@[^<>@\s]{1,250})>")


def decode_body(raw: str, headers: Headers) -> str:
    """The text of a part. Broken encodings give what can be read of them; this never raises."""
    raw = raw[:MAX_TEXT]
    encoding = headers.first("content-transfer-encoding").lower()
    content_type = headers.first("content-type")
    if not encoding or encoding[0] in "78":  # 7bit, 8bit: the usual case
        if raw.isascii() and "\x1b" not in raw:
            return _unmarked(raw, content_type)
        data = raw.encode("utf-8", "surrogateescape")
    elif encoding.startswith("quoted"):
        data = quopri.decodestring(raw.encode("utf-8", "surrogateescape"))
    elif encoding.startswith("base64"):
        data = _base64(raw)
    else:
        data = raw.encode("utf-8", "surrogateescape")
    text = to_text(data, charset(content_type))
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _unmarked(text, content_type)


def _unmarked(text: str, content_type: str) -> str:
    return html_text(text) if "html" in content_type and media_type(content_type) == "text/html" else text


def _base64(raw: str) -> bytes:
    data = _NOT_BASE64.sub(b"", raw.encode("ascii", "ignore"))
    data = data[: len(data) - (len(data) % 4 == 1)]
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return b""


def to_text(data: bytes, name: str) -> str:
    """Bytes as text: in the charset that is named, else UTF-8, else Windows-1252."""
    if name and name not in ("us-ascii", "ascii", "utf-8", "unknown-8bit"):
        try:
            codecs.lookup(name)
            return data.decode(name, "replace")
        except (LookupError, ValueError, UnicodeError):
            pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def html_text(text: str) -> str:
    """The words of an HTML part, a line a block. No parser: entities, breaks and tags are enough here."""
    text = _ANGLE_ADDRESS.sub(r"&lt;\1&gt;", _shown(text[:MAX_HTML]))
    text = text.replace("\n", " ")
    text = _BREAK.sub("\n", text)
    if "</t" in text or "</T" in text:
        text = _CELL.sub(" ", text)
    text = html.unescape(_TAG.sub("", text)).replace("\xa0", " ")
    return "\n".join(line.strip() for line in text.split("\n"))


def _shown(text: str) -> str:
    """HTML without its scripts, styles and head. One pass: an element that is never closed is looked for once."""
    lower = text.lower()
    if len(lower) != len(text):
        return text
    kept: list[str] = []
    start = 0
    unclosed: set[str] = set()
    for opened in _OPENED.finditer(lower):
        name = opened[1]
        if opened.start() < start or name in unclosed:
            continue
        end = lower.find(f"</{name}", opened.end())
        if end < 0:
            unclosed.add(name)
            continue
        kept.append(text[start : opened.start()])
        start = end
    kept.append(text[start:])
    return " ".join(kept)
