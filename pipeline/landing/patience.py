"""Calls that wait for what is down: ClickHouse or the broker may be away for hours, and come back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)

#: First pause and longest: short enough to be back at once after a restart, long enough to leave a
#: struggling server alone.
BACKOFF_SECONDS = 0.2
MAX_BACKOFF_SECONDS = 10.0

#: One line an outage's minute says all there is to say.
LOG_SECONDS = 60.0


class Interrupted(Exception):
    """The wait was given up: the process stops, or its partitions were revoked."""


class Patience:
    """Repeats calls until they succeed or `interrupt` is called.

    `waiting_for` says what the present call waits for, "" when it does not; `since` when it began.
    """

    def __init__(self) -> None:
        self._interrupt = asyncio.Event()
        self.waiting_for = ""
        self.failures = 0

    def interrupt(self) -> None:
        """Make present and coming waits raise Interrupted; a call that runs is finished first."""
        self._interrupt.set()

    def again(self) -> None:
        """Allow waits again."""
        self._interrupt.clear()

    async def until(
        self,
        call: Callable[[], Awaitable[T]],
        passing: type[BaseException] | tuple[type[BaseException], ...],
        what: str,
    ) -> T:
        """Await `call()`; while it raises one of `passing`, again after a pause, for ever.

        `what` names what is waited for, in the log. Raises Interrupted, and all other errors as they come.
        """
        pause, told = BACKOFF_SECONDS, 0.0
        try:
            while not self._interrupt.is_set():
                try:
                    return await call()
                except passing as error:
                    self.waiting_for = what
                    self.failures += 1
                    if time.monotonic() - told >= LOG_SECONDS or not told:
                        told = time.monotonic()
                        log.warning("%s: waiting, trying again for ever: %s", what, " ".join(str(error).split())[:300])
                await self.pause(pause)
                pause = min(pause * 2, MAX_BACKOFF_SECONDS)
            raise Interrupted(what)
        finally:
            if self.waiting_for and told and not self._interrupt.is_set():
                log.info("%s: going on", what)
            self.waiting_for = ""

    async def pause(self, seconds: float) -> None:
        """Sleep, or less when interrupted."""
        try:
            async with asyncio.timeout(seconds):
                await self._interrupt.wait()
        except TimeoutError:
            pass
