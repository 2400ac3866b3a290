"""How a worker ends when it must: no exception may leave an agent, since Faust would go on."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

log = logging.getLogger("mailecho")

#: A refusal: someone must change a setting or decide. Restarting at once changes nothing
#: (EX_CONFIG of sysexits.h; the supervisor retries slowly and shows the message).
REFUSED = 78
#: A crash: start again, the next process takes up where the last acknowledged step ended.
CRASHED = 70


def refuse(message: str) -> NoReturn:
    """Say why this worker does not go on, and end the process with REFUSED."""
    log.critical("%s", message, extra={"speaks": True})  # holds settings and offsets, never mail
    print(f"mailecho: {message}", file=sys.stderr, flush=True)  # noqa: T201 - the last words, for whoever supervises
    _end(REFUSED)


def crash(message: str, error: BaseException | None = None) -> NoReturn:
    """End the process with CRASHED after an error that only a new process can mend."""
    log.critical("this worker ends: %s", message, exc_info=error)
    _end(CRASHED)


def _end(code: int) -> NoReturn:
    logging.shutdown()
    sentry = sys.modules.get("sentry_sdk")
    if sentry is not None:
        sentry.flush(timeout=2.0)
    os._exit(code)  # at once: a graceful stop would commit, and may hang on what is broken
