"""What the pipeline has counted, each number from the part that counts it (`mailecho status`).

Nothing here is derived from anything else here, so the two balances can be checked:
classified = duplicates + events + late + commands, and events = landed + rejected. While records
are on their way the second one is behind by what the lander's `lag` shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import orjson
import psutil

from mailecho.pipeline.api_client import ApiDown, ApiRefused
from mailecho.pipeline.api_client import get as api_get
from mailecho.pipeline.endpoints import NotRunning, api_url, kafka_bootstrap, read_endpoints, run_dir
from mailecho.pipeline.landing.database import DatabaseUnavailable, query_text
from mailecho.schemas import headers as h
from mailecho.schemas.topics import (
    CLASSIFIED,
    CLASSIFY_INPUT,
    EVENTS,
    GROUP_CLASSIFY,
    GROUP_LANDER,
    GROUP_LEDGER,
    RAW,
    registry,
)

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

#: Counted by the ledger's fold, read from the last record of each partition of `events`.
FOLDED = ("classified", "duplicates", "events", "late", "commands")
LANDED = ("landed", "rejected", "not_feedback")
COUNTS = ("raw", "dead_letters", *FOLDED, *LANDED)

GROUPS = {GROUP_CLASSIFY: CLASSIFY_INPUT, GROUP_LEDGER: (CLASSIFIED,), GROUP_LANDER: (EVENTS,)}

#: A part that does not answer by then is shown as down: a person waits for this command.
PART_SECONDS = 10.0


async def collect(settings: Settings) -> dict[str, Any]:
    """All fields of `status --json`. Never raises: a part that is down leaves nulls and its reason in `errors`."""
    errors: dict[str, str] = {}
    status: dict[str, Any] = dict.fromkeys((*COUNTS, "suppressions", "lag"))
    parts = {
        "kafka": kafka_counts(settings),
        "clickhouse": asyncio.to_thread(landed_counts, settings),
        "api": asyncio.to_thread(suppression_counts, settings),
    }
    results = await asyncio.gather(*(_answer(part) for part in parts.values()))
    for name, (values, problem) in zip(parts, results, strict=True):
        status.update(values)
        if problem:
            errors[name] = problem
    status["balanced"] = balanced(status)
    status["endpoints"] = _endpoints(settings)
    status["processes"] = processes(settings)
    if errors:
        status["errors"] = errors
    return status


def balanced(status: dict[str, Any]) -> bool | None:
    """Whether both balances hold; None where a number is missing."""
    if any(status[name] is None for name in (*FOLDED, "landed", "rejected")):
        return None
    folded = status["duplicates"] + status["events"] + status["late"] + status["commands"]
    return bool(status["classified"] == folded and status["events"] == status["landed"] + status["rejected"])


async def _answer(part: Awaitable[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    try:
        async with asyncio.timeout(PART_SECONDS):
            values = await part
        return values, values.pop("_problem", "")
    except TimeoutError:
        return {}, f"no answer within {PART_SECONDS:g} s"
    except (NotRunning, ApiDown, ApiRefused, DatabaseUnavailable) as error:
        return {}, str(error)
    except Exception as error:  # whatever a client library raises: status shows it and goes on
        return {}, f"{type(error).__name__}: {error}".splitlines()[0][:300]


async def kafka_counts(settings: Settings) -> dict[str, Any]:
    """raw, dead_letters, what the fold counted, and lag by topic. Raises NotRunning, KafkaError."""
    from aiokafka import AIOKafkaConsumer
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaConnectionError, KafkaError

    from mailecho.pipeline.partitions import no_broker, partitions_of

    bootstrap = kafka_bootstrap(settings)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await consumer.start()
        await admin.start()
        places, missing = await partitions_of(bootstrap, registry())
        if missing:
            return {"_problem": f"topics are missing ({', '.join(missing)}): run `mailecho topics apply`"}
        begins = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
        values: dict[str, Any] = {
            "raw": sum(end for place, end in ends.items() if place.topic in RAW),
            "dead_letters": sum(end for place, end in ends.items() if place.topic.endswith(".dlq")),
        }
        lag: dict[str, int | None] = {}
        for group, topics in GROUPS.items():
            try:
                committed = await admin.list_consumer_group_offsets(group)
            except KafkaError:  # the group's coordinator is not there yet
                committed = {}
            for topic in topics:
                at = [p for p in places if p.topic == topic]
                # a group that never committed (offset -1, or nothing) has all of it before it
                done = {p: committed[p].offset if p in committed else -1 for p in at}
                lag[topic] = sum(max(0, ends[p] - (done[p] if done[p] >= 0 else begins[p])) for p in at)
        values["lag"] = lag
        filled = [p for p in places if p.topic == EVENTS and ends[p] > begins[p]]
        expired = [p.partition for p in places if p.topic == EVENTS and ends[p] == begins[p] > 0]
        if expired:
            values["_problem"] = f"{EVENTS} partitions {expired}: all records expired, and with them their totals"
        else:
            values.update(await _totals(consumer, filled, ends))
        return values
    except KafkaConnectionError:
        return {"_problem": no_broker(bootstrap)}
    finally:
        await admin.close()
        await consumer.stop()


async def _totals(consumer: Any, places: list[Any], ends: dict[Any, int]) -> dict[str, int]:
    """The sum over partitions of the totals in each one's last record."""
    sums = dict.fromkeys(FOLDED, 0)
    consumer.assign(places)
    for place in places:
        consumer.seek(place, ends[place] - 1)
    waiting = set(places)
    while waiting:
        for place, records in (await consumer.getmany(*waiting, timeout_ms=1_000)).items():
            totals = orjson.loads(h.get(records[0].headers, h.TOTALS) or "{}")
            for name in FOLDED:
                sums[name] += int(totals.get(name, 0))
            waiting.discard(place)
    return sums


def landed_counts(settings: Settings) -> dict[str, Any]:
    """landed, rejected and not_feedback, from ClickHouse. Raises NotRunning and what its client raises."""
    text = query_text(
        settings,
        "SELECT toInt64(sum(rows)) AS landed, toInt64(sum(rejected)) AS rejected, "
        "(SELECT toInt64(count()) FROM events WHERE kind = 'not_feedback') AS not_feedback "
        f"FROM landed WHERE topic = '{EVENTS}'",
        "JSONEachRow",
    )
    row = orjson.loads(text)
    return {name: int(row[name]) for name in LANDED}


def suppression_counts(settings: Settings) -> dict[str, Any]:
    """Entries by state, from the API. Raises RuntimeError saying how it could not be asked."""
    return {"suppressions": api_get(settings, "/v1/suppressions/stats")["states"]}


def processes(settings: Settings) -> list[dict[str, Any]]:
    """The children of `mailecho up`, as it last wrote them; `gone` where such a process no longer runs."""
    try:
        listed = orjson.loads((run_dir(settings.data_dir) / "processes.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return []
    for process in listed:
        if process.get("pid") and not psutil.pid_exists(process["pid"]):
            process["state"] = "gone"
    return list(listed)


def _api(settings: Settings) -> str | None:
    try:
        return api_url(settings)
    except NotRunning:
        return None


def _endpoints(settings: Settings) -> dict[str, str | None]:
    found = read_endpoints(settings.data_dir)
    return {
        "kafka": settings.kafka.bootstrap_servers or found.get("kafka"),
        "clickhouse": settings.clickhouse.url or found.get("clickhouse"),
        "api": _api(settings),
    }
