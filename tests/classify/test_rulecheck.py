"""The check of rules finds what it is for, and the shipped rules are sound."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mailecho.pipeline.classify.automaton import Automaton
from mailecho.pipeline.classify.rulecheck import check_rules, texts_of
from mailecho.pipeline.classify.ruleset import RULE_FILES, rule_data, ruleset


def rules(*entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    data: dict[str, dict[str, Any]] = {name: {"rule": []} for name in RULE_FILES}
    data["recipient.toml"]["rule"] = list(entries)
    data["status.toml"] = {"status": [], "reply": []}
    data["context.toml"] = {"host": rule_data()["context.toml"]["host"], "stage": []}
    return data


def rule(name: str, pattern: str = r"\bgone fishing\b", **more: Any) -> dict[str, Any]:
    entry = {
        "id": name,
        "cause": "mailbox_unknown",
        "confidence": 0.9,
        "patterns": [pattern],
        "examples": ["gone fishing"],
    }
    return {key: value for key, value in (entry | more).items() if value is not None}


def test_the_shipped_rules_have_no_errors() -> None:
    assert [str(problem) for problem in check_rules(rule_data()) if problem.level == "error"] == []


def test_sound_rules_have_no_problems() -> None:
    assert check_rules(rules(rule("a"), rule("b", r"\baway\b", examples=["he is away"]))) == []


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([rule("a", examples=[])], "examples is empty"),
        ([rule("a", cause="bad_luck")], "cause 'bad_luck'"),
        ([rule("a", cause=None)], "cause is missing"),
        ([rule("a", colour="red")], "unknown key colour"),
        ([rule("a", confidence=2)], "confidence is 2"),
        ([rule("a", hosts=["nowhere"])], "nowhere"),
        ([rule("a", "(gone")], "is refused"),
        ([rule("a", examples=["gone shopping"])], "decided by no rule"),
        ([rule("a"), rule("a", r"\baway\b", examples=["away"])], "the id stands in recipient.toml too"),
        ([rule("a"), rule("b")], "stands in rule a too"),
        ([rule("a", weight=90, patterns=[r"\bfishing\b"]), rule("b")], "decided by rule a"),
    ],
)
def test_each_problem_names_the_rule_and_what_is_wrong(entries: list[dict[str, Any]], words: str) -> None:
    errors = [str(problem) for problem in check_rules(rules(*entries)) if problem.level == "error"]
    assert any(words in error for error in errors), errors
    assert all("recipient.toml, rule " in error for error in errors)


def test_a_pattern_that_another_rule_always_outranks() -> None:
    heavy = rule("heavy", r"\bfish", weight=90, cause="mailbox_full", examples=["fish"])
    light = rule("light", patterns=[r"\bno (?:fish|fishing) today", r"\bclosed\b"], examples=["closed"])
    (problem,) = check_rules(rules(heavy, light))
    assert (problem.level, problem.rule_id) == ("warning", "light")
    assert "no (?:fish|fishing) today" in problem.what
    assert "heavy" in problem.what


def test_a_scoped_rule_shadows_nothing_elsewhere() -> None:
    scoped = rule("scoped", weight=90, cause="mailbox_full", hosts=["docomo"], examples=["gone fishing"])
    assert check_rules(rules(scoped, rule("wide"))) == []


def test_texts_of_a_pattern_match_it() -> None:
    assert texts_of(r"\b(?:a|b)c{2,3}[0-9] ?d\b")
    automaton = Automaton(ruleset().patterns)
    unmatched = 0
    for index, pattern in enumerate(ruleset().patterns[:200]):
        for text in texts_of(pattern)[:3]:
            assert re.search(pattern, text, re.S)
            unmatched += index not in {found for found, _ in automaton.matches(text.encode())}
    assert unmatched == 0, "re and Hyperscan agree on them"
