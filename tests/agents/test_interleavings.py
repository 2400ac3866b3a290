"""DESIGN 2, point 11, on the agents themselves: interleaving, duplication and batching change nothing.

One history reaches the raw topics twice: once plainly, and once shuffled, partly doubled, packed
otherwise, spread over other partitions, and read and folded in other chunks and steps. Events, rollups by the
time at which things happened, dead letters and the final list must be the same; where a row came
from and when it was received may differ. `make faults` tries 20,000 histories.
"""

from __future__ import annotations

import asyncio
import os
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from clickhouse_connect.driver.client import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailecho.agents.outputs import Record
from mailecho.pipeline.config import load
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.raw import Reading, reader_of
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import is_entry_key
from mailecho.schemas.topics import CLASSIFIED, COMMANDS, EVENTS, RAW, RAW_ARF, RAW_DELIVERY, RAW_DSN, SUPPRESSIONS, dlq
from tests.agents.memory import PARTITIONS, Memory, rows_of
from tests.faults.generator import Raw, arf, dsn
from tests.fixtures_clickhouse import EmbeddedClickHouse

EXAMPLES = int(os.environ.get("INTERLEAVINGS", "40"))
#: When the first record is received; what is in it happened in the fourteen days before. Not long
#: ago, since rollups forget what was received 14 days ago.
BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
BEGIN_MS = int(BEGIN.timestamp() * 1000)
#: Everything is received within a day: well inside the shortest window.
SPAN_MS = 24 * 3_600_000

_REPLIES: dict[str, tuple[str, int, str]] = {
    "full": ("452 4.2.2 The email account that you tried to reach is over quota", 452, "4.2.2"),
    "unknown": ("550 5.1.1 User unknown: no such user here", 550, "5.1.1"),
    "spam": ("554 5.7.1 Message rejected: spam detected in the message content", 554, "5.7.1"),
    "gone": ("550 5.1.2 Host unknown: domain not found", 550, "5.1.2"),
}
_FACTS = ("delivered", "full", "full", "unknown", "spam", "gone", "report", "complaint", "log line", "nonsense")


@dataclass(frozen=True)
class Fact:
    """One thing that happened, `hour` hours before the first record was received."""

    what: str
    who: int
    message: int
    hour: int

    @property
    def address(self) -> str:
        """Whom it is about."""
        return f"user{self.who}@{'gone' if self.what == 'gone' else 'example'}{self.who % 2}.example"

    def raw(self) -> Raw:
        """The raw record that tells of it."""
        at = BEGIN - timedelta(hours=self.hour)
        message_id = f"m{self.message}@mail.example.com"
        match self.what:
            case "report":
                reply, _, status = _REPLIES["unknown"]
                return Raw(RAW_DSN, dsn(self.address, reply, status, message_id, at))
            case "complaint":  # a complaint's id has no time, so that the same one says the same
                at = BEGIN - timedelta(hours=self.message)
                return Raw(RAW_ARF, arf(self.address, message_id, at))
            case "nonsense":
                return Raw(RAW_DELIVERY, b'{"kind":"delivery","number":%d' % self.message, "mailecho")
            case "log line":
                line = (
                    f"{at.isoformat()} mx1.example.com postfix/smtp[321]: 4X{self.message:08X}z: to=<{self.address}>, "
                    "relay=mx.example.org[198.51.100.9]:25, delay=1.2, delays=0.1/0/0.5/0.6, dsn=2.0.0, "
                    "status=sent (250 2.0.0 Ok: queued as 12345)"
                )
                return Raw(RAW_DELIVERY, line.encode(), "postfix")
        entry: dict[str, Any] = {
            "kind": "delivery",
            "recipient": self.address,
            "message_id": message_id,
            "occurred_at": at.timestamp(),
            "campaign": f"c{self.message % 2}",
            "sending_ip": f"192.0.2.{self.message}",
        }
        if self.what != "delivered":
            reply, code, status = _REPLIES[self.what]
            entry |= {"kind": "bounce", "diagnostic": reply, "smtp_code": code, "status": status}
        return Raw(RAW_DELIVERY, orjson.dumps(entry), "mailecho")


