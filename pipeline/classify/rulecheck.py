"""What is wrong with a set of rules: what no example shows, what another rule always outranks, what stands twice.

For a pattern, texts that it matches are made up from its parts; where another rule decides each of them, the pattern
is shadowed, and a rule all of whose patterns are shadowed can never win.
"""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import hyperscan

from mailecho.pipeline.classify.reply import weigh
from mailecho.pipeline.classify.ruleset import RULE_FILES, Rule, RuleSet, build_ruleset, rule_of

#: Made-up texts of one pattern. Patterns have up to some hundreds of alternatives; a shadow over the first dozens of
#: their combinations, spread over all, is one over all.
SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a rule. `level` is error (the rule is wrong or useless) or warning (a part of it is)."""

    level: str
    file: str
    rule_id: str
    what: str

    def __str__(self) -> str:
        return f"{self.level}: {self.file}, rule {self.rule_id}: {self.what}"


def check_rules(data: dict[str, dict[str, Any]]) -> list[Problem]:
    """Everything wrong with parsed rule files, in the form of ruleset.rule_data. Raises nothing for what they hold.

    Where entries or patterns are bad, only those are named: the rest is checked once they are mended.
    """
    bad = list(_bad_entries(data))
    problems = bad + list(_twice(data))
    if bad:
        return problems
    try:
        rules = build_ruleset(data)
    except ValueError:  # it names the first bad pattern only
        return problems + list(_bad_patterns(data))
    for rule in rules.rules:
        problems += _examples(rule, rules)
        problems += _shadows(rule, rules)
    return problems


def _bad_entries(data: dict[str, dict[str, Any]]) -> Iterator[Problem]:
    for file in RULE_FILES:
        for number, entry in enumerate(data[file]["rule"], 1):
            rule_id = str(entry.get("id", f"number {number}"))
            if "id" not in entry:
                yield Problem("error", file, rule_id, "id is missing")
            try:
                rule = rule_of(entry, file, rule_id)
            except ValueError as error:
                yield Problem("error", file, rule_id, str(error).partition(": ")[2])
                continue
            yield from _bad_values(rule, {entry["family"] for entry in data["context.toml"]["host"]})


def _bad_values(rule: Rule, families: set[str]) -> Iterator[Problem]:
    def wrong(what: str) -> Problem:
        return Problem("error", rule.file, rule.id, what)

    if not rule.patterns:
        yield wrong("patterns is empty: it can match nothing")
    if not rule.examples:
        yield wrong("examples is empty: give a made-up reply that it explains")
    if not 0 < rule.confidence <= 1:
        yield wrong(f"confidence is {rule.confidence}: give a number above 0, up to 1")
    if not 0 < rule.weight <= 100:
        yield wrong(f"weight is {rule.weight}: give a number from 1 to 100")
    if unknown := sorted(rule.hosts - families):
        yield wrong(f"hosts names {', '.join(unknown)}, which context.toml does not have")


def _bad_patterns(data: dict[str, dict[str, Any]]) -> Iterator[Problem]:
    for file in RULE_FILES:
        for entry in data[file]["rule"]:
            for pattern in entry["patterns"]:
                try:
                    hyperscan.Database().compile(expressions=[pattern.encode()], flags=hyperscan.HS_FLAG_DOTALL)
                except hyperscan.error as error:
                    yield Problem("error", file, entry["id"], f"pattern {pattern!r} is refused: {error}")


def _twice(data: dict[str, dict[str, Any]]) -> Iterator[Problem]:
    ids: dict[str, str] = {}
    patterns: dict[tuple[str, ...], str] = {}
    for file in RULE_FILES:
        for entry in data[file]["rule"]:
            rule_id = str(entry.get("id", ""))
            if rule_id in ids:
                yield Problem("error", file, rule_id, f"the id stands in {ids[rule_id]} too")
            ids[rule_id] = file
            scope = (str(sorted(entry.get("hosts", ()))), str(entry.get("stage", "")), str(entry.get("class", "")))
            for pattern in entry.get("patterns", ()):
                other = patterns.setdefault((pattern, *scope), rule_id)
                if other != rule_id:
                    yield Problem("error", file, rule_id, f"pattern {pattern!r} stands in rule {other} too")
    codes: set[tuple[str, str]] = set()
    for entry in data["status.toml"]["status"]:
        key = (entry["code"], str(sorted(entry.get("hosts", ()))))
        if key in codes:
            yield Problem("error", "status.toml", entry["code"], "the code stands twice with the same hosts")
        codes.add(key)


def _examples(rule: Rule, rules: RuleSet) -> Iterator[Problem]:
    for example in rule.examples:
        winner = _winner(example, rule, rules)
        if winner is not rule:
            says = f"rule {winner.id} ({winner.cause.value}, weight {winner.weight})" if winner else "no rule"
            yield Problem("error", rule.file, rule.id, f"example {example!r} is decided by {says}")


def _shadows(rule: Rule, rules: RuleSet) -> Iterator[Problem]:
    shadowed = 0
    for pattern in rule.patterns:
        by = _shadow(pattern, rule, rules)
        if by is None:
            continue
        shadowed += 1
        if by.cause is not rule.cause or by.detail != rule.detail:
            what = f"pattern {pattern!r} never decides: {by.id} (weight {by.weight} over {rule.weight}) does"
            yield Problem("warning", rule.file, rule.id, what)
    if rule.patterns and shadowed == len(rule.patterns):
        yield Problem("error", rule.file, rule.id, "none of its patterns can decide: other rules outrank them all")


def _shadow(pattern: str, rule: Rule, rules: RuleSet) -> Rule | None:
    """The rule that decides all texts made up from a pattern, where that is always another one."""
    by: Rule | None = None
    for text in texts_of(pattern):
        winner = _winner(text, rule, rules)
        if winner is None or winner is rule:
            return None
        by = by or winner
    return by


def _winner(text: str, rule: Rule, rules: RuleSet) -> Rule | None:
    """Which rule decides a text at the rule's own hosts and stage."""
    host = rules.samples[min(rule.hosts)] if rule.hosts else ""
    stage = min(rule.stages) if rule.stages else ""
    evidence = weigh(text, host=host, stage=stage, rules=rules).evidence
    return evidence[0].rule if evidence else None


