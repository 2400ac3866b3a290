"""`status` counts what stands on a real broker and in a real engine, each number from its own place."""

from __future__ import annotations

import asyncio
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from mailecho.pipeline.command_sender import send
from mailecho.pipeline.commands.operate import _show_status
from mailecho.pipeline.config import ApiSettings, ClickHouseSettings, KafkaSettings, Settings
from mailecho.pipeline.endpoints import run_dir
from mailecho.pipeline.status import COUNTS, balanced, collect
from mailecho.pipeline.supervise.machine import rewind
from mailecho.pipeline.topics import apply_topics
from mailecho.schemas import headers as h
from mailecho.schemas.command import COMMAND, Add
from mailecho.schemas.topics import (
    CLASSIFIED,
    COMMANDS,
    EVENTS,
    GROUP_CLASSIFY,
    GROUP_LANDER,
    HOUR_MS,
    RAW_ARF,
    RAW_DELIVERY,
    RAW_DSN,
    dlq,
)

if TYPE_CHECKING:
    from tests.fixtures_clickhouse import EmbeddedClickHouse
    from tests.fixtures_kafka import KafkaProcess

STATS = {"states": {"active": 3, "watch": 5}, "reasons": {"complaint": 3}}


class _Api(http.server.BaseHTTPRequestHandler):
    """Answers like the API's stats, to the right token only."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer secret"
        body = STATS if allowed else {"error": {"code": "unauthorized", "message": "a token is needed"}}
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(orjson.dumps(body))

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def api_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Api) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def settings_of(
    tmp_path: Path, bootstrap: str = "127.0.0.1:1", url: str = "", port: int = 1, token: str = ""
) -> Settings:
    return Settings(
        data_dir=tmp_path,
        kafka=KafkaSettings(bootstrap_servers=bootstrap),
        clickhouse=ClickHouseSettings(url=url),
        api=ApiSettings.model_validate({"port": port, "token": token}),
    )


def totals(**counts: int) -> list[tuple[str, bytes]]:
    return [h.schema_header("event"), (h.TOTALS, orjson.dumps(counts))]


async def produce(
    bootstrap: str, records: list[tuple[str, int, list[tuple[str, bytes]]]], at_ms: int | None = None
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for topic, partition, headers in records:
            await producer.send_and_wait(topic, b"x", partition=partition, headers=headers, timestamp_ms=at_ms)
    finally:
        await producer.stop()


async def commit(bootstrap: str, group: str, offsets: dict[tuple[str, int], int]) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        places = {TopicPartition(*place): offset for place, offset in offsets.items()}
        consumer.assign(list(places))
        await consumer.commit(places)
    finally:
        await consumer.stop()


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_counts_come_from_where_they_are_kept(
    tmp_path: Path, kafka_process: KafkaProcess, clickhouse: EmbeddedClickHouse, api_port: int
) -> None:
    bootstrap = kafka_process.bootstrap
    # the engine's own data directory: its token stands there
    settings = settings_of(clickhouse.data_dir, bootstrap, clickhouse.url, api_port, "secret")

    async def scenario() -> dict[str, Any]:
        await apply_topics(bootstrap, settings)
        none: list[tuple[str, bytes]] = []
        await produce(
            bootstrap, [(RAW_DSN, 0, none), (RAW_ARF, 1, none), (RAW_DELIVERY, 3, none), (RAW_DELIVERY, 3, none)]
        )
        await produce(bootstrap, [(dlq(RAW_DSN), 0, none), (CLASSIFIED, 2, none), (CLASSIFIED, 2, none)])
        # only the last record of a partition counts
        await produce(
            bootstrap, [(EVENTS, 0, totals(classified=1, events=1)), (EVENTS, 2, totals(classified=5, events=5))]
        )
        await produce(
            bootstrap, [(EVENTS, 0, totals(classified=6, duplicates=2, events=2, late=1, commands=1, copies=9))]
        )
        await send(settings, [Add(id="12345678", address="user@example.com")])
        await commit(bootstrap, GROUP_CLASSIFY, {(RAW_DELIVERY, 3): 1, (RAW_DSN, 0): 1})
        await commit(bootstrap, GROUP_LANDER, {(EVENTS, 0): 2})
        return await collect(settings)

    client = clickhouse.write_client()
    client.command(
        "INSERT INTO landed (topic, partition, s, e, rows, rejected) VALUES "
        f"('{EVENTS}', 0, 0, 2, 4, 1), ('{EVENTS}', 2, 0, 1, 2, 0), ('another', 0, 0, 1, 7, 7)"
    )
    status = asyncio.run(scenario())
    assert "errors" not in status
    assert {name: status[name] for name in COUNTS} == {
        "raw": 4,
        "dead_letters": 1,
        "classified": 11,
        "duplicates": 2,
        "events": 7,
        "late": 1,
        "commands": 1,
        "landed": 6,
        "rejected": 1,
        "not_feedback": 0,
    }
    assert status["balanced"] is True
    assert status["suppressions"] == STATS["states"]
    assert status["lag"] == {RAW_DSN: 0, RAW_ARF: 1, RAW_DELIVERY: 1, COMMANDS: 1, CLASSIFIED: 2, EVENTS: 1}
    assert status["endpoints"] == {
        "kafka": bootstrap,
        "clickhouse": clickhouse.url,
        "api": f"http://127.0.0.1:{api_port}",
    }


@pytest.mark.kafka
def test_missing_topics_are_named(tmp_path: Path, kafka_process: KafkaProcess) -> None:
    status = asyncio.run(collect(settings_of(tmp_path, kafka_process.bootstrap)))
    assert "mailecho topics apply" in status["errors"]["kafka"]
    assert status["raw"] is None


@pytest.mark.kafka
def test_a_command_reaches_its_topic_as_the_contract_says(tmp_path: Path, kafka_process: KafkaProcess) -> None:
    settings = settings_of(tmp_path, kafka_process.bootstrap)
    command = Add(id="12345678", address="user@example.com", note="asked by phone")

    async def scenario() -> Any:
        await apply_topics(kafka_process.bootstrap, settings)
        await send(settings, [command])
        consumer = AIOKafkaConsumer(
            COMMANDS, bootstrap_servers=kafka_process.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        await consumer.start()
        try:
            return await consumer.getone()
        finally:
            await consumer.stop()

    record = asyncio.run(scenario())
    h.check_schema(record.headers, "command")
    assert record.key is None
    assert COMMAND.validate_json(record.value) == command


@pytest.mark.kafka
def test_rewind_goes_back_an_hour_of_records(kafka_process: KafkaProcess) -> None:
    topic, lost = kafka_process.topic(2, retention_ms=-1), kafka_process.topic(1, retention_ms=-1)
    bootstrap, base = kafka_process.bootstrap, 1_700_000_000_000

    async def scenario() -> tuple[int, dict[str, int]]:
        for age in (3 * HOUR_MS, 2 * HOUR_MS, HOUR_MS, HOUR_MS // 2, 0):
            await produce(bootstrap, [(topic, 0, [])], base - age)
        await produce(bootstrap, [(lost, 0, [])], base)
        # the log of `lost` ends at 1: what was committed beyond was cut off
        await commit(bootstrap, "g", {(topic, 0): 4, (topic, 1): 0, (lost, 0): 3})
        again = await rewind(bootstrap, [topic, lost], "g")
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id="g", enable_auto_commit=False)
        await consumer.start()
        try:
            at = {}
            for name, place in (("topic", TopicPartition(topic, 0)), ("lost", TopicPartition(lost, 0))):
                at[name] = await consumer.committed(place)
        finally:
            await consumer.stop()
        return again, at

    # the last record read is 3 (half an hour before base): one hour before it begins with record 2
    assert asyncio.run(scenario()) == (2 + 1, {"topic": 2, "lost": 0})


def test_everything_down_says_why(tmp_path: Path) -> None:
    status = asyncio.run(collect(Settings(data_dir=tmp_path, api=ApiSettings(port=1))))
    assert set(status) >= {*COUNTS, "suppressions", "lag", "endpoints", "processes", "balanced", "errors"}
    assert all(status[name] is None for name in COUNTS)
    assert "mailecho up" in status["errors"]["kafka"]
    assert "mailecho up" in status["errors"]["clickhouse"]
    assert "127.0.0.1:1" in status["errors"]["api"]


def test_a_wrong_token_is_named(tmp_path: Path, api_port: int) -> None:
    status = asyncio.run(collect(settings_of(tmp_path, port=api_port, token="wrong")))
    assert "MAILECHO_API__TOKEN" in status["errors"]["api"]


def test_a_process_that_is_gone_is_shown_so(tmp_path: Path) -> None:
    run_dir(tmp_path).mkdir()
    listed = [
        {"name": "serve", "pid": os.getpid(), "state": "running", "restarts": 0},
        {"name": "lander", "pid": 2**22 + 1, "state": "running", "restarts": 2},
        {"name": "demo", "pid": None, "state": "backoff", "restarts": 1},
    ]
    (run_dir(tmp_path) / "processes.json").write_bytes(orjson.dumps(listed))
    status = asyncio.run(collect(Settings(data_dir=tmp_path, api=ApiSettings(port=1))))
    assert [process["state"] for process in status["processes"]] == ["running", "gone", "backoff"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({}, True), ({"events": 9}, False), ({"landed": 1}, False), ({"landed": None}, None), ({"late": 1}, False)],
)
def test_balance(changed: dict[str, int | None], expected: bool | None) -> None:
    status: dict[str, Any] = {
        "classified": 6,
        "duplicates": 2,
        "events": 3,
        "late": 0,
        "commands": 1,
        "landed": 2,
        "rejected": 1,
    }
    assert balanced({**status, **changed}) is expected


def test_the_table_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = asyncio.run(collect(Settings(data_dir=tmp_path, api=ApiSettings(port=1))))
    _show_status({**status, "raw": 12_345, "lag": {EVENTS: 7}, "suppressions": {"active": 2}})
    shown = capsys.readouterr()
    assert "12,345" in shown.out
    assert "suppressions active" in shown.out
    assert "kafka: " in shown.err
