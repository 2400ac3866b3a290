"""Lookups over HTTP: a local API over a map made for it, beside a bare handler that returns a constant.

The servers are processes of their own; the client is one process with a protocol of its own, since a client library
would cost more than what it measures. Latency counts from when a request was due, not from when it could be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import orjson
import psutil

from mailecho.pipeline.bench.harness import Progress, Result, percentile, silent, take_turns
from mailecho.pipeline.identity import Identity

_T = TypeVar("_T")

CONNECTIONS = 32
BULK = 10_000
START_SECONDS = 60.0

_IDENTITY = Identity(b"the key of a benchmark, 32 bytes")
_FORGET_MS = 86_400_000
#: Entries that go into the map with one transaction.
_BATCH = 10_000


def run(
    entries: int = 100_000, rate: int = 2000, seconds: float = 3.0, runs: int = 5, progress: Progress = silent
) -> Result:
    """Single lookups that the API answers for each second of its processor time, beside a bare uvicorn handler's.

    Also the latency of single lookups at a `rate` a second, each measurement for so many `seconds`, and addresses a
    second of bulk checks. Half of the addresses asked have an entry.
    """
    with tempfile.TemporaryDirectory(prefix="mailecho-bench-") as directory:
        progress(f"a map of {entries:,} entries")
        _fill(Path(directory), entries)
        with _server(_api, directory) as (api, pid), _server(_bare, directory) as (bare, bare_pid):
            paths = _paths(entries)
            flood: dict[str, Callable[[], float]] = {
                "mailecho": lambda: _for_cpu(pid, lambda: _loop(_flood(api, paths, seconds))),
                "bare": lambda: _for_cpu(bare_pid, lambda: _loop(_flood(bare, paths, seconds))),
            }
            found = take_turns(runs, flood, progress)
            progress(f"{rate:,} lookups a second")
            paced = sorted(_loop(_paced(api, paths, rate, seconds)))
            floor = sorted(_loop(_paced(bare, paths, rate, seconds)))
            progress("bulk checks")
            bulk = _for_cpu(pid, lambda: _loop(_bulk(api, entries, seconds)))
            rss_mb = psutil.Process(pid).memory_info().rss / 1e6
    more = {
        "entries": entries,
        "rate": rate,
        "p50_ms": round(percentile(paced, 0.5) * 1e3, 3),
        "p99_ms": round(percentile(paced, 0.99) * 1e3, 3),
        "baseline_p50_ms": round(percentile(floor, 0.5) * 1e3, 3),
        "baseline_p99_ms": round(percentile(floor, 0.99) * 1e3, 3),
        "cpu_us_per_lookup": round(1e6 / median(found["mailecho"]), 1),
        "bulk_addresses_per_cpu_s": round(bulk),
        "rss_mb": round(rss_mb, 1),
    }
    return Result("lookup", "lookups/CPU-s", found["mailecho"], "bare uvicorn handler", found["bare"], more)


def _loop(work: Coroutine[Any, Any, _T]) -> _T:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _for_cpu(pid: int, work: Callable[[], int]) -> float:
    """What `work` counts, for each second of processor time that a process spends on it."""
    process = psutil.Process(pid)
    before = process.cpu_times()
    count = work()
    after = process.cpu_times()
    return count / max(after.user + after.system - before.user - before.system, 0.01)


def _address(number: int) -> str:
    return f"user{number}@example{number % 500}.com"


def _paths(entries: int) -> list[bytes]:
    numbers = random.Random(1).choices(range(2 * entries), k=20_000)  # every second one has no entry
    return [f"/v1/suppressions/{_address(number)}?tenant=shop&stream=news".encode() for number in numbers]


def _fill(directory: Path, entries: int) -> None:
    from mailecho.pipeline.lookup.record import Change
    from mailecho.pipeline.lookup.store import Store
    from mailecho.schemas.suppression import State, entry_key

    now = int(time.time() * 1000)
    store = Store(directory / "lookup")

    def change(number: int) -> Change:
        address = _address(number)
        key = _IDENTITY.recipient_key(address)
        entry: dict[str, Any] = {
            "scope": "tenant",
            "scope_id": "shop",
            "subject": "address",
            "subject_key": key,
            "address": address,
            "domain": address.rpartition("@")[2],
            "state": "active",
            "reason": "hard_bounce",
            "cause": "mailbox_unknown",
            "created": now,
            "expires": 0,
            "evidence": {"event_ids": ["018f0000-0000-7000-8000-000000000001"], "count": 1, "first": now, "last": now},
            "version": number,
        }
        return Change(entry_key("tenant", "shop", "address", key), number, State.ACTIVE, orjson.dumps(entry))

    meta = {"complete": b"1", "identity": _IDENTITY.fingerprint.encode()}
    try:
        for first in range(0, max(entries, 1), _BATCH):
            batch = [change(number) for number in range(first, min(first + _BATCH, entries))]
            store.apply(batch, {}, now_ms=now, forget_ms=_FORGET_MS, meta=meta)
    finally:
        store.close()


# --- servers --------------------------------------------------------------------------------------------------


@contextmanager
def _server(serve: Callable[[str, Connection], None], directory: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server in its own process, ended on leaving."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(directory, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(START_SECONDS):
            raise TimeoutError(f"a server of the benchmark did not start within {START_SECONDS:.0f} s")
        yield ours.recv(), process.pid or 0
    finally:
        process.terminate()
        process.join(5)


def _api(directory: str, started: Connection) -> None:
    from mailecho.pipeline.config import Settings
    from mailecho.pipeline.lookup.store import Store
    from mailecho.pipeline.serve.app import create_app
    from mailecho.pipeline.serve.status import NotReachable, Numbers

    async def nobody(_sql: str) -> list[dict[str, Any]]:
        raise NotReachable("a benchmark has no ClickHouse")

    store = Store(Path(directory) / "lookup")
    app = create_app(Settings(data_dir=Path(directory)), store, _IDENTITY, _Followed(), Numbers(nobody))
    _listen(app, started)


class _Followed:
    """A follower that has all."""

    ready = True
    reason = ""
    lag: int | None = 0

    def rebuild(self, why: str) -> None:
        raise AssertionError(f"the map of the benchmark is damaged: {why}")


def _bare(_directory: str, started: Connection) -> None:
    body = orjson.dumps({"address": "user@example.com", "allowed": True, "decision": "allow"})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    _listen(app, started)


def _listen(app: Any, started: Connection) -> None:
    import uvicorn
    import uvloop

    from mailecho.pipeline.serve.app import listen

    sock = listen("127.0.0.1", 0)
    started.send(sock.getsockname()[1])
    config = uvicorn.Config(
        app, http="httptools", lifespan="off", log_config=None, access_log=False, server_header=False
    )
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[sock]))
    os._exit(0)  # the parent has what it wants


# --- the client -----------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """One connection, one request at a time; raises ConnectionError for an answer that is not 200."""

    def __init__(self) -> None:
        self._data = b""
        self._answer: asyncio.Future[None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, blank, body = self._data.partition(b"\r\n\r\n")
        if not blank:
            return
        lowered = head.lower()
        if b"transfer-encoding: chunked" in lowered:
            complete = body.endswith(b"0\r\n\r\n")
        else:
            length = int(lowered.partition(b"content-length:")[2].partition(b"\r\n")[0])
            complete = len(body) >= length
        if complete:
            self._data = b""
            self._end(None if head[9:12] == b"200" else ConnectionError(f"{head[:60]!r}: {body[:200]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionError(f"the server closed a connection: {exc}"))

    def _end(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            if error is None:
                self._answer.set_result(None)
            else:
                self._answer.set_exception(error)

    async def get(self, path: bytes) -> None:
        await self._ask(b"GET " + path + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")

    async def post(self, path: bytes, body: bytes) -> None:
        head = b"POST " + path + b" HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        await self._ask(head + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body)

    async def _ask(self, request: bytes) -> None:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answer

    def close(self) -> None:
        self._transport.close()


async def _connected(port: int, count: int) -> list[_Client]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(_Client, "127.0.0.1", port))[1] for _ in range(count)]


async def _flood(port: int, paths: list[bytes], seconds: float) -> int:
    """How many lookups are answered with all connections busy."""
    clients = await _connected(port, CONNECTIONS)
    until = time.perf_counter() + seconds
    done = 0

    async def ask(client: _Client, at: int) -> None:
        nonlocal done
        while time.perf_counter() < until:
            await client.get(paths[at % len(paths)])
            at += 1
            done += 1

    await asyncio.gather(*(ask(client, number * 997) for number, client in enumerate(clients)))
    for client in clients:
        client.close()
    return done


async def _paced(port: int, paths: list[bytes], rate: int, seconds: float) -> list[float]:
    """The latency of each lookup in seconds, at a steady rate."""
    clients = deque(await _connected(port, CONNECTIONS))
    free = asyncio.Semaphore(len(clients))
    latencies: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    began = time.perf_counter()

    async def ask(path: bytes, due: float) -> None:
        async with free:
            client = clients.popleft()
            try:
                await client.get(path)
            finally:
                clients.append(client)
        latencies.append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(ask(paths[number % len(paths)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for client in clients:
        client.close()
    return latencies


async def _bulk(port: int, entries: int, seconds: float) -> int:
    """How many addresses are answered in bulk checks, one after the other."""
    numbers = random.Random(2).choices(range(2 * entries), k=BULK)
    wanted = {"addresses": [_address(number) for number in numbers], "tenant": "shop", "stream": "news"}
    body = orjson.dumps(wanted)
    (client,) = await _connected(port, 1)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        await client.post(b"/v1/suppressions/check", body)
        done += BULK
    client.close()
    return done
