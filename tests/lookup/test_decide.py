from __future__ import annotations

import itertools
from typing import Any

import pytest

from mailecho.pipeline.lookup.decide import decide, rfc3339
from tests.lookup.entries import DAY, NOW, entry


def test_no_entry_allows() -> None:
    answer = decide("User@Example.com", [], NOW)
    assert answer == {
        "address": "User@Example.com",
        "allowed": True,
        "decision": "allow",
        "until": None,
        "reason": None,
        "cause": None,
        "state": None,
        "scope": None,
        "subject": None,
        "actor": None,
        "note": None,
        "version": None,
        "evidence": {"event_ids": [], "count": 0, "first": None, "last": None},
    }


@pytest.mark.parametrize(
    ("fields", "decision", "until", "state"),
    [
        ({"state": "active"}, "deny", None, "active"),
        ({"state": "active", "expires": NOW + DAY}, "deny", "2026-09-22T14:13:20.000Z", "active"),
        ({"state": "active", "expires": NOW}, "allow", None, "expired"),
        ({"state": "active", "expires": NOW - 1}, "allow", None, "expired"),
        ({"state": "active", "expires": 10**18}, "deny", "9999-12-31T23:59:59.999Z", "active"),
        ({"state": "held"}, "deny_until", None, "held"),
        ({"state": "held", "expires": NOW + DAY}, "deny_until", "2026-09-22T14:13:20.000Z", "held"),
        ({"state": "held", "expires": NOW - 1}, "allow", None, "expired"),
        ({"state": "watch"}, "allow", None, "watch"),
        ({"state": "watch", "expires": NOW - 1}, "allow", None, "watch"),
        ({"state": "released"}, "allow", None, "released"),
        ({"state": "expired"}, "allow", None, "expired"),
    ],
)
def test_one_entry(fields: dict[str, Any], decision: str, until: str | None, state: str) -> None:
    answer = decide("user@example.com", [entry(version=4, **fields)], NOW)
    assert (answer["decision"], answer["until"], answer["state"]) == (decision, until, state)
    assert answer["allowed"] is (decision == "allow")
    assert (answer["reason"], answer["cause"]) == ("hard_bounce", "mailbox_unknown")
    assert (answer["scope"], answer["version"]) == ("tenant", 4)
    assert answer["evidence"]["count"] == 1
    assert answer["evidence"]["first"] == "2026-09-21T14:13:20.000Z"


def test_whose_entry_decided_and_who_made_it() -> None:
    made = entry("", domain="example.com", state="active", actor="kim", note="asked by phone")
    answer = decide("user@example.com", [made], NOW)
    assert (answer["subject"], answer["actor"], answer["note"]) == ("domain", "kim", "asked by phone")


def test_the_most_restrictive_of_all_scopes_and_subjects_decides_in_any_order() -> None:
    ladder = [
        entry(state="active", scope="stream", scope_id="/news", reason="manual"),
        entry(state="active", scope="global", expires=NOW + 2 * DAY),
        entry(state="active", scope="tenant", expires=NOW + DAY),
        entry("", domain="example.com", state="held", scope="global", reason="domain"),
        entry(state="held", scope="stream", scope_id="/news", expires=NOW + DAY),
        entry(state="watch", scope="global"),
    ]
    for low in range(len(ladder)):
        rest = ladder[low:]
        expected = decide("user@example.com", rest[:1], NOW)
        for order in itertools.permutations(rest):
            assert decide("user@example.com", order, NOW) == expected


def test_between_equals_the_wider_scope_is_named() -> None:
    scopes = [entry(scope=scope) for scope in ("stream", "global", "tenant")]
    assert decide("user@example.com", scopes, NOW)["scope"] == "global"


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(0) is None
    assert rfc3339(1) == "1970-01-01T00:00:00.001Z"
    assert rfc3339(NOW + 7) == "2026-09-21T14:13:20.007Z"
