"""One child process, kept alive: started again with backoff when it ends, its output in a bounded log."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mailecho.pipeline.supervise import guard

#: sysexits.h EX_CONFIG: the child refuses to work as it is configured, and another try changes nothing.
EX_CONFIG = 78

LOG_BYTES = 4 * 1024 * 1024  # one file and its predecessor: at most 8 MiB a child
TAIL_BYTES = 4 * 1024  # enough to hold the reason of a refusal


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between restarts: doubled at each, from `first` to `most`.

    A crash-looping stage takes the CPU that the broker needs to come back, so the rest grows; after
    `healthy` seconds of work the next failure is a first one again. A refusal waits for a person.
    """

    first: float = 0.2
    most: float = 10.0
    healthy: float = 60.0
    refusal: float = 30.0


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run. `last` children are stopped after all others: the others need them to stop cleanly."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    last: bool = False


class Sink(Protocol):
    """Where a child's output goes."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class RollingLog:
    """Appends to a file; at LOG_BYTES the file becomes `<name>.1` and a new one begins."""

    def __init__(self, file: Path, limit: int = LOG_BYTES) -> None:
        self._file = file
        self._limit = limit
        file.parent.mkdir(parents=True, exist_ok=True)
        self._out = file.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; the file is cut over before it would pass its limit."""
        if self._out.tell() + len(data) > self._limit:
            self._out.close()
            os.replace(self._file, self._file.with_name(self._file.name + ".1"))
            self._out = self._file.open("ab", buffering=0)
        self._out.write(data)

    def close(self) -> None:
        self._out.close()


class Child:
    """Runs a Spec until `stop`; tells `changed` of every new state.

    States: `starting` (before its first process), `running`, `backoff` (ended, is started again soon),
    `refused` (exit 78, is tried again slowly), `stopped`.
    """

    def __init__(
        self, spec: Spec, log: Sink, changed: Callable[[Child], None] = lambda _: None, backoff: Backoff | None = None
    ) -> None:
        self.spec = spec
        self.state = "starting"
        self.pid: int | None = None
        self.restarts = 0
        self.last_exit = ""
        self._log = log
        self._changed = changed
        self._backoff = backoff or Backoff()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._tail = b""
        self._task = asyncio.create_task(self._run(), name=spec.name)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def alive(self) -> bool:
        """Whether a process runs now."""
        return self.state == "running"

    def last_lines(self, count: int = 3) -> list[str]:
        """The last lines that it wrote, without blank ones."""
        lines = [line.rstrip() for line in self._tail.decode("utf-8", "replace").splitlines()]
        return [line for line in lines if line][-count:]

    def status(self) -> dict[str, Any]:
        """The process as `status --json` shows it."""
        shown: dict[str, Any] = {"name": self.name, "pid": self.pid, "state": self.state, "restarts": self.restarts}
        if self.last_exit:
            shown["last_exit"] = self.last_exit
        if self.state == "refused":
            shown["reason"] = " ".join(self.last_lines())
        return shown

    def signal(self, number: int) -> None:
        """Send a signal to the running process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL to the whole process group where it still runs after `grace` seconds."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        done, _ = await asyncio.wait([self._task], timeout=max(grace, 0.05))
        if not done:
            self._kill_group()
        await self._task

    async def _run(self) -> None:
        backoff = self._backoff
        delay = backoff.first
        loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                began = loop.time()
                code = await self._once()
                if self._stopping.is_set():
                    break
                if loop.time() - began >= backoff.healthy:
                    delay = backoff.first
                rest = backoff.refusal if code == EX_CONFIG else delay
                self._log.write(f"--- {self.name} ended: {self.last_exit}; starts again in {rest:g} s\n".encode())
                self._set("refused" if code == EX_CONFIG else "backoff")
                delay = min(delay * 2, backoff.most)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), rest)
                if not self._stopping.is_set():
                    self.restarts += 1
        finally:
            self._log.close()
            self._set("stopped")

    async def _once(self) -> int:
        # a session of its own: Ctrl-C in the terminal must reach `up` alone, which stops in order
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *guard.command(list(self.spec.command)),
                env=dict(self.spec.env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:  # out of memory or of processes: as transient as a crash
            self.last_exit = f"could not start: {error.strerror}"
            return 127
        assert process.stdout is not None
        self.pid = process.pid
        self._set("running")
        if self._stopping.is_set():  # stop() came while the process was being made
            self.signal(signal.SIGTERM)
        pump = asyncio.create_task(self._pump(process.stdout))
        code = await process.wait()
        self._kill_group()  # what it left behind would keep the pipe, its ports and its locks
        await pump
        self.pid = None
        self.last_exit = describe_exit(code)
        return code

    async def _pump(self, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65_536):
            self._log.write(data)
            self._tail = (self._tail + data)[-TAIL_BYTES:]

    def _kill_group(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _set(self, state: str) -> None:
        self.state = state
        self._changed(self)


def describe_exit(code: int) -> str:
    """An exit code in words: `exit 1`, `killed by SIGKILL`."""
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
