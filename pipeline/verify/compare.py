"""What stands, beside what should: events row by row, counts, rollups, the suppression list."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from clickhouse_connect.driver.client import Client

from mailecho.pipeline.landing.reconcile import reconcile_running
from mailecho.pipeline.side import Side
from mailecho.pipeline.verify.again import Again
from mailecho.schemas import headers as h
from mailecho.schemas.event import Event
from mailecho.schemas.suppression import is_entry_key
from mailecho.schemas.topics import SUPPRESSIONS

#: Differences of one sort that a report names one by one; the rest is counted.
NAMED = 20
#: Rows read at a time: about 60 MB of JSON; the embedded engine gives its owner 256 MiB at most.
SLICE_ROWS = 60_000

#: Where a row came from, and when.
_ORIGIN = frozenset(("received_at", "raw_topic", "raw_partition", "raw_offset", "raw_index"))

_DEFAULTS = {
    name: field.get_default() if not field.is_required() else None for name, field in Event.model_fields.items()
}


@dataclass(slots=True)
class Rows:
    """What comparing the rows gave: differences, and rows that the fold has not given (yet), by event_id."""

    differences: list[str]
    unknown: dict[str, dict[str, Any]]


def compare_events(client: Client, parts: list[Again], rejected: set[str]) -> Rows:
    """Compare the rows that should stand with those in ClickHouse, row by row.

    `rejected` are ids of rows that ClickHouse refused.
    """
    expected = {event_id: row for part in parts for event_id, row in part.rows.items() if event_id not in rejected}
    whole = all(part.whole for part in parts)
    seen: Counter[str] = Counter()
    different: list[str] = []
    unknown: dict[str, dict[str, Any]] = {}
    for line in _standing(client):
        found = orjson.loads(line)
        event_id = found["event_id"]
        seen[event_id] += 1
        wanted = expected.get(event_id)
        if wanted is None:
            unknown[event_id] = found
            continue
        columns = _unequal(found, orjson.loads(wanted), whole=whole)
        if columns:
            different.append(f"event {event_id}: {columns}")
    missing = [event_id for event_id in expected if event_id not in seen]
    doubled = [f"{event_id} ({count} times)" for event_id, count in seen.items() if count > 1]
    differences = [
        *named("event missing in ClickHouse", missing),
        *named("event more than once in ClickHouse", doubled),
        *named("row with other values", different),
    ]
    return Rows(differences, unknown)


def compare_later(parts: list[Again], rows: Rows) -> list[str]:
    """Compare what landed after the first fold's end, once the fold has gone on past it.

    Where something has expired, rows that are only in ClickHouse are no difference: nothing says
    what they should be.
    """
    given = {event_id: row for part in parts for event_id, row in part.rows.items() if event_id in rows.unknown}
    whole = all(part.whole for part in parts)
    different = []
    for event_id, row in given.items():
        columns = _unequal(rows.unknown[event_id], orjson.loads(row), whole=whole)
        if columns:
            different.append(f"event {event_id}: {columns}")
    foreign = [event_id for event_id in rows.unknown if event_id not in given] if whole else []
    return [
        *named("row with other values", different),
        *named("event in ClickHouse that the fold does not give", foreign),
    ]


def _standing(client: Client) -> Iterator[bytes]:
    """All rows of `events` as JSON lines, in slices that the embedded engine holds in memory."""
    settings = {"output_format_json_quote_64bit_integers": 0}
    days = client.query("SELECT toDate(received_at) AS day, count() FROM events GROUP BY day ORDER BY day").result_rows
    for day, count in days:
        slices = count // SLICE_ROWS + 1
        for number in range(slices):
            sql = (
                f"SELECT * FROM events WHERE toDate(received_at) = toDate('{day}') "
                f"AND cityHash64(event_id) % {slices} = {number}"
            )
            yield from client.raw_query(sql, fmt="JSONEachRow", settings=settings).splitlines()


def compare_rollups(client: Client) -> list[str]:
    """Rollups that do not count what `events` holds."""
    return named("rollup", [str(difference) for difference in reconcile_running(client)])


async def compare_suppressions(side: Side, parts: list[Again]) -> list[str]:
    """Differences between the entries that should stand and the compacted topic's.

    The last record of a key must be its highest version, since that is what compaction keeps.
    """
    faults = []
    for part in parts:
        start, end = await side.span(SUPPRESSIONS, part.partition)
        entries = part.entries()
        last: dict[bytes, tuple[int, bytes | None]] = {}
        highest: dict[bytes, int] = {}
        async for records in side.read(SUPPRESSIONS, part.partition, start, end):
            for record in records:
                if record.key and is_entry_key(record.key):
                    version = int(h.get(record.headers, h.VERSION) or -1)
                    if version >= part.end:
                        continue  # of a record that was folded after we looked
                    last[record.key] = (version, record.value)
                    highest[record.key] = max(version, highest.get(record.key, -1))
        for key, (version, value) in last.items():
            name = key.decode("utf-8", "replace")
            if version < highest[key]:
                faults.append(f"suppression {name}: version {version} follows {highest[key]}")
            wanted = entries.get(key)
            if wanted is None:
                if part.whole and value is not None:
                    faults.append(f"suppression {name} stands there, the fold does not give it")
            elif value is None:
                faults.append(f"suppression {name} was removed, the fold gives it")
            elif part.whole and _content(orjson.loads(value)) != _content(wanted):
                faults.append(f"suppression {name}: other content than the fold gives")
        faults += [f"suppression {k.decode('utf-8', 'replace')} is missing" for k in entries if k not in last]
    return named("list", faults)


def _content(entry: dict[str, Any]) -> dict[str, Any]:
    # a rebuilt store may have written the same content at another record
    return {name: value for name, value in entry.items() if name != "version"}


def _unequal(found: dict[str, Any], wanted: dict[str, Any], *, whole: bool) -> str:
    """The columns that differ. Unless `whole`, a row may stand that an earlier copy gave, which has expired."""
    columns = {}
    for name, default in _DEFAULTS.items():
        ours = wanted.get(name, default)
        theirs = found.get(name)
        if isinstance(ours, float):
            same = isinstance(theirs, int | float) and math.isclose(ours, theirs, rel_tol=1e-6)
        else:
            same = str(ours) == str(theirs) if name.endswith(("_id", "_key")) else ours == theirs
        if not same:
            columns[name] = f"{name} {theirs!r}, should be {ours!r}"
    if not whole and columns.keys() <= _ORIGIN and found["received_at"] <= wanted["received_at"]:
        return ""
    return "; ".join(columns.values())


def named(what: str, items: list[str]) -> list[str]:
    """Differences of one sort: the first NAMED one by one, the rest counted."""
    lines = [f"{what}: {item}" for item in items[:NAMED]]
    if len(items) > NAMED:
        lines.append(f"{what}: and {len(items) - NAMED} more")
    return lines
