"""Rows into ClickHouse through the lander's insert path, beside a bare insert of the same rows over the same HTTP.

The path is all that a lander does but Kafka: records to ranges, intents, inserts with tokens, the row of `landed`.
Costs are CPU time of this process and of the engine, merges included, since how often one inserts decides how much
is merged. The bare insert joins the same records and posts them to tables of the same kind.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import orjson
import psutil
from aiokafka import TopicPartition

from mailecho.pipeline.bench.harness import Progress, Result, silent, take_turns
from mailecho.pipeline.config import ClickHouseSettings, LanderSettings, Settings
from mailecho.pipeline.landing.bundle import Bundle
from mailecho.pipeline.landing.database import CLICKHOUSE_DIR, write_client
from mailecho.pipeline.landing.insert import EVENTS, SETTINGS, Inserter
from mailecho.pipeline.landing.intents import Progress as Place
from mailecho.pipeline.landing.land import Landing
from mailecho.pipeline.landing.migrations import load_migrations, migrate
from mailecho.pipeline.landing.partition import Partition
from mailecho.pipeline.landing.patience import Patience
from mailecho.pipeline.landing.ranges import EventsRecord
from mailecho.pipeline.times import row_time
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import Reason

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_T = TypeVar("_T")

#: Rows of one insert; the largest is the lander's default.
SIZES = (1_000, 5_000, 20_000, 50_000)
#: Inserts of one measurement: many small ones would be merged for minutes.
_INSERTS = 20
#: Rows of a record of `feedback.events` at volume: a micro-batch of 256 kB.
RECORD_ROWS = 500
#: Merging is over once the engine takes less of a core than this.
_IDLE_SHARE = 0.1
_IDLE_SECONDS = 0.5
_MERGE_SECONDS = 30.0

_PROVIDERS = ("gmail", "microsoft", "yahoo", "gmx", "icloud", "example")


@dataclass(slots=True)
class _Record:
    """A record of `feedback.events`, as the consumer gives it."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = field(default_factory=list)


class _Nowhere:
    """What a landing does to Kafka: here nothing."""

    async def commit(self, places: Mapping[Partition, tuple[int, Place]]) -> None:
        """Nothing is committed."""

    async def dead_letter(self, record: EventsRecord, value: bytes, reason: Reason, detail: str) -> None:
        """Raises ValueError: a row of the benchmark is refused."""
        raise ValueError(f"ClickHouse refuses a row of the benchmark: {detail}")