@dataclass(frozen=True)
class Order:
    """A command; `minute` after the first record was received."""

    type: str
    who: int
    minute: int


_HISTORY = st.lists(
    st.builds(
        Fact,
        what=st.sampled_from(_FACTS),
        who=st.integers(0, 3),
        message=st.integers(0, 5),
        hour=st.integers(0, 14 * 24),
    ),
    max_size=30,
)
_ORDERS = st.lists(
    st.builds(Order, type=st.sampled_from(("add", "release")), who=st.integers(0, 3), minute=st.integers(0, 23 * 60)),
    max_size=4,
    unique_by=lambda order: order.minute,
)


@dataclass
class Result:
    """What must not depend on the way."""

    rows: list[dict[str, Any]]
    entries: dict[str, dict[str, Any]]
    letters: set[tuple[str, str, bytes]]
    totals: dict[str, int]
    lines: list[bytes]  # the rows as they go into ClickHouse


def play(reading: Reading, file: Path, facts: list[Fact], orders: list[Order], way: random.Random | None) -> Result:
    """Send the history through the agents: plainly without `way`, else in the way that it draws."""
    memory = Memory(reading, file)
    try:
        asyncio.run(_run(memory, facts, orders, way))
        return _result(memory)
    finally:
        memory.close()


async def _run(memory: Memory, facts: list[Fact], orders: list[Order], way: random.Random | None) -> None:
    memory.topics.now = BEGIN_MS + SPAN_MS
    raws = [fact.raw() for fact in facts]
    if way is not None:
        raws += [raw for raw in raws if way.random() < 0.3]
        way.shuffle(raws)
        raws = list(_packed(raws, way))
    times = sorted(way.randrange(SPAN_MS) for _ in raws) if way else list(range(len(raws)))
    for raw, time in zip(raws, times, strict=True):
        partition = way.randrange(PARTITIONS) if way else 0
        record = Record(raw.value, headers=[("source", raw.source.encode())] if raw.source else [])
        memory.topics.append(raw.topic, partition, record, BEGIN_MS + time)
    for number, order in enumerate(sorted(orders, key=lambda order: order.minute)):
        body = {"type": order.type, "id": f"command-{number}", "address": Fact("", order.who, 0, 0).address}
        for _ in range(2 if way and way.random() < 0.3 else 1):
            record = Record(orjson.dumps(body), headers=[h.schema_header("command")])
            memory.topics.append(COMMANDS, 0, record, BEGIN_MS + order.minute * 60_000)
    reading = {(topic, partition): 0 for topic in (*RAW, COMMANDS) for partition in memory.topics.partitions_of[topic]}
    folding = set(range(PARTITIONS))
    while reading or folding:
        choices: list[Any] = [*reading, *(folding if way or not reading else ())]
        chosen = way.choice(choices) if way else choices[0]
        if isinstance(chosen, int):
            folded = {p: way.randint(1, 6) if way else 1_000 for p in {chosen, *_some(folding, way)}}
            empty = await memory.fold(folded)
            if not reading:
                folding -= empty
            continue
        step = []
        for place in dict.fromkeys((chosen, *_some(reading, way))):
            topic, partition = place
            log, at = memory.topics.partitions_of[topic][partition], reading[place]
            step.append(log[at : at + (way.randint(1, 6) if way else 1)])
            reading[place] += len(step[-1])
            if reading[place] == len(log):
                del reading[place]
        await memory.classify(step)


def _some(places: Iterable[Any], way: random.Random | None) -> list[Any]:
    """Which other partitions come in the same step."""
    return [place for place in places if way.random() < 0.3] if way else []


def _packed(raws: list[Raw], way: random.Random) -> Iterator[Raw]:
    """Some JSON entries that follow each other as one record of lines."""
    pack: list[bytes] = []
    for raw in raws:
        if raw.source == "mailecho" and raw.value.endswith(b"}") and way.random() < 0.5:
            pack.append(raw.value)
            continue
        yield raw
    while pack:
        size = way.randint(1, 5)
        yield Raw(RAW_DELIVERY, b"\n".join(pack[:size]), "mailecho")
        del pack[:size]


