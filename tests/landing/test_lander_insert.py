"""Inserts, dry runs and the comparison of rollups, on the real engine."""

from __future__ import annotations

import time

import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.landing.insert import (
    ALL_REFUSED,
    MAX_REFUSED,
    Inserter,
    RowsRefused,
    Stale,
    TooManyRefused,
    days,
    find_refused,
)
from mailecho.pipeline.landing.intents import STALE_MS, Intent
from mailecho.pipeline.landing.reconcile import Difference, reconcile
from tests.landing.kit import TODAY, change, row


def intent(age_ms: int = 0) -> Intent:
    return Intent(end=9, timestamp=0, at=time.time_ns() // 1_000_000 - age_ms)


@given(st.integers(1, 300), st.sets(st.integers(0, 299), max_size=30))
def test_halving_finds_exactly_the_refused_rows(length: int, bad: set[int]) -> None:
    rows = [b"%d!\n" % i if i in bad else b"%d\n" % i for i in range(length)]
    found = find_refused(rows, lambda body: "bad" if b"!" in body else None, "events")
    assert set(found) == {position for position in bad if position < length}


def test_a_table_that_refuses_everything_stops_the_search() -> None:
    with pytest.raises(TooManyRefused, match="mailecho migrate"):
        find_refused([b"x\n"] * (MAX_REFUSED + 1), lambda body: "no such column", "events")


def test_a_small_range_of_which_nothing_is_good_stops_it_too() -> None:
    rows = [b"x\n"] * ALL_REFUSED
    with pytest.raises(TooManyRefused, match=f"{ALL_REFUSED} rows of one range of {ALL_REFUSED}"):
        find_refused(rows, lambda body: "no such column", "events")
    assert len(find_refused([*rows, b"good\n"], lambda body: "x" if b"x" in body else None, "events")) == ALL_REFUSED


def test_the_days_of_rows_are_their_partitions() -> None:
    assert days([row("t", 1), row("t", 2, received_at="2026-01-02 03:04:05.678"), b"junk"]) == {TODAY, "2026-01-02"}


@pytest.mark.clickhouse
def test_a_process_that_wakes_up_late_inserts_nothing(client: Client) -> None:
    with pytest.raises(Stale):
        Inserter(client).insert("events", row("late", 1) + b"\n", "late", intent(STALE_MS + 1_000))
    assert client.query("SELECT count() FROM events WHERE tenant = 'late'").result_rows == [(0,)]


@pytest.mark.clickhouse
@pytest.mark.parametrize(
    "bad",
    [
        b'{"event_id":"no uuid"}',
        row("bad", 3, smtp_code="five hundred"),
        row("bad", 3, received_at="yesterday"),
        row("bad", 3, colour="red"),
        row("bad", 3)[:-20],
        row("bad", 3)[:-1],
        b"[" + row("bad", 3),
        b"[1,2]",
        b"no JSON at all",
    ],
)
def test_dry_runs_name_the_bad_row_and_insert_nothing(client: Client, bad: bytes) -> None:
    inserter = Inserter(client)
    rows = [line + b"\n" for line in (row("bad", 1), row("bad", 2), bad, row("bad", 4))]
    with pytest.raises(RowsRefused):
        inserter.insert("events", b"".join(rows), "bad", intent())
    assert list(inserter.find_refused("events", rows)) == [2]
    assert client.query("SELECT count() FROM events WHERE tenant = 'bad'").result_rows == [(0,)]
    assert reconcile(client, [TODAY]) == []


@pytest.mark.clickhouse
def test_what_is_present_is_found_by_id(client: Client) -> None:
    inserter = Inserter(client)
    rows = [row("present", number) + b"\n" for number in range(9_000)]
    inserter.insert("events", b"".join(rows[1_000:]), "present", intent())
    assert inserter.present_events(rows) == set(range(1_000, 9_000))
    changes = [change("present", number) + b"\n" for number in range(5)]
    inserter.insert("suppression_changes", b"".join(changes[:3]), "present", intent())
    assert inserter.present_changes(changes) == {0, 1, 2}


@pytest.mark.clickhouse
def test_reconcile_tells_what_a_rollup_has_too_much_or_lacks(client: Client) -> None:
    inserter = Inserter(client)
    body = b"".join(row("reconciled", number) + b"\n" for number in range(7))
    for _ in range(2):  # as after a crash: the token makes the second one nothing
        inserter.insert("events", body, "reconciled", intent())
    assert reconcile(client) == []
    client.command(
        "INSERT INTO rollup_quarter (received_on, quarter, tenant, kind, events) "
        f"VALUES ('{TODAY}', now(), 'x', 'bounce', 5)"
    )
    total = client.query("SELECT count() FROM events").result_rows[0][0]
    assert reconcile(client) == [Difference("rollup_quarter", TODAY, "events", total + 5, total)]
    assert reconcile(client, ["2026-01-01"]) == []
