"""`mailecho up`: everything on this machine, started in order, kept alive, stopped in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich.console import Console

from mailecho.pipeline.endpoints import run_dir, url_host, write_atomically, write_endpoints
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.ledger.policy import load_policy
from mailecho.pipeline.supervise import plan
from mailecho.pipeline.supervise.child import Child, RollingLog, Spec
from mailecho.pipeline.supervise.claim import claim
from mailecho.pipeline.supervise.group import Group
from mailecho.pipeline.supervise.machine import MachineMark, check_fingerprint, pad_classified, rewind
from mailecho.pipeline.supervise.panel import Lines, Panel, View
from mailecho.pipeline.supervise.ready import answers, hints

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings
    from mailecho.pipeline.embedded.kafka import EmbeddedKafka

#: A broker that was killed waits for its old session (about 14 s), and a cold machine is slow.
READY_SECONDS = 120.0

#: A part that died this often before it was ready will not become so.
START_TRIES = 5

#: A million entries are loaded in less; who waits longer can work with the rest meanwhile.
LOOKUP_SECONDS = 30.0


class StartFailed(RuntimeError):
    """A part did not become ready; the message has what it said last."""


def run_up(settings: Settings, *, demo: bool = False) -> int:
    """Run everything until SIGINT or SIGTERM; 0 when it stopped as asked.

    Raises Claimed, PortTaken, PolicyError, ServeRefused, IdentityKeyError, KafkaUnavailable and
    StartFailed, each with the way on.
    """
    console = Console()
    settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
    data_dir = settings.data_dir
    # what a role would refuse minutes later is refused before anything runs
    from mailecho.pipeline.serve.app import check_exposure

    load_policy(settings.policy_file)
    check_exposure(settings)
    if not data_dir.exists():
        data_dir.mkdir(parents=True, mode=0o700)  # it holds clear addresses
    with claim(data_dir):
        if demo:
            settings = _demo_settings(settings)
        (run_dir(data_dir) / "endpoints.json").unlink(missing_ok=True)  # of an `up` that was killed
        port = plan.api_port(settings.api.host, settings.api.port)
        check_fingerprint(data_dir, load_identity(settings, create=True))
        broker = None if settings.kafka.bootstrap_servers else _prepare_broker(settings, console)
        view: View = Panel(console) if console.is_terminal else Lines(console)
        return asyncio.run(Up(settings, broker, port, view, demo=demo).run())


def _demo_settings(settings: Settings) -> Settings:
    """The demo's sender counts as ours, so that its reports are plausible; for every command on this directory."""
    file = settings.data_dir / "mailecho.toml"
    if file.exists() or settings.own_domains:
        return settings
    file.write_text(
        "# made by `mailecho up --demo`: the domain that its sample traffic is sent from\n"
        'own_domains = ["example.com"]\n'
    )
    return settings.model_copy(update={"own_domains": ("example.com",)})