def _result(memory: Memory) -> Result:
    lines = rows_of(memory.topics.all(EVENTS))
    rows = [orjson.loads(line) for line in lines]
    for row in rows:
        for name in ("received_at", "raw_partition", "raw_offset", "raw_index"):
            row.pop(name, None)
    entries: dict[str, dict[str, Any]] = {}
    for record in memory.topics.all(SUPPRESSIONS):
        if is_entry_key(record.key):
            assert record.value is not None, "nothing is forgotten within a day"
            entry = orjson.loads(record.value)
            del entry["version"]
            entries[record.key.decode()] = entry
    letters = {
        (topic, h.get(record.headers, h.REASON) or "", record.value or b"")
        for topic in (*RAW, COMMANDS, CLASSIFIED)
        for record in memory.topics.all(dlq(topic))
    }
    totals: dict[str, int] = {}
    for log in memory.topics.partitions_of[EVENTS].values():
        for name, value in orjson.loads(h.get(log[-1].headers, h.TOTALS) or "{}").items():
            totals[name] = totals.get(name, 0) + value
    return Result(sorted(rows, key=lambda row: str(row["event_id"])), entries, letters, totals, lines)


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    made = load(tmp_path_factory.mktemp("identity"))
    load_identity(made, create=True)
    return reader_of(made)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inflight") / "file"


@pytest.mark.faults
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(facts=_HISTORY, orders=_ORDERS, seed=st.integers(0, 2**32))
def test_any_way_gives_the_same_events_and_the_same_list(
    reading: Reading, file: Path, facts: list[Fact], orders: list[Order], seed: int
) -> None:
    plain = play(reading, file, facts, orders, None)
    other = play(reading, file, facts, orders, random.Random(seed))
    assert plain.rows == other.rows
    assert plain.entries == other.entries
    assert plain.letters == other.letters
    for totals in (plain.totals, other.totals):
        if totals:
            assert totals["late"] == 0
            assert totals["classified"] == totals["duplicates"] + totals["events"] + totals["commands"]
            assert totals["events"] == len(plain.rows)


ROLLUPS = ("rollup_minute_provider", "rollup_minute_ip_cause", "rollup_quarter", "rollup_hour_campaign")


@pytest.mark.faults
@pytest.mark.clickhouse
@settings(max_examples=max(3, EXAMPLES // 100), deadline=None, suppress_health_check=list(HealthCheck))
@given(facts=_HISTORY, seed=st.integers(0, 2**32))
def test_any_way_gives_the_same_rollups(
    reading: Reading, file: Path, counted: Callable[[list[bytes]], Any], facts: list[Fact], seed: int
) -> None:
    plain = play(reading, file, facts, [], None)
    other = play(reading, file, facts, [], random.Random(seed))
    assert counted(plain.lines) == counted(other.lines)


@pytest.fixture(scope="module")
def counted(clickhouse: EmbeddedClickHouse) -> Callable[[list[bytes]], Any]:
    """What the views make of rows: each rollup by the time at which things happened."""
    client: Client = clickhouse.write_client()
    columns = {
        table: [
            (str(name), str(kind))
            for name, kind in client.query(
                "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {t:String} "
                "AND name != 'received_on' ORDER BY position",
                parameters={"t": table},
            ).result_rows
        ]
        for table in ROLLUPS
    }

    def count(lines: list[bytes]) -> Any:
        for table in ("events", *ROLLUPS):
            client.command(f"TRUNCATE TABLE {table}")
        half = len(lines) // 2
        for part in (lines[:half], lines[half:]):
            if part:
                token = {"insert_deduplication_token": str(uuid.uuid4())}
                client.raw_insert("events", insert_block=b"\n".join(part), fmt="JSONEachRow", settings=token)
        found = {}
        for table, described in columns.items():
            keys = [name for name, kind in described if kind != "UInt64"]
            sums = [f"sum({name})" for name, kind in described if kind == "UInt64"]
            sql = f"SELECT {', '.join(keys + sums)} FROM {table} GROUP BY {', '.join(keys)} ORDER BY ALL"
            found[table] = client.query(sql).result_rows
        return found

    return count
