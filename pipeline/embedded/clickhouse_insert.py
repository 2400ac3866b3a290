"""An INSERT's statement and its data, told apart as ClickHouse's parser does it."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: The statement before the data: `events` takes 1 kB with all columns named.
MAX_STATEMENT = 256 * 1024

_TOKEN = re.compile(
    rb"""(?P<space>\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)
    |'(?:[^'\\]|\\.|'')*'|`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*"
    |(?P<word>\w+)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_FORMAT_NAME = re.compile(rb"(?:\s+|/\*.*?\*/)*(\w+)[ \t\f]*;?[ \t\f]*(?:\r?\n)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Insert:
    """`statement` without its FORMAT clause, the data's format, and what data already follows it."""

    statement: str
    format: str
    head: bytes


def split_insert(text: bytes) -> Insert | None:
    """Take an INSERT with inline data apart; None for any other statement, and for `INSERT … SELECT`.

    Only the owner's statements come here: this is no guard. Data begins after the line break behind
    the format's name, or behind VALUES.
    """
    depth = 0
    first = True
    for token in _TOKEN.finditer(text, 0, MAX_STATEMENT):
        if token["space"]:
            continue
        word = (token["word"] or b"").upper()
        if first and word != b"INSERT":
            return None
        first = False
        depth += {b"(": 1, b")": -1}.get(token["other"] or b"", 0)
        if depth or not word:
            continue
        if word in (b"SELECT", b"WITH", b"INFILE"):
            return None
        if word == b"VALUES":
            return Insert(_sql(text[: token.start()]), "Values", text[token.end() :])
        if word == b"FORMAT":
            name = _FORMAT_NAME.match(text, token.end())
            if name is not None:
                return Insert(_sql(text[: token.start()]), _sql(name[1]), text[name.end() :])
    return None


def _sql(text: bytes) -> str:
    return text.decode("utf-8", "replace").strip()
