"""Where in a reply, as it was written, the phrase of a rule stands."""

from __future__ import annotations

import re

from mailecho.pipeline.classify.reply import QUOTED_ADDRESS, normalised


def phrase_span(text: str, pattern: str, end: int) -> tuple[int, int] | None:
    """(start, end) of a rule's phrase in a reply's text, lines joined; None where it stands in the host's name.

    `end` is the byte of the normalised text at which the automaton saw it end. The automaton looks for no starts,
    which would cost it speed, so the one pattern is asked again, by `re`.
    """
    seen, place = _aligned(text)
    data = seen.encode("utf-8", "replace")
    if end > len(data) or end == 0:
        return None
    try:
        found = re.search(rb"(?:" + pattern.encode() + rb")\Z", data[:end], re.S)
    except re.error:  # Hyperscan takes what `re` does not
        found = None
    start = found.start() if found else data.rfind(b" ", 0, end - 1) + 1  # else the last word
    first_char = len(data[:start].decode("utf-8", "ignore"))
    last_char = max(len(data[:end].decode("utf-8", "ignore")), first_char + 1)
    return (place[first_char], place[last_char]) if len(place) == len(seen) + 1 else None


def _aligned(text: str) -> tuple[str, list[int]]:
    """The normalised text, and for each of its characters (and its end) the place in the text that it comes from."""
    folded: list[str] = []
    place: list[int] = []
    for at, character in enumerate(text):
        for each in character.casefold():
            folded.append(each)
            place.append(at)
    place.append(len(text))
    seen = normalised(text)
    plain = "".join(folded)
    if len(seen) == len(plain):
        return seen, place
    kept: list[int] = []
    at = 0
    for found in QUOTED_ADDRESS.finditer(plain):
        kept += place[at : found.start()]
        kept.append(place[found.start()])
        at = found.end()
    kept += place[at:]
    return seen, kept
