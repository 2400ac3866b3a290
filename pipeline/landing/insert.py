"""ClickHouse as the lander uses it: inserts with tokens, dry runs, look-ups. Blocking; call it in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from mailecho.pipeline import metrics
from mailecho.pipeline.landing.intents import STALE_MS, Intent
from mailecho.pipeline.landing.migrations import INSERT_SETTINGS
from mailecho.pipeline.landing.start import Landed
from mailecho.pipeline.times import row_time

EVENTS = "events"
CHANGES = "suppression_changes"
LANDED = "landed"

#: An unknown field is refused, not dropped; times are read strictly as they are written.
SETTINGS: dict[str, Any] = {
    **INSERT_SETTINGS,
    "input_format_skip_unknown_fields": 0,
    "date_time_input_format": "basic",
}

#: ClickHouse ends the message of an error in the data with this (IRowInputFormat); no other error has it.
ROW_ERROR = "(at row "

#: More refused rows in one range than this are a wrong table: stop, rather than empty a topic into dead
#: letters. As many single rows fit into the metadata of a commit.
MAX_REFUSED = 250

#: Nor is it the rows where every one of so many is refused.
ALL_REFUSED = 50

#: Ids in one look-up: a statement is read up to max_query_size, 256 KiB by default.
LOOKUP_IDS = 4_000


class RowsRefused(Exception):
    """ClickHouse refuses a row of the body; nothing of it was inserted. The text is its message."""


class Stale(Exception):
    """The intent became too old to insert on its word: look it up first."""


class TooManyRefused(RuntimeError):
    """So many rows of one range are refused that the table must be wrong; the message says what to do."""


class Inserter:
    """Inserts and look-ups over one client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def client(self) -> Client:
        """For reconciling."""
        return self._client

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def insert(self, table: str, body: bytes, token: str, intent: Intent) -> None:
        """Insert newline-delimited JSON rows under the token.

        The age of the intent is checked here, next to the request: a process that was stopped and
        wakes up late must not insert what another has long since landed. Raises Stale, RowsRefused,
        and ClickHouseError for all that may pass.
        """
        now = _now()
        if intent.stale(now):
            raise Stale(f"{now - intent.at} ms old, {STALE_MS} are allowed")
        began = time.perf_counter()
        try:
            self._client.raw_insert(
                table,
                insert_block=body,
                settings={**SETTINGS, "insert_deduplication_token": token},
                fmt="JSONEachRow",
            )
        except DatabaseError as error:
            if ROW_ERROR in str(error):
                raise RowsRefused(_short(error)) from None
            raise
        metrics.INSERT_SECONDS.labels(table).observe(time.perf_counter() - began)

    def find_refused(self, table: str, rows: Sequence[bytes]) -> dict[int, str]:
        """The rows that ClickHouse refuses, by position, each with its message. Inserts nothing.

        Halves that parse are good; those that do not are halved again. Raises TooManyRefused.
        """
        structure = self._structure(table)
        target = f"FUNCTION null('{structure}')"
        return find_refused(rows, lambda body: self._refuses(target, body), table)

    def last_landed(self, topic: str, partitions: Iterable[int]) -> dict[int, Landed]:
        """The last row of `landed` by partition.

        Last is the highest watermark, since that also rises over a recreated topic; ranges that moved
        it no further follow by time and end.
        """
        result = self._client.query(
            "SELECT partition, argMax((s, e, watermark_after, toUnixTimestamp64Milli(first_timestamp)), "
            f"(watermark_after, landed_at, e)) FROM {LANDED} "
            "WHERE topic = {topic:String} AND partition IN {partitions:Array(UInt32)} GROUP BY partition",
            parameters={"topic": topic, "partitions": list(partitions)},
        )
        return {
            int(partition): Landed(int(s), int(e), None if watermark < 0 else int(watermark), int(timestamp))
            for partition, (s, e, watermark, timestamp) in result.result_rows
        }

    def inserts_since(self, at: int) -> int:
        """How many inserts have landed since `at` (epoch ms), of any partitions, with a margin for clocks."""
        result = self._client.query(
            f"SELECT uniqExact(token) FROM {LANDED} WHERE landed_at >= {{at:DateTime64(3, 'UTC')}}",
            parameters={"at": row_time(max(0, at - 60_000))},
        )
        return int(result.result_rows[0][0])

    def present_events(self, rows: Sequence[bytes]) -> set[int]:
        """The positions of event rows whose event_id is in `events` already."""
        wanted: dict[str, int] = {}
        received: list[str] = []
        for position, row in enumerate(rows):
            fields = _object(row)
            if fields.keys() >= {"event_id", "received_at"}:
                wanted[str(fields["event_id"])] = position
                received.append(str(fields["received_at"]))
        found: set[int] = set()
        ids = list(wanted)
        for at in range(0, len(ids), LOOKUP_IDS):
            result = self._client.query(
                f"SELECT toString(event_id) FROM {EVENTS} WHERE received_at BETWEEN {{low:DateTime64(3, 'UTC')}} "
                f"AND {{high:DateTime64(3, 'UTC')}} "
                f"AND event_id IN ({','.join(_quoted(text) for text in ids[at : at + LOOKUP_IDS])})",
                parameters={"low": min(received), "high": max(received)},
            )
            found.update(wanted[text] for (text,) in result.result_rows)
        return found

    def present_changes(self, rows: Sequence[bytes]) -> set[int]:
        """The positions of change rows that are in `suppression_changes` already, by subject and version."""
        keys: dict[tuple[Any, ...], int] = {}
        names = ("partition", "version", "scope", "scope_id", "subject", "subject_key")
        for position, row in enumerate(rows):
            fields = _object(row)
            if "version" in fields:
                defaults = (0, 0, "", "", "", "")
                keys[tuple(fields.get(name, default) for name, default in zip(names, defaults, strict=True))] = position
        if not keys:
            return set()
        versions = [int(key[1]) for key in keys]
        result = self._client.query(
            f"SELECT {', '.join(names)} FROM {CHANGES} WHERE version BETWEEN {{low:UInt64}} AND {{high:UInt64}}",
            parameters={"low": min(versions), "high": max(versions)},
        )
        return {keys[key] for row in result.result_rows if (key := tuple(row)) in keys}

    def _structure(self, table: str) -> str:
        result = self._client.query(
            "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {table:String} "
            "AND default_kind NOT IN ('ALIAS', 'MATERIALIZED') ORDER BY position",
            parameters={"table": table},
        )
        text = ", ".join(f"`{name}` {kind}" for name, kind in result.result_rows)
        return text.replace("\\", "\\\\").replace("'", "\\'")

    def _refuses(self, target: str, body: bytes) -> str | None:
        try:
            # a row of defaults before and after: a body is read as the middle of a range is, where a
            # bracket opens no array and a cut row has a successor
            self._client.raw_insert(target, insert_block=b"{}\n" + body + b"{}\n", settings=SETTINGS, fmt="JSONEachRow")
        except DatabaseError as error:
            if ROW_ERROR in str(error):
                return _short(error)
            raise
        return None