def _prepare_broker(settings: Settings, console: Console) -> EmbeddedKafka:
    """Jars, Java and a formatted directory, while Ctrl-C still simply ends us: nothing runs yet."""
    from rich.progress import Progress, TextColumn

    from mailecho.pipeline.embedded.kafka import EmbeddedKafka

    broker = EmbeddedKafka(settings.data_dir / "kafka", heap_mb=settings.kafka.heap_mb)
    columns = (*Progress.get_default_columns()[:2], TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Kafka", total=None)
        broker.prepare(lambda done, total, what: bar.update(task, completed=done, total=total, description=what))
    return broker


def bring_up_to_date(settings: Settings) -> list[str]:
    """Bring the tables up to date, a new rollup over old events included; gives what to say of it."""
    from mailecho.pipeline.landing.repair import RepairRefused, run
    from mailecho.pipeline.landing.upgrade import upgrade

    done = upgrade(settings)
    said = [f"{len(done.migrations)} migrations applied"] if done.migrations else []
    said += [f"retention: {change}" for change in done.retention]
    if done.events_before:
        try:
            run(settings)
        except RepairRefused as error:
            said += [
                f"new rollups do not count the {done.events_before:,} events before them: "
                "`mailecho reconcile --repair`",
                str(error),
            ]
    return said


class Up:
    """One run of everything; `run` returns when it has been asked to stop and all has stopped."""

    def __init__(
        self, settings: Settings, broker: EmbeddedKafka | None, port: int, view: View, *, demo: bool = False
    ) -> None:
        self._settings = settings
        self._data_dir: Path = settings.data_dir
        self._broker = broker
        self._port = port
        self._view = view
        self._demo = demo
        self._stop = asyncio.Event()
        self._group = Group(self._log, self._changed)
        self._mark = MachineMark(self._data_dir)

    async def run(self) -> int:
        """Start, watch, stop. Raises StartFailed after everything has been stopped again."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # HUP: its terminal was closed
            loop.add_signal_handler(number, self._asked_to_stop)
        work = asyncio.create_task(self._start_and_watch())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        self._stop.set()
        work.cancel()
        stop.cancel()
        outcome = (await asyncio.gather(work, stop, return_exceptions=True))[0]
        self._view.close()
        self._view.note("stopping")
        (run_dir(self._data_dir) / "endpoints.json").unlink(missing_ok=True)
        await self._group.stop()
        self._mark.close()
        if isinstance(outcome, Exception):
            raise outcome
        self._view.note("stopped")
        return 0

    def _asked_to_stop(self) -> None:
        if self._stop.is_set():
            self._group.kill()  # a second Ctrl-C: the user does not want to wait
        self._stop.set()

    def _log(self, spec: Spec) -> RollingLog:
        return RollingLog(self._data_dir / "logs" / f"{spec.name}.log")

    def _changed(self, child: Child) -> None:
        write_atomically(run_dir(self._data_dir) / "processes.json", orjson.dumps(self._group.status()))
        if child.state == "backoff":
            self._view.note(f"{child.name}: {child.last_exit}; it is started again")
        elif child.state == "refused":
            self._view.note(f"{child.name} refuses to start: {' '.join(child.last_lines())}")

    async def _start_and_watch(self) -> None:
        endpoints = await self._start_stores()
        kafka, clickhouse = endpoints["kafka"], endpoints["clickhouse"]
        env = plan.environment(self._settings, kafka, clickhouse, self._port)
        for spec in plan.role_specs(env, plan.workers_each(self._settings.kafka.partitions)):
            self._group.start(spec)
        url = f"http://{url_host(self._settings.api.host)}:{self._port}"
        await self._wait("serve", answers(f"{url}/healthz"))
        await self._wait_for_lookup(url)
        write_endpoints(self._data_dir, {**endpoints, "api": url})
        if self._demo:
            self._group.start(plan.role_spec("demo", ["demo-traffic"], env))
        self._view.ready({**endpoints, "api": url}, hints(self._settings))
        await self._watch()

    async def _start_stores(self) -> dict[str, str]:
        """Kafka and ClickHouse, ready and with what must be in them."""
        unclean = self._mark.stopped_unclean()
        if not unclean:
            self._mark.open()
        clickhouse = self._settings.clickhouse.url
        if not clickhouse:
            port = plan.stable_port(self._data_dir, "clickhouse")
            clickhouse = f"http://127.0.0.1:{port}"
            self._group.start(plan.engine_spec(self._settings, port))
        kafka = self._settings.kafka.bootstrap_servers or await self._start_broker()
        await self._prepare_topics(kafka)
        if unclean:
            await pad_classified(kafka)
            again = await rewind(kafka)
            self._mark.open()  # not before: a start that fails here must rewind at the next one
            self._view.note(f"the machine stopped without warning: {again:,} raw records are read again")
        if not self._settings.clickhouse.url:
            await self._wait("clickhouse", answers(f"{clickhouse}/ping"))
        self._view.note(f"ClickHouse ready: {clickhouse}")
        for line in await asyncio.to_thread(self._migrate, kafka, clickhouse):
            self._view.note(line)
        return {"kafka": kafka, "clickhouse": clickhouse}

    async def _start_broker(self) -> str:
        broker = self._broker
        assert broker is not None
        spec = Spec("kafka", broker.command(), os.environ, last=True)
        child = self._group.start(spec)
        self._view.note("Kafka starts")
        await asyncio.to_thread(broker.wait_ready, READY_SECONDS, lambda: not self._gave_up(child))
        self._view.note(f"Kafka ready: {broker.bootstrap}")
        return broker.bootstrap

    async def _prepare_topics(self, bootstrap: str) -> None:
        from mailecho.pipeline.topics import apply_topics

        changes = await apply_topics(bootstrap, self._settings)
        if changes:
            self._view.note(f"{len(changes)} topics created or changed")

    def _migrate(self, bootstrap: str, url: str) -> list[str]:
        """Bring the tables up to date, a new rollup over old events included; gives what to say of it."""
        sections = {
            "kafka": self._settings.kafka.model_copy(update={"bootstrap_servers": bootstrap}),
            "clickhouse": self._settings.clickhouse.model_copy(update={"url": url}),
        }
        return bring_up_to_date(self._settings.model_copy(update=sections))

    def _gave_up(self, child: Child) -> bool:
        return self._stop.is_set() or child.state == "refused" or child.restarts >= START_TRIES

    async def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        """Until `ready` says so. Raises StartFailed with the part's last lines."""
        child = self._group.children[name]
        deadline = time.monotonic() + READY_SECONDS
        while not await asyncio.to_thread(ready):
            if self._gave_up(child) or time.monotonic() > deadline:
                said = " | ".join(child.last_lines()) or "nothing"
                log = self._data_dir / "logs" / f"{name}.log"
                ended = child.last_exit or child.state
                raise StartFailed(f"{name} did not become ready ({ended}); it said: {said}\nits log is {log}")
            await asyncio.sleep(0.1)

    async def _wait_for_lookup(self, url: str) -> None:
        """Until the lookup holds the whole list; a long one goes on loading while the rest is used."""
        ready = answers(f"{url}/readyz")
        deadline = time.monotonic() + LOOKUP_SECONDS
        while not await asyncio.to_thread(ready):
            if time.monotonic() > deadline:
                self._view.note(f"serve runs, its lookup is still loading: {url}/readyz says why")
                return
            await asyncio.sleep(0.1)
        self._view.note(f"serve ready: {url}")

    async def _watch(self) -> None:
        from mailecho.pipeline.status import collect

        while True:
            self._view.show(await collect(self._settings))
            await asyncio.sleep(self._view.seconds)
