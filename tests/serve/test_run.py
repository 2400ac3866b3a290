from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import write_endpoints
from mailecho.pipeline.topics import apply_topics
from mailecho.schemas.topics import SUPPRESSIONS
from tests.fixtures_kafka import KafkaProcess
from tests.lookup.entries import entry, record
from tests.lookup.test_follower import send

PROGRAM = """
from mailecho.pipeline import telemetry
from mailecho.pipeline.config import load
from mailecho.pipeline.serve.app import run
settings = load()
telemetry.setup("serve", settings)
run(settings)
"""
KEY = b"a key for tests, 32 bytes long..".hex()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def serving(directory: Path, **more: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    port = free_port()
    settings = {"DATA_DIR": str(directory), "API__PORT": str(port), "IDENTITY_KEY": KEY} | more
    env = {**os.environ, **{f"MAILECHO_{name}": value for name, value in settings.items()}}
    with (directory / "serve.log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stderr=log, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def status(client: httpx.Client, path: str) -> int:
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.kafka
def test_serves_at_once_follows_when_there_is_a_broker_and_stops_cleanly(
    kafka_process: KafkaProcess, tmp_path: Path
) -> None:
    with serving(tmp_path) as (process, client):
        until(lambda: status(client, "/healthz") == 200, "the API answers without a broker")
        assert "mailecho up" in client.get("/readyz").json()["error"]["message"]
        assert client.get("/v1/suppressions/a@example.com").status_code == 503
        assert client.get("/v1/status").json()["clickhouse"]["reachable"] is False

        asyncio.run(apply_topics(kafka_process.bootstrap, Settings()))
        asyncio.run(send(kafka_process.bootstrap, SUPPRESSIONS, record(entry("bad@example.com"))))
        write_endpoints(tmp_path, {"kafka": kafka_process.bootstrap})
        until(lambda: status(client, "/readyz") == 200, "caught up")
        assert client.get("/v1/suppressions/bad@example.com").json()["decision"] == "deny"
        asyncio.run(send(kafka_process.bootstrap, SUPPRESSIONS, record(entry("new@example.com", version=2))))
        until(lambda: not client.get("/v1/suppressions/new@example.com").json()["allowed"], "a new entry is seen")
        assert (tmp_path / "run" / "alive-serve-0").exists()
        assert "mailecho_lookup_ready 1.0" in client.get("/metrics").text

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0

    with serving(tmp_path, KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:9") as (process, client):
        until(lambda: status(client, "/healthz") == 200, "it starts without a broker")
        answer = client.get("/v1/suppressions/bad@example.com")
        assert (answer.status_code, answer.json()["allowed"]) == (200, False), "the map of before answers"
        assert status(client, "/readyz") == 503
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == 0


def test_a_second_one_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, client):
        until(lambda: status(client, "/healthz") == 200, "the API answers")
        with serving(tmp_path) as (second, _):
            assert second.wait(timeout=30) != 0
        assert "another process follows" in (tmp_path / "serve.log").read_text()


def test_an_address_that_others_reach_is_refused_without_a_token(tmp_path: Path) -> None:
    with serving(tmp_path, API__HOST="0.0.0.0") as (process, _):
        assert process.wait(timeout=30) != 0
    assert "MAILECHO_API__TOKEN" in (tmp_path / "serve.log").read_text()
