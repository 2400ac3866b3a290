"""The fold: order must not matter, duplicates are dropped, counts add up, time is the running maximum."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailecho.pipeline.ledger.fold import NotClassified
from mailecho.schemas.topics import DAY_MS, Windows
from tests.ledger.histories import HOUR_MS, START, Fact, Folded, facts

#: Everything is received within one window, as DESIGN 2 point 11 asks; on the day after the last fact.
RECEIVED = START + 31 * DAY_MS


def fold_all(lines: list[bytes], sizes: random.Random) -> Folded:
    folded = Folded()
    position = 0
    while position < len(lines):
        size = sizes.randint(0, 5)
        folded.record(*lines[position : position + size])
        position += size
    return folded


REPLACED = [  # a report, its answer, and a newer report of the same message
    Fact("bounce", "mailbox_full", "ann@example.org", 0, 0),
    Fact("delivery", "", "ann@example.org", 0, 0, log=True),
    Fact("bounce", "mailbox_full", "ann@example.org", 0, 1),
]


@settings(max_examples=150, deadline=None)
@example(history=REPLACED, seed=0)
@given(history=st.lists(facts(), max_size=40), seed=st.integers(0, 2**32))
def test_any_order_duplication_and_batching_gives_the_same(history: list[Fact], seed: int) -> None:
    shuffle = random.Random(seed)
    straight = [fact.line(RECEIVED + i) for i, fact in enumerate(history)]
    # the same facts: twice some, in another order, received at other times within a window
    again = history + [fact for fact in history if shuffle.random() < 0.4]
    shuffle.shuffle(again)
    mixed = [fact.line(RECEIVED + shuffle.randint(0, 2 * DAY_MS)) for fact in again]
    one, other = fold_all(straight, shuffle), fold_all(mixed, shuffle)
    assert one.rows() == other.rows()
    assert one.entries() == other.entries()


@settings(max_examples=50, deadline=None)
@given(history=st.lists(facts(), max_size=30), seed=st.integers(0, 2**32))
def test_the_same_records_give_the_same_bytes(history: list[Fact], seed: int) -> None:
    lines = [fact.line(RECEIVED + i) for i, fact in enumerate(history)]
    first, second = fold_all(lines, random.Random(seed)), fold_all(lines, random.Random(seed))
    assert [(o.rows, o.changes, o.totals) for o in first.outputs] == [
        (o.rows, o.changes, o.totals) for o in second.outputs
    ]


@settings(max_examples=50, deadline=None)
@given(history=st.lists(facts(), max_size=30), repeats=st.integers(1, 3))
def test_counts_add_up(history: list[Fact], repeats: int) -> None:
    folded = Folded()
    lines = [fact.line(RECEIVED + i) for i, fact in enumerate(history)]
    for _ in range(repeats):
        folded.record(*lines)
    totals = orjson.loads(folded.outputs[-1].totals)
    assert totals["classified"] == len(lines) * repeats
    assert totals["classified"] == totals["duplicates"] + totals["events"] + totals["late"] + totals["commands"]
    assert totals["events"] == len({orjson.loads(line)["row"]["event_id"] for line in lines})


def state_of(folded: Folded, recipient_part: str = "address") -> dict[str, Any]:
    (entry,) = [e for key, e in folded.entries().items() if f"/{recipient_part}/" in key]
    return entry


def test_a_hard_bounce_suppresses_at_once_and_names_its_event() -> None:
    folded = Folded()
    folded.record(Fact("bounce", "mailbox_unknown", "ann@example.org", 1, 0).line(RECEIVED))
    entry = state_of(folded)
    assert (entry["state"], entry["reason"], entry["cause"]) == ("active", "hard_bounce", "mailbox_unknown")
    assert entry["address"] == "ann@example.org"
    assert entry["evidence"]["count"] == 1
    assert entry["evidence"]["event_ids"] == [orjson.loads(folded.outputs[0].rows[0])["event_id"]]


@pytest.mark.parametrize("cause", ["spam_content", "rate_limit", "greylist", "auth_failure", "blocklist", "network"])
def test_a_sender_side_cause_suppresses_nobody(cause: str) -> None:
    folded = Folded()
    for message in range(10):
        folded.record(Fact("bounce", cause, "ann@example.org", message, message).line(RECEIVED))
    assert folded.entries() == {}


@pytest.mark.parametrize("kind", ["delay", "auto_reply", "challenge", "read_receipt", "not_spam", "auth_report"])
def test_what_is_no_failure_suppresses_nobody(kind: str) -> None:
    folded = Folded()
    for message in range(5):
        folded.record(Fact(kind, "mailbox_unknown", "ann@example.org", message, message).line(RECEIVED))
    assert folded.entries() == {}


def test_three_soft_failures_of_distinct_messages_within_fourteen_days() -> None:
    folded = Folded()
    for message, hour in ((1, 0), (1, 5), (2, 10)):
        folded.record(Fact("bounce", "mailbox_full", "ann@example.org", message, hour).line(RECEIVED))
        assert state_of(folded)["state"] == "watch", "one message counts once"
    folded.record(Fact("bounce", "mailbox_full", "ann@example.org", 3, 24 * 13).line(RECEIVED))
    assert state_of(folded)["state"] == "active"
    folded.record(Fact("delivery", "", "ann@example.org", 4, 24 * 14, log=True).line(RECEIVED))
    assert state_of(folded)["state"] == "released", "a later verified delivery answers soft failures"


def test_soft_failures_far_apart_only_watch() -> None:
    folded = Folded()
    for message, hour in ((1, 0), (2, 24 * 10), (3, 24 * 20)):
        folded.record(Fact("bounce", "mailbox_full", "ann@example.org", message, hour).line(RECEIVED))
    assert state_of(folded)["state"] == "watch"


def test_an_unverified_delivery_resets_nothing() -> None:
    folded = Folded()
    for message in range(3):
        folded.record(Fact("bounce", "mailbox_full", "ann@example.org", message, message).line(RECEIVED))
    folded.record(Fact("delivery", "", "ann@example.org", 9, 100, log=False).line(RECEIVED))
    assert state_of(folded)["state"] == "active"


def test_a_domain_needs_two_failures_a_day_apart() -> None:
    folded = Folded()
    folded.record(Fact("bounce", "domain_unknown", "ann@example.org", 1, 0).copy(RECEIVED))
    folded.record(Fact("bounce", "domain_unknown", "bob@example.org", 2, 23).copy(RECEIVED))
    assert state_of(folded, "domain")["state"] == "watch"
    folded.record(Fact("bounce", "domain_unknown", "cee@example.org", 3, 25).copy(RECEIVED))
    entry = state_of(folded, "domain")
    assert (entry["state"], entry["scope"], entry["subject_key"]) == ("active", "global", "example.org")


def test_what_was_received_a_window_behind_the_clock_is_late() -> None:
    folded = Folded()
    folded.record(Fact("bounce", "mailbox_full", "ann@example.org", 1, 0).line(RECEIVED))
    output = folded.record(Fact("bounce", "mailbox_full", "bob@example.org", 2, 0).line(RECEIVED - 15 * DAY_MS - 1))
    assert not output.rows
    assert len(output.late) == 1
    assert orjson.loads(output.totals)["late"] == 1
    output = folded.record(Fact("bounce", "mailbox_full", "bob@example.org", 2, 0).line(RECEIVED - 15 * DAY_MS))
    assert len(output.rows) == 1


def command(kind: str, number: int, **fields: Any) -> bytes:
    body = {
        "type": kind,
        "id": f"command-{number}",
        "received": RECEIVED + number,
        "scope": "tenant",
        "tenant": "",
        "stream": "",
        "subject": "address",
        "subject_key": "11111111-2222-3333-4444-555555555555",
        "address": "dee@example.org",
        "domain": "example.org",
        **fields,
    }
    return orjson.dumps({"command": body})


def test_manual_add_and_release_in_their_order() -> None:
    folded = Folded()
    folded.record(command("add", 1, actor="eve", reason="manual"))
    assert (state_of(folded)["state"], state_of(folded)["actor"]) == ("active", "eve")
    output = folded.record(command("add", 1, actor="eve", reason="manual"))
    assert not output.changes
    assert orjson.loads(output.totals) | {"events": 0} == {
        "classified": 2, "duplicates": 1, "events": 0, "late": 0, "commands": 1, "copies": 0,
    }  # fmt: skip
    folded.record(command("release", 2))
    assert state_of(folded)["state"] == "released"


def test_after_a_release_only_what_happens_later_counts() -> None:
    folded = Folded()
    bounce = Fact("bounce", "mailbox_unknown", "ann@example.org", 1, 0)
    folded.record(bounce.line(RECEIVED))
    key = orjson.loads(folded.outputs[0].rows[0])["recipient_key"]
    folded.record(command("release", 1, subject_key=key, address="ann@example.org"))
    assert state_of(folded)["state"] == "released"
    folded.record(Fact("bounce", "mailbox_unknown", "ann@example.org", 2, 1).line(RECEIVED + 10))
    assert state_of(folded)["state"] == "released", "it happened before the release"
    late = Fact("bounce", "mailbox_unknown", "ann@example.org", 3, 32 * 24)
    folded.record(late.line(RECEIVED + 2 * DAY_MS))
    assert state_of(folded)["state"] == "active"


def test_a_policy_comes_into_force_where_its_command_stands() -> None:
    folded = Folded()
    full = [Fact("bounce", "mailbox_full", "ann@example.org", message, message) for message in range(3)]
    folded.record(full[0].line(RECEIVED))
    strict = {
        "version": "strict",
        "rule": [{"id": "full", "reason": "soft_bounce", "kinds": ["bounce"], "causes": ["mailbox_full"], "count": 1}],
    }
    output = folded.record(command("policy", 1, policy=strict), full[1].line(RECEIVED))
    assert output.policy is not None
    assert state_of(folded)["state"] == "active"
    assert state_of(folded)["policy"] == "strict"


@pytest.mark.parametrize(
    "line", [b"nonsense", b'{"row":{}}', b'{"row":{"event_id":"x"},"address":""}', b'{"copy":3}', b"\xff\xfe", b"{"]
)
def test_a_foreign_line_changes_nothing(line: bytes) -> None:
    folded = Folded()
    good = Fact("bounce", "mailbox_unknown", "ann@example.org", 1, 0).line(RECEIVED)
    with pytest.raises(NotClassified, match="offset 0"):
        folded.record(good, line)
    assert folded.record(good).rows, "the good line before it was not taken"


def test_windows_in_seconds_drop_and_forget() -> None:
    """With windows of seconds: a copy within one is dropped, one long after is new, buckets do not pile up."""
    folded = Folded(Windows(delivery_ms=3_000, report_ms=15_000))
    fact = Fact("delivery", "", "ann@example.org", 1, 0, log=True)
    now = START
    for step in range(200):
        output = folded.record(fact.line(now), Fact("delivery", "", "bob@example.org", step, step, log=True).line(now))
        assert len(output.rows) == (2 if step == 0 else 1), "seen again within a window of the last time"
        now += 900
    now += 6_001
    assert len(folded.record(fact.line(now)).rows) == 1
    now += 40 * HOUR_MS
    folded.record(Fact("delivery", "", "cee@example.net", 5, 0, log=True).line(now))
    assert sum(name.startswith("ids/") for name in folded.store.maps) <= 6


def test_what_denies_nothing_any_more_is_removed_in_time() -> None:
    folded = Folded(forget_ms=100 * DAY_MS)
    folded.record(Fact("bounce", "mailbox_full", "ann@example.org", 1, 0).line(RECEIVED))
    folded.record(Fact("complaint", "", "bob@example.org", 2, 0).line(RECEIVED))
    folded.record(Fact("bounce", "mailbox_unknown", "cee@example.net", 3, 0).line(RECEIVED))  # for 180 days
    folded.record(command("add", 1))
    watching = next(key for key, entry in folded.entries().items() if entry["state"] == "watch")

    def at(days: int) -> list[tuple[str, str]]:
        fact = Fact("delivery", "", "dee@example.org", days, days * 24, log=True)
        changes = folded.record(fact.line(START + days * DAY_MS)).changes
        return [(change.key.decode(), change.entry["state"]) for change in changes if change.value is None]

    assert at(99) == []
    assert at(101) == [(watching, "removed")]
    assert watching not in folded.entries()
    assert len(at(300)) == 1, "the hard bounce, 100 days after it expired"
    assert at(1000) == []
    assert sorted(entry["reason"] for entry in folded.entries().values()) == ["complaint", "manual"]
    assert not folded.store.maps.get("due")


def test_a_new_fact_puts_off_the_removal() -> None:
    folded = Folded(forget_ms=100 * DAY_MS)
    folded.record(Fact("bounce", "mailbox_full", "ann@example.org", 1, 0).line(RECEIVED))
    folded.record(Fact("bounce", "mailbox_full", "ann@example.org", 2, 24 * 50).line(START + 50 * DAY_MS))
    folded.record(Fact("delivery", "", "dee@example.org", 3, 0, log=True).line(START + 120 * DAY_MS))
    assert state_of(folded)["state"] == "watch"
    assert len(folded.store.maps["due"]) == 1
