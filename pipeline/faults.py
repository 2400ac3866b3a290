"""Fault points: named places at which a test can have the process killed, as the kernel would.

`MAILECHO_FAULTS="lander.after_insert:3,ledger.after_send"` kills the process by SIGKILL at the third
passing of the first point, or at the first passing of the second. Passings are counted by point
and by process, from its start. Without the variable `point` is an empty function.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

VARIABLE = "MAILECHO_FAULTS"


def parse(text: str) -> dict[str, int]:
    """`name[:passing],…` as a map of the passing (from 1) at which each point kills. Raises ValueError."""
    armed: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, passing = item.partition(":")
        if not name or not (passing or "1").isdigit() or int(passing or 1) < 1:
            raise ValueError(f"{VARIABLE}: {item!r} is not a point's name, or name:N with N from 1")
        armed[name] = int(passing or 1)
    return armed


_armed = parse(os.environ.get(VARIABLE, ""))
_passed: Counter[str] = Counter()

if _armed:

    def point(name: str) -> None:
        """Die here if this passing of `name` is the armed one."""
        if name in _armed:
            _passed[name] += 1
            if _passed[name] == _armed[name]:
                os.kill(os.getpid(), signal.SIGKILL)

else:

    def point(name: str) -> None:
        """Nothing: no fault is armed in this process."""