# --- texts that a pattern matches ------------------------------------------------------------------------------


def texts_of(pattern: str) -> list[str]:
    """Up to SAMPLES texts that a pattern matches, spread over its alternatives; [] for what `re` cannot parse."""
    try:
        parsed = importlib.import_module("re._parser").parse(pattern)
    except re.error:
        return []
    texts = list(dict.fromkeys(f"{_spread(parsed, turn)}" for turn in range(SAMPLES)))
    return [text for text in texts if re.search(pattern, text, re.S)]


def _spread(parsed: Any, turn: int) -> str:
    """One text; another `turn` takes other alternatives."""
    counter = itertools.count(turn, 7)  # 7: neighbouring choices do not move in step

    def choose(options: list[Any]) -> Any:
        return options[next(counter) % len(options)]

    def make(nodes: Any) -> str:
        return "".join(one(str(kind), value) for kind, value in nodes)

    def one(kind: str, value: Any) -> str:
        match kind:
            case "LITERAL":
                return chr(value)
            case "NOT_LITERAL" | "ANY":
                return "x" if value != ord("x") else "y"
            case "IN":
                return _member(value)
            case "BRANCH":
                return make(choose(value[1]))
            case "SUBPATTERN":
                return make(value[3])
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = value
                times = choose([least, min(int(most), least + 1)])
                return "".join(make(inner) for _ in range(times))
            case _:  # AT and assertions take no room
                return ""

    return make(parsed)


def _member(items: Any) -> str:
    kind, value = str(items[0][0]), items[0][1]
    match kind:
        case "LITERAL":
            return chr(value)
        case "RANGE":
            return chr(value[0])
        case "CATEGORY":
            return {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " "}.get(str(value), "x")
        case _:  # NEGATE
            return "~"
