"""A set of children: started one by one, stopped together, the ones that others need last."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from mailecho.pipeline.supervise.child import Backoff, Child, Sink, Spec

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

#: All must have stopped 10 s after they were asked to: those that others need get the last part.
FIRST_SECONDS = 5.5
LAST_SECONDS = 3.5


class Inherited:
    """Passes a child's output on to our own standard error."""

    def write(self, data: bytes) -> None:
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()

    def close(self) -> None:
        """Nothing: the stream is not ours to close."""


class Group:
    """Children by name, in the order in which they were started."""

    def __init__(
        self,
        sink: Callable[[Spec], Sink],
        changed: Callable[[Child], None] = lambda _: None,
        backoff: Backoff | None = None,
    ) -> None:
        self.children: dict[str, Child] = {}
        self._sink = sink
        self._changed = changed
        self._backoff = backoff

    def start(self, spec: Spec) -> Child:
        """Start a child; needs a running event loop."""
        child = Child(spec, self._sink(spec), self._changed, self._backoff)
        self.children[spec.name] = child
        return child

    def status(self) -> list[dict[str, Any]]:
        """All children as `status --json` shows them."""
        return [child.status() for child in self.children.values()]

    async def stop(self, first: float = FIRST_SECONDS, last: float = LAST_SECONDS) -> None:
        """SIGTERM to all but the `last` ones, then to those; SIGKILL after the seconds given for each."""
        for needed, grace in ((False, first), (True, last)):
            await asyncio.gather(*(c.stop(grace) for c in self.children.values() if c.spec.last == needed))

    def kill(self) -> None:
        """SIGKILL to all, for a second Ctrl-C; `stop` must have been asked for."""
        for child in self.children.values():
            child.signal(signal.SIGKILL)


async def run_group(specs: Iterable[Spec]) -> int:
    """Keep the specs running in the foreground until SIGINT or SIGTERM. Gives the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    group = Group(lambda _: Inherited())
    for spec in specs:
        group.start(spec)
    await stop.wait()
    await group.stop()
    return 0


def worker_specs(role: str, processes: int, settings: Settings) -> list[Spec]:
    """`processes` workers of a role, as this command would start them, each its own static member."""
    return [
        Spec(
            name=f"{role}-{number}",
            command=[sys.executable, "-m", "mailecho.pipeline.cli", "worker", role],
            env={
                **os.environ,
                "MAILECHO_DATA_DIR": str(settings.data_dir),
                "MAILECHO_INSTANCE": f"{settings.instance}-{number}",
            },
        )
        for number in range(processes)
    ]