class _Lane:
    """One way into the engine, with a database of its own. `numbers` makes every row and token a new one."""

    def __init__(self, client: Client, engine: psutil.Process) -> None:
        self.client = client
        self.engine = engine
        self.rows = 0
        self._at = 0

    def records(self, rows: int) -> list[_Record]:
        """The next rows of this lane, in records."""
        made = []
        for first in range(0, rows, RECORD_ROWS):
            count = min(RECORD_ROWS, rows - first)
            value = b"".join(row(self.rows + first + n) + b"\n" for n in range(count))
            headers = [
                h.schema_header("event"),
                (h.EMISSION, str(self._at).encode()),
                (h.ROWS, str(count).encode()),
                (h.CHANGES_AT, str(len(value)).encode()),
            ]
            made.append(_Record(0, self._at, time.time_ns() // 1_000_000, value, headers))
            self._at += 1
        self.rows += rows
        return made

    def measure(self, rows: int, insert: Callable[[list[_Record]], None]) -> float:
        """Rows for each CPU-second of this process and the engine, until it has merged them."""
        records = self.records(rows)
        before = _cpu(self.engine)
        insert(records)
        _wait_idle(self.engine)
        spent = _cpu(self.engine) - before
        found = int(self.client.query(f"SELECT count() FROM {EVENTS}").result_rows[0][0])
        if found != self.rows:
            raise ValueError(f"{self.rows:,} rows were inserted into {self.client.database}, and {found:,} are there")
        return rows / max(spent, 0.01)


def run(rows: int = 200_000, sizes: Sequence[int] = SIZES, runs: int = 3, progress: Progress = silent) -> Result:
    """Rows for each CPU-second through the lander's insert path and bare, at the largest of `sizes` rows an insert.

    Also both for each of the sizes, and a bare insert into a table without rollups. Raises ValueError where what is
    counted at the end is not what was inserted, or where a size is above `rows`.
    """
    if not sizes or max(sizes) > rows or min(sizes) < 1:
        raise ValueError(f"insert sizes {list(sizes)}: give some between 1 and the {rows:,} rows of a run")
    with tempfile.TemporaryDirectory(prefix="mailecho-bench-") as directory, _engine(Path(directory)) as (url, engine):
        settings = Settings(data_dir=Path(directory), clickhouse=ClickHouseSettings(url=url))
        lander, bare, alone = (_Lane(_database(settings, name), engine) for name in ("lander", "bare", "alone"))
        for lane in (lander, bare):
            migrate(lane.client)
        migrate(alone.client, load_migrations()[:1])

        def ways(size: int) -> dict[str, Callable[[], float]]:
            some = min(rows, size * _INSERTS)
            each = {
                "lander": lambda: lander.measure(some, lambda records: _land(lander.client, records, size)),
                "bare": lambda: bare.measure(some, lambda records: _post(bare.client, records, size)),
            }
            if size == max(sizes):
                each["alone"] = lambda: alone.measure(some, lambda records: _post(alone.client, records, size))
            return each

        progress("first inserts")
        for measure in ways(max(sizes)).values():
            measure()
        by_size = {}
        for size in sorted(set(sizes)):
            found = take_turns(runs, ways(size), partial(_tell, progress, size))
            by_size[size] = found
        rss_mb = engine.memory_info().rss / 1e6
        for lane in (lander, bare, alone):
            lane.client.close()
    best = by_size[max(sizes)]
    return Result(
        "landing",
        "rows/CPU-s",
        best["lander"],
        "bare JSONEachRow insert",
        best["bare"],
        {
            "rows": rows,
            "insert_rows": max(sizes),
            "cpu_us_per_row": round(1e6 / median(best["lander"]), 2),
            "without_rollups": round(median(best["alone"])),
            "by_insert_rows": {
                str(size): {
                    "lander": round(median(found["lander"])),
                    "bare": round(median(found["bare"])),
                    "ratio": round(median(found["lander"]) / median(found["bare"]), 2),
                }
                for size, found in by_size.items()
            },
            "engine_rss_mb": round(rss_mb, 1),
        },
    )


def _tell(progress: Progress, size: int, what: str) -> None:
    progress(f"{size:,} rows an insert, {what}")


def row(number: int) -> bytes:
    """An event row of a made-up stream, as the ledger writes it: seven deliveries, a delay, two bounces in ten."""
    rng = Random(number)
    now = time.time_ns() // 1_000_000
    kind = "delivery" if number % 10 < 7 else "delay" if number % 10 == 7 else "bounce"
    provider = _PROVIDERS[rng.randrange(len(_PROVIDERS))]
    failed = kind != "delivery"
    fields = {
        "event_id": str(UUID(int=(now << 80) | rng.getrandbits(80))),
        "recipient_key": str(UUID(int=rng.getrandbits(128))),
        "kind": kind,
        "received_at": row_time(now),
        "occurred_at": row_time(now - rng.randrange(60_000)),
        "tenant": f"tenant-{number % 3}",
        "stream": "news" if number % 2 else "receipts",
        "campaign": f"weekly-{number % 40}",
        "source": "mailecho",
        "source_host": "out3.mail.example.com",
        "message_id": f"{number:x}.{rng.getrandbits(40):x}@mail.example.com",
        "outcome_id": str(UUID(int=rng.getrandbits(128))),
        "recipient_domain": f"{provider}.example",
        "provider": provider,
        "mail_from_domain": "mail.example.com",
        "sending_ip": f"192.0.2.{number % 20}",
        "pool": "shared",
        "remote_host": f"mx{number % 4}.{provider}.example",
        "smtp_code": 550 if kind == "bounce" else 451 if failed else 250,
        "status": "5.1.1" if kind == "bounce" else "4.7.1" if failed else "2.0.0",
        "diagnostic": f"550 5.1.1 <***@{provider}.example> no such user {rng.getrandbits(32):x}" if failed else "",
        "permanence": "permanent" if kind == "bounce" else "transient" if failed else "unknown",
        "cause": "mailbox_unknown" if kind == "bounce" else "greylist" if failed else "",
        "fault": "recipient" if kind == "bounce" else "",
        "trust": "verified",
        "size_bytes": 20_000 + number % 60_000,
        "raw_topic": "feedback.raw.delivery",
        "raw_offset": number,
    }
    return orjson.dumps({name: value for name, value in fields.items() if value != ""})


def _land(client: Client, records: list[_Record], size: int) -> None:
    """Through ranges of `size` rows, as a lander of one partition does."""
    inserter = Inserter(client)

    async def in_thread(call: Callable[[Inserter], _T]) -> _T:
        return call(inserter)

    async def land() -> None:
        landing = Landing(_Nowhere(), in_thread, Patience())
        first = records[0].offset
        part = Partition(TopicPartition("feedback.events", 0), first, Place(first - 1 if first else None))
        limits = LanderSettings(flush_rows=size)
        part.fetched(records)
        while part.due(limits, time.monotonic()) or part.range:
            await landing.land(Bundle([part]))

    asyncio.run(land())


def _post(client: Client, records: list[_Record], size: int) -> None:
    waiting: list[bytes] = []
    rows = 0
    for at, record in enumerate(records):
        value = record.value or b""
        waiting.append(value)
        rows += value.count(b"\n")
        if rows >= size or at == len(records) - 1:
            client.raw_insert(EVENTS, insert_block=b"".join(waiting), settings=SETTINGS, fmt="JSONEachRow")
            waiting, rows = [], 0


def _database(settings: Settings, name: str) -> Client:
    section = settings.clickhouse.model_copy(update={"database": name})
    return write_client(settings.model_copy(update={"clickhouse": section}))


@contextmanager
def _engine(directory: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The embedded engine in a directory: its address and its process, ended on leaving. Raises ValueError."""
    module = "mailecho.pipeline.embedded.clickhouse"
    command = [sys.executable, "-m", module, "--directory", str(directory / CLICKHOUSE_DIR), "--port", "0"]
    with (directory / "clickhouse.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        name, _, url = process.stdout.readline().strip().partition(" ")
        if name != "clickhouse":
            raise ValueError(f"the engine did not start: {(directory / 'clickhouse.log').read_text()[-500:]}")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _cpu(engine: psutil.Process) -> float:
    used = engine.cpu_times()
    return time.process_time() + float(used.user + used.system)


def _wait_idle(engine: psutil.Process) -> None:
    deadline = time.monotonic() + _MERGE_SECONDS
    last = _cpu(engine)
    while time.monotonic() < deadline:
        time.sleep(_IDLE_SECONDS)
        now = _cpu(engine)
        if now - last < _IDLE_SECONDS * _IDLE_SHARE:
            return
        last = now
