"""A draft rule for a reply that no rule knows: what stays the same in it becomes the pattern.

The draft holds no address, host or id of the reply, so that it can be kept with the rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailecho.pipeline.classify.template import template_of

#: What template_of puts in place of variable parts, and something invented of its kind.
_INVENTED = {
    "ADDR": "someone@example.com",
    "URL": "https://example.com/help",
    "HOST": "mx.example.com",
    "IP": "192.0.2.1",
    "ID": "1A2B3C4D",
    "N": "7",
}
_PLACE = re.compile(r"\b(?:ADDR|URL|HOST|IP|ID)\b|N")
_CODE = re.compile(r"[#(]{0,3}[245](?:\d\d(?:-.*)?|\.\d{1,3}\.\d{1,3})[):;,]?$")
_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()]")
#: A phrase of more words meets the next wording of the same reply less often; of fewer, other replies.
_WORDS = 7


@dataclass(frozen=True, slots=True)
class Draft:
    """A rule that a person finishes: `cause` is left open."""

    id: str
    pattern: str
    example: str

    def toml(self) -> str:
        """As an entry of a rule file."""
        example = self.example.replace("\\", "\\\\").replace('"', '\\"')
        return (
            f'[[rule]]\nid = "{self.id}"\ncause = "undetermined" # choose\nconfidence = 0.9\n'
            f"patterns = ['{self.pattern}']\nexamples = [\"{example}\"]\n"
        )


def draft_rule(diagnostic: str) -> Draft | None:
    """A draft for a diagnostic (masked or not), None where it has no words that stay the same."""
    # control characters may stand in no TOML string
    template = "".join(c for c in template_of(diagnostic) if c.isprintable())
    words = max(_runs(template), key=_telling, default=[])[:_WORDS]
    if not any(len(word.strip("'\"().,:;")) > 2 for word in words):
        return None
    phrase = " ".join(words).strip(".,:;!-<>\"'()[] ")
    pattern = _SPECIAL.sub(lambda m: "\\" + m[0], phrase.casefold()).replace("'", ".")
    name = "_".join(re.findall(r"[^\W_]+", phrase)[:4])
    return Draft(
        f"draft.{name}", (r"\b" if phrase[:1].isalnum() and phrase.isascii() else "") + pattern, _example(template)
    )


def _runs(template: str) -> list[list[str]]:
    """The words between variable parts and codes."""
    runs: list[list[str]] = [[]]
    for word in template.split():
        if _PLACE.search(word) or _CODE.match(word):
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def _telling(run: list[str]) -> tuple[int, int]:
    words = run[:_WORDS]
    return sum(word.strip(".,:;").isalpha() for word in words), sum(map(len, words))


def _example(template: str) -> str:
    return _PLACE.sub(lambda m: _INVENTED[m[0]], template)
