"""A message too large for a record, cut so that what a classifier reads stays.

Reports carry our own message back, sometimes all 30 MB of it. Kept are the report parts (RFC 6522) and
the header of the returned message; its body goes, and what else is large is cut short. The result
stays well-formed MIME, with its closing boundaries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailecho.schemas.topics import RAW_RECORD_BYTES

#: Below it there is no room for structure: the first bytes are all there is.
_SMALLEST_SHARE = 512
#: Worst case of delimiter-like lines that are looked at in one multipart; real reports have three.
_MAX_PARTS = 1_000
_MAX_CANDIDATES = 100_000
#: A forwarded report is two or three deep.
_MAX_DEPTH = 8
#: RFC 2046 allows 70 characters.
_MAX_BOUNDARY = 200

_REPORT_TYPES = frozenset(
    (
        b"message/delivery-status",
        b"message/global-delivery-status",
        b"message/feedback-report",
        b"message/disposition-notification",
        b"message/global-disposition-notification",
    )
)
_RETURNED_TYPES = frozenset(
    (b"message/rfc822", b"message/global", b"message/partial", b"text/rfc822-headers", b"message/global-headers")
)
_HEADER_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
#: What a part is called that has only the header left (RFC 6522 section 3, RFC 6533 section 4).
_AS_HEADERS = {
    b"message/rfc822": b"text/rfc822-headers",
    b"message/partial": b"text/rfc822-headers",
    b"message/global": b"message/global-headers",
}
_LINE_END = re.compile(rb"\r\n|\n|\r")
_FOLD = re.compile(rb"(?:\r\n|\n|\r)[ \t]+")
_FIELD = re.compile(rb"[^\r\n]*+(?:\r\n|\n|\r|\Z)(?:[ \t][^\r\n]*+(?:\r\n|\n|\r|\Z))*+")
_TYPE = re.compile(rb"(?:^|[\r\n])content-type[ \t]*:[ \t]*([^\s;]{1,100})([^\r\n]*)", re.IGNORECASE)
_ENCODING = re.compile(rb"(?:^|[\r\n])content-transfer-encoding[ \t]*:[ \t]*([^\s;]{1,40})", re.IGNORECASE)
_BOUNDARY = re.compile(rb'boundary[ \t]*=[ \t]*(?:"([^"]*)"|([^\s;]+))', re.IGNORECASE)
_STRUCTURE = re.compile(rb"(?:content-type|content-transfer-encoding|mime-version)[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Part:
    start: int
    end: int
    type: bytes
    encoded: bool


def cut_message(raw: bytes, limit: int = RAW_RECORD_BYTES) -> tuple[bytes, int | None]:
    """A message of at most `limit` bytes that says what `raw` says: (message, original size or None).

    A message that fits comes back as it is, with None. The same bytes always give the same result, and a
    result is never cut again. Time and memory are linear in the size, whatever the structure; of what is no
    MIME the first `limit` bytes are kept.
    """
    if len(raw) <= limit:
        return raw, None
    result = _entity(raw, 0, len(raw), limit, 0)
    return (result if len(result) <= limit else raw[:limit]), len(raw)


def _entity(raw: bytes, start: int, end: int, budget: int, depth: int) -> bytes:
    """The entity (header and body) in raw[start:end], in at most `budget` bytes."""
    if end - start <= budget:
        return raw[start:end]
    body = _body_start(raw, start, end)
    if body < 0 or budget < _SMALLEST_SHARE or depth >= _MAX_DEPTH:
        return raw[start : start + budget]
    header = _short_header(raw[start:body], budget // 4)
    kind, boundary, encoded = _describe(header)
    room = budget - len(header)
    if kind.startswith(b"multipart/") and boundary:
        delimiter = b"--" + boundary
        parts = _parts(raw, body, end, delimiter)
        if parts:
            return header + _multipart(raw, parts, delimiter, _line_end(header), room, depth)
    elif kind in _RETURNED_TYPES and not encoded:
        return header + _entity(raw, body, end, room, depth + 1)
    return header + _leaf(raw, body, end, room, encoded)


def _multipart(raw: bytes, parts: list[_Part], delimiter: bytes, eol: bytes, budget: int, depth: int) -> bytes:
    """The parts that fit, in their order, with delimiters; reports have the first choice of the room."""
    reports = any(part.type in _REPORT_TYPES for part in parts)
    closing = delimiter + b"--" + eol
    overhead = len(delimiter) + 2 * len(eol)
    left = budget - len(closing)
    kept: dict[int, bytes] = {}
    for index in sorted(range(len(parts)), key=lambda i: (_rank(parts[i]), i)):
        part = parts[index]
        share = (left * 3 // 4 if _rank(part) < 2 else budget // 4) - overhead
        share = min(share, left - overhead)
        if share <= 0:
            break
        if reports and part.type in _RETURNED_TYPES and not part.encoded:
            piece = _headers_only(raw, part, share)
        else:
            piece = _entity(raw, part.start, part.end, share, depth + 1)
        kept[index] = piece
        left -= len(piece) + overhead
    pieces = [delimiter + eol + kept[index] + eol for index in sorted(kept)]
    return b"".join(pieces) + closing


def _rank(part: _Part) -> int:
    """Who is served first: reports, then what may hold one or our Message-ID, then text."""
    if part.type in _REPORT_TYPES:
        return 0
    return 1 if part.type in _RETURNED_TYPES or part.type.startswith(b"multipart/") else 2


def _headers_only(raw: bytes, part: _Part, budget: int) -> bytes:
    """A part that returns our message, with the header of the message only, and named as such."""
    body = _body_start(raw, part.start, part.end)
    if body < 0:
        return _leaf(raw, part.start, part.end, budget, False)
    head = _short_header(raw[part.start : body], budget // 4)
    head = _TYPE.sub(lambda m: m.group().replace(m.group(1), _AS_HEADERS.get(m.group(1).lower(), m.group(1)), 1), head)
    inner = _body_start(raw, body, part.end)
    inner_header = raw[body : inner if inner >= 0 else part.end]
    return head + _short_header(inner_header, budget - len(head))


def _parts(raw: bytes, start: int, end: int, delimiter: bytes) -> list[_Part]:
    """The parts between the delimiter lines in raw[start:end], up to the closing one (RFC 2046, 5.1.1)."""
    parts: list[_Part] = []
    opened = -1
    at = raw.find(delimiter, start, end)
    for _ in range(_MAX_CANDIDATES):
        if at < 0 or len(parts) >= _MAX_PARTS:
            break
        after = at + len(delimiter)
        closing = raw[after : after + 2] == b"--"
        line_end = _LINE_END.search(raw, after, min(after + 100, end))
        rest = raw[after + 2 * closing : line_end.start() if line_end else min(after + 100, end)]
        if (at == start or raw[at - 1] in b"\r\n") and not rest.strip(b" \t"):
            if opened >= 0:
                parts.append(_part(raw, opened, _without_line_end(raw, opened, at)))
            opened = -1 if closing else (line_end.end() if line_end else end)
            if closing:
                break
        at = raw.find(delimiter, after, end)
    if opened >= 0 and len(parts) < _MAX_PARTS:
        parts.append(_part(raw, opened, end))
    return parts


def _part(raw: bytes, start: int, end: int) -> _Part:
    body = _body_start(raw, start, min(end, start + 65_536))
    kind, _, encoded = _describe(raw[start:body] if body >= 0 else b"")
    return _Part(start, end, kind, encoded)


def _without_line_end(raw: bytes, start: int, at: int) -> int:
    """Where a part ends whose delimiter is at `at`: the line end before it belongs to the delimiter."""
    if at - 2 >= start and raw[at - 2 : at] == b"\r\n":
        return at - 2
    return max(start, at - 1)


def _body_start(raw: bytes, start: int, end: int) -> int:
    """Where the body begins: after the first empty line; -1 without one."""
    first = _LINE_END.match(raw, start, end)
    if first is not None:
        return first.end()  # an empty header
    # find, not a regular expression: this may look at all of 100 MB
    ends = [at + len(mark) for mark in _HEADER_ENDS if (at := raw.find(mark, start, end)) >= 0]
    return min(ends, default=-1)


def _short_header(header: bytes, budget: int) -> bytes:
    """A header in at most `budget` bytes: the fields that say how to read the body, then the first others."""
    if len(header) <= budget:
        return header
    eol = _line_end(header)
    fields = [f for f in _FIELD.findall(header) if f.strip(b"\r\n")]
    kept: set[int] = set()
    left = budget - len(eol)
    for structural in (True, False):
        for index, field in enumerate(fields):
            if bool(_STRUCTURE.match(field)) is structural and len(field) <= left:
                kept.add(index)
                left -= len(field)
    return b"".join(field for index, field in enumerate(fields) if index in kept) + eol


def _describe(header: bytes) -> tuple[bytes, bytes, bool]:
    """(content type in lower case, boundary or empty, whether the body is base64 or quoted-printable)."""
    flat = _FOLD.sub(b" ", header)
    found = _TYPE.search(flat)
    encoding = _ENCODING.search(flat)
    encoded = encoding is not None and encoding.group(1).lower() in (b"base64", b"quoted-printable")
    if found is None:
        return b"", b"", encoded
    boundary = _BOUNDARY.search(found.group(2))
    name = (boundary.group(1) or boundary.group(2) or b"").rstrip() if boundary else b""
    return found.group(1).lower(), name if len(name) <= _MAX_BOUNDARY else b"", encoded


def _leaf(raw: bytes, start: int, end: int, budget: int, encoded: bool) -> bytes:
    """The first bytes of a body, up to a line end where one is near, so that encoded text stays readable."""
    if end - start <= budget:
        return raw[start:end]
    piece = raw[start : start + budget]
    for at in range(len(piece) - 1, max(len(piece) - 1_000, 0), -1):
        if piece[at] in b"\r\n":
            return piece[: at + 1]
    return piece[: len(piece) // 4 * 4] if encoded else piece


def _line_end(header: bytes) -> bytes:
    match = _LINE_END.search(header)
    return match.group() if match else b"\r\n"
