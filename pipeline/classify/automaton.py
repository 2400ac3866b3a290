"""Many patterns, one pass: Hyperscan over case-folded text.

Patterns are byte-wise: `.` is one byte, so a non-ASCII letter in a pattern is itself, and `.{1,2}` stands
for one that may be written with or without its accent. Each pattern matches at most once a text.

Compiling a thousand patterns takes seconds, so the compiled form is kept, under the hash of all that it depends
on: in the user's cache directory, or ahead of time beside the installation (`python -m
mailecho.pipeline.classify.warm`, which the image does, since a pod starts without a cache). Hyperscan refuses to load
what was compiled for a processor with other features: then, and without any kept form, it is compiled at start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import hyperscan


class Automaton:
    """A compiled set of patterns. Scanning is safe from several threads."""

    def __init__(self, patterns: Sequence[str], *, every: bool = False) -> None:
        """Compile, or load what was compiled before; `every` reports each match of a pattern, not the first alone.

        Raises ValueError with the pattern that is wrong.
        """
        flags = hyperscan.HS_FLAG_DOTALL | (0 if every else hyperscan.HS_FLAG_SINGLEMATCH)
        self._database = _cached(patterns, flags) or _compiled(patterns, flags)
        self._local = threading.local()

    def matches(self, text: bytes) -> list[tuple[int, int]]:
        """(index of the pattern, end of a match) for each pattern that occurs, by that end."""
        found: list[tuple[int, int]] = []
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)

        def on_match(index: int, _start: int, end: int, _flags: int, _context: object) -> None:
            found.append((index, end))

        self._database.scan(text, match_event_handler=on_match, scratch=scratch)
        return found


def _compiled(patterns: Sequence[str], flags: int) -> hyperscan.Database:
    database = hyperscan.Database()
    try:
        database.compile(expressions=[p.encode() for p in patterns], ids=range(len(patterns)), flags=flags)
    except hyperscan.error:
        for pattern in patterns:
            try:
                hyperscan.Database().compile(expressions=[pattern.encode()], flags=flags)
            except hyperscan.error as error:
                raise ValueError(f"pattern {pattern!r} is refused: {error}") from None
        raise
    _keep(patterns, flags, database)
    return database


def _name(patterns: Sequence[str], flags: int) -> str:
    """The file's name covers patterns, flags, library and architecture."""
    parts = [metadata.version("hyperscan"), str(flags), platform.machine(), *patterns]
    return f"patterns-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.hs"


def installed() -> Path:
    """Where patterns that were compiled ahead of time lie: beside the installation, for all its users."""
    return Path(sys.prefix) / "share" / "mailecho"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")) / "mailecho"


def _cached(patterns: Sequence[str], flags: int) -> hyperscan.Database | None:
    name = _name(patterns, flags)
    for directory in (installed(), _user_cache()):
        with contextlib.suppress(OSError, hyperscan.error, TypeError):
            data = (directory / name).read_bytes()
            digest, blob = data[:32], data[32:]
            if hashlib.sha256(blob).digest() == digest:
                return hyperscan.loadb(blob, hyperscan.HS_MODE_BLOCK)
    return None


def _keep(patterns: Sequence[str], flags: int, database: hyperscan.Database) -> None:
    with contextlib.suppress(OSError):
        file = _user_cache() / _name(patterns, flags)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        blob = hyperscan.dumpb(database)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=".patterns-")
        with os.fdopen(descriptor, "wb") as out:
            out.write(hashlib.sha256(blob).digest() + blob)
        os.replace(temporary, file)
