"""flanker behind the fast scanner: encoded words, odd addresses, and structures that the scanner declines.

flanker is imported at first need: it takes a third of a second, and building its address grammar
prints warnings to stderr, which are kept from the operator here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from functools import lru_cache
from typing import Any

#: Longer input is not handed to flanker, whose cost is not bounded by anything of ours. A report that
#: needs it is a few kilobytes; worst case a longer one is read as plain text.
MAX_STRUCTURE = 64 * 1024
MAX_WORDS = 8 * 1024
#: flanker takes 2 us a line, full or empty: worst case 10 ms. Reports that need it have a few hundred.
MAX_LINES = 5000
MAX_PARTS = 100


@lru_cache(maxsize=1)
def _flanker() -> tuple[Any, Any, Any]:
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports the old cgi module
        from flanker import mime
        from flanker.addresslib import address
        from flanker.mime.message.headers import encodedword
    # It logs what it cannot read, with its content, and sets levels of its own: its loggers are cut off instead.
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "flanker":
            logging.getLogger(name).disabled = True
    return mime, address, encodedword


def flanker_mime() -> Any:
    """flanker's `mime` module, imported quietly."""
    return _flanker()[0]


@lru_cache(maxsize=2048)
def decode_words(value: str) -> str:
    """A header value with its encoded words decoded (RFC 2047); the value itself where that fails."""
    if len(value) > MAX_WORDS:
        return value
    _, _, encodedword = _flanker()
    try:
        text: str = encodedword.mime_to_unicode(value)
    except Exception:  # flanker raises whatever its codecs do; the raw value is still of use
        return value
    return text


@lru_cache(maxsize=2048)
def parse_address(value: str) -> str:
    """The address in a field that a simple scan cannot read (quoted local parts, comments), "" if none."""
    if len(value) > 1000 or "@" not in value:
        return ""
    _, address, _ = _flanker()
    try:
        parsed = address.parse(value)
    except Exception:  # its grammar may raise on control characters
        return ""
    return str(parsed.address) if parsed is not None and getattr(parsed, "address", None) else ""


def structure(text: str) -> list[tuple[str, str, str]]:
    """(media type, header block, body) of each leaf of a message, as flanker sees it.

    Bodies of text parts are decoded. [] where flanker cannot read it either.
    """
    if len(text) > MAX_STRUCTURE or text.count("\n") > MAX_LINES:
        return []
    mime, _, _ = _flanker()
    leaves: list[tuple[str, str, str]] = []
    try:
        message = mime.from_string(text.encode("utf-8", "surrogateescape"))
        for part in message.walk(with_self=True, skip_enclosed=True):
            if len(leaves) >= MAX_PARTS:
                break
            kind = part.content_type
            if kind.is_multipart():
                continue
            block = "\n".join(f"{name}: {value}" for name, value in part.headers.items())
            if kind.is_message_container():
                body = part.enclosed.to_string() if part.enclosed is not None else ""
            else:
                body = part.body
            if isinstance(body, bytes):
                body = body.decode("utf-8", "replace")
            leaves.append((f"{kind.main}/{kind.sub}".lower(), block, body or ""))
    except Exception:  # DecodingError, and whatever broken input raises inside it
        return []
    return leaves
