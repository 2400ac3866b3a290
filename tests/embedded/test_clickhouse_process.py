"""The embedded engine as a process: owner of its directory, killed at any moment, stopped in time."""

from __future__ import annotations

import contextlib
import random
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import orjson
import psutil
import pytest
from clickhouse_connect.driver.exceptions import Error

from mailecho.pipeline.embedded.clickhouse import REFUSED
from mailecho.pipeline.embedded.clickhouse_engine import READERS
from mailecho.pipeline.landing.database import read_client, write_client
from mailecho.pipeline.landing.migrations import INSERT_SETTINGS, migrate
from tests.embedded.test_clickhouse_contract import ROLLUPS, TOTALS, event_row
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.landing.kit import TODAY

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

pytestmark = pytest.mark.clickhouse

ENDLESS = b"SELECT max(sipHash64(number)) FROM numbers(1000000000000)"


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not become so in time"
        time.sleep(0.02)


def start_refused(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mailecho.pipeline.embedded.clickhouse", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_killed_in_the_middle_of_inserts_and_replayed_counts_are_exact(fresh_clickhouse: EmbeddedClickHouse) -> None:
    """The client knows only what was acknowledged: after a kill it repeats the open batch with its token."""
    migrate(fresh_clickhouse.write_client())
    batches = [[event_row(b * 10_000 + i) for i in range(3_000)] for b in range(40)]
    chance = random.Random(7)
    acknowledged = 0

    def insert(client: Client) -> None:
        nonlocal acknowledged
        while acknowledged < len(batches):
            client.raw_insert(
                "events",
                insert_block=b"\n".join(batches[acknowledged]),
                fmt="JSONEachRow",
                settings={**INSERT_SETTINGS, "insert_deduplication_token": f"t:0:{acknowledged}:events"},
            )
            acknowledged += 1

    for _ in range(8):
        with closing(write_client(fresh_clickhouse.settings())) as client:
            killer = threading.Timer(chance.uniform(0.01, 0.3), fresh_clickhouse.kill)
            killer.start()
            with contextlib.suppress(Error):
                insert(client)
            killer.join()
        acknowledged = max(0, acknowledged - 1)  # as a lander whose last commit was lost
        fresh_clickhouse.start()
    with closing(write_client(fresh_clickhouse.settings())) as client:
        insert(client)
    with closing(write_client(fresh_clickhouse.settings())) as client:
        rows = sum(len(batch) for batch in batches)
        assert client.query("SELECT count(), uniqExact(event_id) FROM events").result_rows == [(rows, rows)]
        assert {name: client.command(sql) for name, sql in TOTALS.items()} == dict.fromkeys(ROLLUPS, rows)


@pytest.mark.parametrize("full", ["events", "rollup_minute_provider", "rollup_hour_campaign"])
def test_an_insert_that_cannot_be_written_is_an_error_and_its_repetition_completes_it(
    fresh_clickhouse: EmbeddedClickHouse, full: str
) -> None:
    """As on a full disk: the engine checks the room when it writes the block, of the table or of a view's target."""
    client = fresh_clickhouse.write_client()
    migrate(client)
    row = orjson.dumps({"event_id": str(uuid.uuid4()), "kind": "bounce", "received_at": f"{TODAY} 00:00:01.000"})

    def insert() -> None:
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": "one"}
        client.raw_insert("events", insert_block=row + b"\n", fmt="JSONEachRow", settings=settings)

    client.command(f"ALTER TABLE {full} MODIFY SETTING min_free_disk_bytes_to_perform_insert = {1 << 60}")
    for _ in range(2):
        with pytest.raises(Error, match="NOT_ENOUGH_SPACE"):
            insert()
    client.command(f"ALTER TABLE {full} RESET SETTING min_free_disk_bytes_to_perform_insert")
    insert()
    rollups = (
        "sum(bounce) FROM rollup_minute_provider",
        "sum(events) FROM rollup_quarter",
        "sum(bounce) FROM rollup_hour_campaign",
    )
    counts = "SELECT (SELECT count() FROM events), " + ", ".join(f"(SELECT {rollup})" for rollup in rollups)
    assert client.query(counts).result_rows == [(1, 1, 1, 1)]


def test_a_second_owner_is_refused_and_the_first_is_unharmed(fresh_clickhouse: EmbeddedClickHouse) -> None:
    assert fresh_clickhouse.process is not None
    message = start_refused("--directory", str(fresh_clickhouse.directory), "--port", "0")
    assert str(fresh_clickhouse.directory) in message
    assert f"process {fresh_clickhouse.process.pid}" in message
    assert httpx.post(fresh_clickhouse.url, content=b"SELECT 1").text == "1\n"


def test_a_taken_port_and_an_open_address_are_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in start_refused("--directory", str(tmp_path / "a"), "--port", port)
    assert "loopback" in start_refused("--directory", str(tmp_path / "b"), "--host", "0.0.0.0", "--port", "0")
    assert not (tmp_path / "b").exists()


def test_the_token_is_made_once_and_is_its_owners(fresh_clickhouse: EmbeddedClickHouse) -> None:
    token = fresh_clickhouse.token
    file = fresh_clickhouse.directory / "clickhouse.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(token) >= 40
    fresh_clickhouse.restart()
    assert fresh_clickhouse.token == token
    assert httpx.post(fresh_clickhouse.url, content=b"CREATE DATABASE x", auth=("anyone", token)).status_code == 200


def test_readers_that_never_end_hold_up_neither_inserts_nor_the_owner(clickhouse: EmbeddedClickHouse) -> None:
    with ThreadPoolExecutor(READERS + 1) as pool, closing(write_client(clickhouse.settings())) as client:
        slow = [
            pool.submit(httpx.post, clickhouse.url, content=ENDLESS, params={"max_execution_time": "15"}, timeout=60)
            for _ in range(READERS + 1)
        ]
        assert clickhouse.process is not None
        busy = psutil.Process(clickhouse.process.pid)
        until(lambda: sum(busy.cpu_times()[:2]) > 2.5)  # they run
        client.raw_insert("landed", insert_block=b'{"topic":"busy","e":1}', fmt="JSONEachRow", settings=INSERT_SETTINGS)
        assert client.command("SELECT count() FROM landed WHERE topic = 'busy'") == 1
        assert httpx.get(f"{clickhouse.url}/ping").text == "Ok.\n"
        assert not any(future.done() for future in slow)
        clickhouse.restart()  # nobody waits for them
        for future in slow:
            assert isinstance(future.exception(), httpx.HTTPError)


def test_sigterm_ends_it_in_time_with_a_statement_running(fresh_clickhouse: EmbeddedClickHouse) -> None:
    migrate(fresh_clickhouse.write_client())
    process = fresh_clickhouse.process
    assert process is not None
    cpu = psutil.Process(process.pid).cpu_times
    before = sum(cpu()[:2])
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(httpx.post, fresh_clickhouse.url, content=ENDLESS, timeout=60)
        until(lambda: sum(cpu()[:2]) > before + 0.5)
        assert fresh_clickhouse.stop(seconds=5) == 0
        assert slow.exception() is not None or slow.result().status_code != 200
    fresh_clickhouse.start()
    with closing(read_client(fresh_clickhouse.settings())) as client:
        assert client.command("SELECT count() FROM events") == 0


def test_sigterm_when_idle_closes_the_engine(fresh_clickhouse: EmbeddedClickHouse) -> None:
    assert fresh_clickhouse.stop(seconds=5) == 0
    assert (fresh_clickhouse.data_dir / "clickhouse.err").read_text() == ""