def find_refused(rows: Sequence[bytes], refuses: Callable[[bytes], str | None], table: str) -> dict[int, str]:
    """The rows that `refuses` names a reason for, found by halving. Raises TooManyRefused."""
    found: dict[int, str] = {}
    spans = [(0, len(rows))] if rows else []
    while spans:
        first, end = spans.pop()
        why = refuses(b"".join(rows[first:end]))
        if why is None:
            continue
        if end - first > 1:
            middle = (first + end) // 2
            spans += [(middle, end), (first, middle)]
            continue
        found[first] = why
        if len(found) > MAX_REFUSED or ALL_REFUSED <= len(found) == len(rows):
            raise TooManyRefused(
                f"ClickHouse refuses {len(found)} rows of one range of {len(rows)} for {table}: not the rows but the "
                f"table must be wrong (`mailecho migrate`). Its last word: {why}"
            )
    return found


def landed_row(**fields: Any) -> bytes:
    """A row of `landed` as the body of an insert."""
    return orjson.dumps(fields) + b"\n"


def days(rows: Iterable[bytes]) -> set[str]:
    """The days (YYYY-MM-DD) on which the events of these rows were received: their partitions."""
    return {str(received)[:10] for row in rows if (received := _object(row).get("received_at"))}


def _now() -> int:
    return time.time_ns() // 1_000_000


def _object(row: bytes) -> dict[str, Any]:
    """The row's fields; none where it is no JSON object (ClickHouse refuses it then)."""
    try:
        value = orjson.loads(row)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _short(error: ClickHouseError) -> str:
    # what follows is about files and threads of the server
    message = str(error)
    return " ".join(message[: message.find(ROW_ERROR)].split())[:500]
