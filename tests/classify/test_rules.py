"""Every rule has examples, and each gives that rule and its cause."""

from __future__ import annotations

import pytest

from mailecho.pipeline.classify.reply import classify_reply
from mailecho.pipeline.classify.ruleset import Rule, read_rules, rules_version, ruleset
from mailecho.schemas.taxonomy import Cause

RULES = ruleset().rules


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_examples(rule: Rule) -> None:
    assert rule.examples, f"{rule.file}: {rule.id} has no example"
    host = ruleset().samples[min(rule.hosts)] if rule.hosts else ""
    for example in rule.examples:
        verdict = classify_reply(example, host=host)
        assert (verdict.rule_id, verdict.cause) == (rule.id, rule.cause), example


def test_ids_are_unique_and_numbers_in_range() -> None:
    ids = [rule.id for rule in RULES]
    assert len(ids) == len(set(ids))
    codes = [rule for rules in ruleset().status.values() for rule in rules]
    for rule in [*RULES, *codes]:
        assert 0 < rule.confidence <= 1, rule.id
        assert 0 < rule.weight <= 100, rule.id
        assert rule.hosts <= set(ruleset().samples), rule.id


def test_every_cause_can_be_found() -> None:
    codes = {rule.cause for rules in ruleset().status.values() for rule in rules}
    missing = set(Cause) - {rule.cause for rule in RULES} - codes - {Cause.UNDETERMINED}
    assert not missing


def test_words_are_lower_case_where_they_are_words() -> None:
    for part in read_rules("words.toml").values():
        for patterns in part.values():
            for pattern in patterns:
                plain = pattern.replace("\\S", "").replace("\\D", "").replace("\\W", "")
                assert plain == plain.lower(), pattern


def test_the_version_names_the_content() -> None:
    assert len(rules_version()) == 12
    assert rules_version() == rules_version()
