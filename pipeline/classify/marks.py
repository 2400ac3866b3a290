"""Marks: phrases by which a message shows its format, its kind, and where the returned message begins.

Two automata: one over the text (lower case, with its line ends), one over sender and subject. The words stand in
rules/words.toml, those of one format in its module.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from mailecho.pipeline.classify.automaton import Automaton
from mailecho.pipeline.classify.formats import FORMATS
from mailecho.pipeline.classify.ruleset import read_rules

RETURNED = "returned"


@lru_cache(maxsize=1)
def _of_text() -> tuple[Automaton, list[str]]:
    words: list[tuple[str, Sequence[str]]] = list(read_rules("words.toml")["text"].items())
    return _compile([*words, *((reader.NAME, reader.MARKS) for reader in FORMATS)])


@lru_cache(maxsize=1)
def _of_head() -> tuple[Automaton, list[str]]:
    words = read_rules("words.toml")
    groups = [(f"{part}.{name}", patterns) for part in ("subject", "sender") for name, patterns in words[part].items()]
    return _compile(groups, every=True)


def _compile(groups: Sequence[tuple[str, Sequence[str]]], *, every: bool = False) -> tuple[Automaton, list[str]]:
    names = [name for name, patterns in groups for _ in patterns]
    return Automaton([p for _, patterns in groups for p in patterns], every=every), names


def head_marks(subject: str, sender: str) -> frozenset[str]:
    """Marks of a subject and a From field, both in lower case: `subject.report`, `sender.daemon`, …"""
    automaton, names = _of_head()
    data = subject.encode("utf-8", "replace")
    border = len(data)
    matches = automaton.matches(data + b"\n" + sender.encode("utf-8", "replace"))
    return frozenset([names[i] for i, end in matches if (names[i][:7] == "subject") is (end <= border)])


def probe(text: str) -> tuple[frozenset[str], int]:
    """(names of the marks in a text, where the returned message is announced or -1).

    Marks behind that place do not count: they are the returned message's own words.
    """
    automaton, names = _of_text()
    data = text.lower().encode("utf-8", "replace")
    matches = automaton.matches(data)
    cut = min((end for index, end in matches if names[index] == RETURNED), default=-1)
    found = frozenset(names[i] for i, end in matches if (cut < 0 or end <= cut) and names[i] != RETURNED)
    if cut < 0:
        return found, -1
    if len(data) != len(text):
        cut = len(data[:cut].decode("utf-8", "ignore"))
    line = max(text.rfind("\n", 0, max(cut - 1, 0)), 0)
    ruler = text.find("---", line, cut)  # a page of HTML may have it all on one line
    return found, ruler if ruler > line + 40 else line
