"""One Faust app, configured: the settings of both workers, each with its reason."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from yarl import URL

from mailecho.agents.exits import crash, refuse
from mailecho.agents.outputs import Outputs
from mailecho.agents.transport import BatchTransport, Starts, StepSchema
from mailecho.pipeline import metrics
from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import NotRunning, kafka_bootstrap
from mailecho.pipeline.identity import IdentityKeyError
from mailecho.pipeline.ledger.policy import PolicyError
from mailecho.pipeline.members import METADATA_MS
from mailecho.pipeline.telemetry import alive_path, heartbeat

log = logging.getLogger(__name__)

#: Faust refuses a session timeout above the request timeout, and then never becomes ready.
REQUEST_TIMEOUT = 40.0
#: A worker that does not poll for this long has its partitions taken. Catching up a lost store
#: happens inside a rebalance and may take long; hours of it are better than a loop of rebalances.
MAX_POLL_INTERVAL = 6 * 3600.0
#: A poll takes a second at most, and the chunk before it well under a second.
PROGRESS_SECONDS = 30.0
#: Replayed after a crash: at most this much work is done again, and its duplicates are dropped.
COMMIT_INTERVAL = 1.0
#: New objects before the youngest are looked through for cycles: about ten chunks' worth of records.
GARBAGE_EVERY = 50_000


def make_app(settings: Settings, group: str, role: str, starts: Starts | None = None) -> faust.App:
    """The app of a worker. `group` is its consumer group and Faust's app id; see `BatchTransport` for `starts`."""
    servers = kafka_bootstrap(settings)
    app = faust.App(
        group,
        broker=[URL(f"kafka://{server.strip()}") for server in servers.split(",")],
        datadir=str(settings.data_dir / "faust" / f"{role}-{settings.instance}"),
        # A dead worker's partitions come back to the same member in 2 s instead of 10.
        consumer_group_instance_id=f"{role}-{settings.instance}",
        broker_session_timeout=settings.kafka.session_timeout_ms / 1000,
        broker_heartbeat_interval=settings.kafka.session_timeout_ms / 4000,
        broker_request_timeout=REQUEST_TIMEOUT,
        broker_max_poll_interval=MAX_POLL_INTERVAL,
        broker_commit_interval=COMMIT_INTERVAL,
        # What nobody has read yet is read from the start, not skipped.
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_MS,
        # True would hold up a rebalance until every message is acked; outputs here are idempotent.
        stream_wait_empty=False,
        # Steps, not records: a few are enough to overlap fetching with work, and memory stays bounded.
        stream_buffer_maxsize=4,
        # No table, no reply topic, no page that serves data over HTTP, no topic that Faust invents.
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        store="memory://",
        # else Faust's own assignor is used, which plans standbys of tables that are not there
        table_standby_replicas=0,
        autodiscover=False,
        origin="mailecho.agents",
        loghandlers=[],
        logging_config=None,
    )
    app.transport = BatchTransport(
        app.conf.broker_consumer,
        app,
        pace_ms=settings.kafka.pace_ms,
        accept_gap=settings.accept_gap,
        starts=starts,
    )
    return app


async def wait_for_broker(bootstrap: str, *, patience: float = 600.0) -> None:
    """Return when the broker answers. Faust exits at once without one, and would restart in a loop.

    Raises TimeoutError naming the address after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    delay = 0.2
    while True:
        consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
        try:
            await consumer.start()
            await consumer.topics()
            return
        except (KafkaError, OSError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"kafka.bootstrap_servers {bootstrap} does not answer: {error}") from None
            log.info("waiting for the broker at %s", bootstrap)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 3.0)
        finally:
            await consumer.stop()


def add_agent(app: Any, role: str, topics: Iterable[str], handle: Callable[[Any], Awaitable[None]]) -> None:
    """Give the app its one agent: `handle` takes a step and returns when its outputs are acknowledged.

    Only then is the step done. One at a time: acks are in order, and a crash repeats one step.
    """

    async def agent(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await handle(event.value)
            except Exception as error:  # must not leave the agent: Faust would go on
                crash(f"{role}: {error!r}", error)
            app.consumer.done(event)

    app.agent(app.topic(*topics, schema=StepSchema()), concurrency=1, name=role)(agent)


@dataclass(frozen=True, slots=True)
class Worker:
    """An app and what lives beside it: its outputs, a check before it starts, a task while it runs."""

    role: str
    app: Any  # faust.App, which mypy knows little of
    outputs: Outputs
    check: Callable[[], Awaitable[None]]
    beside: Callable[[], Awaitable[None]] | None = None


def run_worker(build: Callable[[Settings], Worker], settings: Settings) -> None:
    """Build a worker and run it until SIGTERM or SIGINT.

    Ends the process with REFUSED where the settings forbid it, with CRASHED where Faust crashes.
    """
    try:
        worker = build(settings)
    except (IdentityKeyError, NotRunning, PolicyError) as error:
        refuse(str(error))
    # What is loaded by now stays: it is not looked through again and again. The rest is mostly freed by its counts.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_EVERY)
    stop_metrics = metrics.serve_metrics(os.environ.get("MAILECHO_METRICS_PORT"))
    asyncio.run(_run(worker, settings))
    if stop_metrics:
        stop_metrics()


async def _run(worker: Worker, settings: Settings) -> None:
    role, app = worker.role, worker.app
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    # from here on, so that a worker that waits for its broker is not killed for it
    alive = asyncio.create_task(heartbeat(alive_path(settings, role), _progressing(app)))
    ready = asyncio.create_task(_ready(worker, settings))
    await asyncio.wait({stopped, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        return
    ready.result()
    await app.start()
    tasks = [alive]
    if worker.beside:
        tasks.append(asyncio.create_task(worker.beside()))  # type: ignore[arg-type]
    ended = asyncio.create_task(app.wait_until_stopped())
    await asyncio.wait({stopped, ended, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    if not stopped.done():
        failed = next((t.exception() for t in tasks if t.done() and not t.cancelled()), None)
        crash(f"{role} stopped by itself: {app.crash_reason or failed!r}", app.crash_reason or failed)
    log.info("%s: stopping", role)
    for task in (*tasks, ended):
        task.cancel()
    try:
        await asyncio.wait_for(app.stop(), 6.0)
        await asyncio.wait_for(worker.outputs.stop(), 2.0)
    except TimeoutError:
        # Nothing is lost by leaving now: what was not committed is read again.
        crash(f"{role}: a stop took longer than 8 s")


async def _ready(worker: Worker, settings: Settings) -> None:
    await wait_for_broker(kafka_bootstrap(settings))
    Path(worker.app.conf.datadir).mkdir(parents=True, exist_ok=True)
    await worker.outputs.start()
    await worker.check()


def _progressing(app: Any) -> Callable[[], bool]:
    """Whether the fetch loop turns: the liveness probe looks at this, never at the broker."""

    def progressing() -> bool:
        polled_at = getattr(app.consumer, "polled_at", None)
        return polled_at is None or app.rebalancing or time.monotonic() - polled_at < PROGRESS_SECONDS

    return progressing
