"""The role `serve`: follows the suppression list and answers for it, in one process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import partial

import uvicorn
import uvloop

from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.identity import Identity, load_identity
from mailecho.pipeline.lookup.client import Lookup
from mailecho.pipeline.lookup.follower import Follower
from mailecho.pipeline.lookup.store import Store
from mailecho.pipeline.serve import metrics
from mailecho.pipeline.serve.api import Progress, Service, create_api
from mailecho.pipeline.serve.gate import Gate, is_loopback
from mailecho.pipeline.serve.status import ClickHouse, Numbers
from mailecho.pipeline.telemetry import alive_path, heartbeat

log = logging.getLogger(__name__)

#: Requests get so long to end after SIGTERM; the follower needs well under a second more.
_GRACE_SECONDS = 3

#: While the follower's thread works, a lookup waits for this long at most until it may run. Python's
#: own 5 ms would be all of a lookup's time limit; less than this costs more than it gives.
_SWITCH_SECONDS = 0.0005

#: Connections that may wait to be accepted: a burst of senders that start at once.
_BACKLOG = 2048


class ServeRefused(RuntimeError):
    """The API cannot be served as configured; the message names the setting."""


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then end within 5 s.

    Raises ServeRefused for settings that would open the list to others, or a taken port;
    IdentityKeyError; StoreLocked where another process follows into the same data directory.
    """
    check_exposure(settings)
    identity = load_identity(settings)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with (
        listen(settings.api.host, settings.api.port) as sock,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(settings, identity, sock))


def check_exposure(settings: Settings) -> None:
    """Refuse an address that others can reach unless there is a token. Raises ServeRefused."""
    if not is_loopback(settings.api.host) and not settings.api.token.get_secret_value():
        raise ServeRefused(
            f"api.host = {settings.api.host!r} is reachable from other machines, and api.token is not set: "
            "set MAILECHO_API__TOKEN (for example to the output of `openssl rand -hex 32`), "
            "or MAILECHO_API__HOST=127.0.0.1"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ServeRefused where that cannot be."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServeRefused(
            f"cannot listen on api.host = {host!r}, api.port = {port}: {error.strerror or error}. "
            "Set MAILECHO_API__PORT to a free port (0 picks one)"
        ) from None


def create_app(settings: Settings, store: Store, identity: Identity, progress: Progress, numbers: Numbers) -> Gate:
    """The ASGI application over a store that somebody follows."""
    service = Service(store, Lookup.over(store, identity), progress, numbers)
    return Gate(
        create_api(service),
        service.single,
        token=settings.api.token.get_secret_value(),
        local_only=is_loopback(settings.api.host),
    )


async def _serve(settings: Settings, identity: Identity, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    store = Store(settings.data_dir / "lookup")
    clickhouse = ClickHouse(settings)
    try:
        follower = Follower(
            store,
            bootstrap=lambda: kafka_bootstrap(settings),
            fingerprint=identity.fingerprint,
            pace_ms=settings.kafka.pace_ms,
        )
        _measure(follower)
        app = create_app(settings, store, identity, follower, Numbers(clickhouse.ask))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http="httptools",
                lifespan="off",
                log_config=None,
                access_log=False,  # lines would hold addresses
                server_header=False,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )

        def leave() -> None:
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)  # for the moments before and after uvicorn's own handlers
        following = asyncio.create_task(follower.run())
        following.add_done_callback(lambda _: leave())
        alive = asyncio.create_task(heartbeat(alive_path(settings, "serve")))
        log.info("listening on http://%s:%d", *sock.getsockname()[:2])
        await server.serve(sockets=[sock])
        follower.stop()
        alive.cancel()
        with suppress(asyncio.CancelledError):
            await alive
        await following
    finally:
        await clickhouse.close()
        store.close()


def _measure(follower: Follower) -> None:
    metrics.READY.set_function(lambda: follower.ready)
    metrics.LAG.set_function(lambda: follower.lag or 0)
    metrics.AGE.set_function(lambda: time.time() - follower.seen_at / 1000 if follower.seen_at else 0)
    for result in ("applied", "outdated", "rejected"):
        metrics.RECORDS.labels(result).set_function(partial(getattr, follower, result))
