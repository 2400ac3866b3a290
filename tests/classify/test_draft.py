"""A draft rule matches the reply that it was drafted from, and holds nothing of its variable parts."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.classify.automaton import Automaton
from mailecho.pipeline.classify.draft import draft_rule
from mailecho.pipeline.classify.reply import normalised
from mailecho.pipeline.classify.ruleset import rule_of

REPLIES = (
    "550 5.7.1 <***@shop.example> Mailman says: the moon isn't right (session 4F1A2B3C) see http://help.example.net/x",
    "451 mx1.example.org [192.0.2.7] temporarily on holiday; come back after 300 seconds",
    "550 5.7.0 «доставка невозможна сегодня» 12345",
)


@pytest.mark.parametrize("reply", REPLIES)
def test_a_draft_matches_its_reply(reply: str) -> None:
    draft = draft_rule(reply)
    assert draft is not None
    (entry,) = tomllib.loads(draft.toml())["rule"]
    drafted = rule_of({key: value for key, value in entry.items() if key != "id"}, "draft.toml", entry["id"])
    assert drafted.cause == "undetermined"
    automaton = Automaton(drafted.patterns)
    assert automaton.matches(normalised(reply).encode())
    assert automaton.matches(normalised(drafted.examples[0]).encode())


def test_a_draft_keeps_no_address_host_or_id() -> None:
    draft = draft_rule(REPLIES[0])
    assert draft is not None
    assert not re.search(r"shop\.example|4f1a2b3c|help\.example", draft.toml(), re.I)
    assert draft.pattern == r"\bmailman says: the moon isn.t right \(session"


def test_nothing_to_draft() -> None:
    assert draft_rule("550 5.1.1 <a@example.com>") is None
    assert draft_rule("") is None


@given(st.text(max_size=300))
def test_any_reply_gives_valid_toml_or_nothing(reply: str) -> None:
    draft = draft_rule(reply)
    if draft is not None:
        assert tomllib.loads(draft.toml())["rule"][0]["patterns"] == [draft.pattern]
