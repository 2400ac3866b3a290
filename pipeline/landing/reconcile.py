"""Compares every rollup with the events it counts.

A view writes its rollup after the table, not with it: a crash in between is repaired by repeating the
insert under its token, and this shows whether that held.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

#: Asked again so often, with this rest: inserts come by the second, so the rest is no whole number of them.
SETTLE_TURNS = 4
SETTLE_SECONDS = 0.7

_TTL = re.compile(r"TTL \S*received_(?:on|at)\)? \+ toInterval(Day|Month|Year)\((\d+)\)")


@dataclass(frozen=True, slots=True)
class Difference:
    """A day of receipt (YYYY-MM-DD) on which a rollup's counter is not what the events say."""

    rollup: str
    day: str
    counter: str
    rollup_says: int
    events_say: int


def reconcile(client: Client, days: Collection[str] | None = None) -> list[Difference]:
    """Every difference between the rollups and `events`, by day of receipt and counter; none is right.

    `days` limits it to some days (YYYY-MM-DD). Days that the retention of either side may have
    begun to drop are left out. Recomputes one day at a time, so that memory is bounded by a day.
    Under running inserts a view may be a moment behind: ask again before you believe a difference.
    Raises clickhouse_connect's errors.
    """
    found: list[Difference] = []
    keeps_events = _kept(client, "events")
    for rollup, select in views(client):
        counters = counters_of(client, rollup)
        keeps = [kept for kept in (keeps_events, _kept(client, rollup)) if kept]
        for day in _days(client, rollup) if days is None else sorted(days):
            # a day's margin on each side of the limit, since merges drop parts when they like
            if any(_scalar(client, f"SELECT toDate('{day}') + {kept} <= today() + 1") for kept in keeps):
                continue
            sums = ", ".join(f"toInt64(sum(`{name}`))" for name in counters)
            ours = client.query(f"SELECT {sums} FROM `{rollup}` WHERE received_on = toDate('{day}')").result_rows[0]
            theirs = client.query(
                f"SELECT {sums} FROM ({select})",
                settings=of_day(client, day),
            ).result_rows[0]
            found += [
                Difference(rollup, day, name, int(a), int(b))
                for name, a, b in zip(counters, ours, theirs, strict=True)
                if a != b
            ]
    return found


def reconcile_running(client: Client) -> list[Difference]:
    """`reconcile` beside running inserts: only the counters that differ every time they are asked for.

    Events and rollups are read in turn, and an insert may fall between (one a second, in a
    comparison of some ten milliseconds). A loss differs every time, by whatever amount.
    """
    found = reconcile(client)
    for _ in range(SETTLE_TURNS):
        if not found:
            break
        before = {(d.rollup, d.day, d.counter) for d in found}
        time.sleep(SETTLE_SECONDS)
        again = reconcile(client, {day for _, day, _ in before})
        found = [d for d in again if (d.rollup, d.day, d.counter) in before]
    return found


def views(client: Client) -> list[tuple[str, str]]:
    """Every rollup that a view feeds from `events`, with the view's SELECT."""
    rows = client.query(
        "SELECT create_table_query, as_select FROM system.tables "
        "WHERE database = currentDatabase() AND engine = 'MaterializedView' ORDER BY name"
    ).result_rows
    views = []
    for create, select in rows:
        target = re.search(r" TO (?:`?\w+`?\.)?`?(\w+)`? ", create)
        if target and re.search(r"FROM (?:`?\w+`?\.)?`?events`?\b", select):
            views.append((target.group(1), str(select)))
    return views


def of_day(client: Client, day: str) -> dict[str, str]:
    """The setting under which a view's SELECT reads the events of one day of receipt only."""
    only = f"toDate(received_at) = toDate(\\'{day}\\')"
    return {"additional_table_filters": f"{{'{client.database}.events': '{only}'}}"}


def counters_of(client: Client, rollup: str) -> list[str]:
    """The columns of a rollup that are summed."""
    rows = client.query(
        "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
        "AND type = 'UInt64' AND NOT is_in_sorting_key ORDER BY position",
        parameters={"table": rollup},
    ).result_rows
    return [str(name) for (name,) in rows]


def _kept(client: Client, table: str) -> str | None:
    create = str(
        _scalar(
            client,
            f"SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{table}'",
        )
    )
    ttl = _TTL.search(create)
    return f"toInterval{ttl.group(1)}({ttl.group(2)})" if ttl else None


def _days(client: Client, rollup: str) -> list[str]:
    rows = client.query(
        "SELECT DISTINCT toString(day) FROM (SELECT received_on AS day FROM "
        f"`{rollup}` UNION ALL SELECT toDate(received_at) AS day FROM events) ORDER BY 1"
    ).result_rows
    return [str(day) for (day,) in rows]


def _scalar(client: Client, sql: str) -> object:
    return client.query(sql).result_rows[0][0]
