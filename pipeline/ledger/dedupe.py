"""Which event ids have been seen within a window (DESIGN 2, point 6).

An id carries its event's time. Ids dated within a day of the clock go into the bucket of that day,
one database a day, dropped whole when it has served; all others into the younger of two
generations that the clock rotates. An id is stored with the clock at which it was last seen, and
is a duplicate within one window of that.
"""

from __future__ import annotations

from mailecho.pipeline.ids import id_ms
from mailecho.pipeline.ledger.generations import Generations
from mailecho.pipeline.ledger.store import Transaction

_VALUE = 8  # bytes: the clock, big-endian


class Seen:
    """The ids of one class of events (those that share a window) in one partition."""

    def __init__(self, name: str, window_ms: int, near_ms: int) -> None:
        """`near_ms` is a bucket's width, and how far from the clock an id may be dated to go into one."""
        self._name = name
        self._window = window_ms
        self._near = near_ms
        prefix = f"ids/{name}/generation"
        self._generations = Generations(prefix, prefix.encode(), window_ms)

    def check(self, tx: Transaction, raw: bytes, clock: int) -> bool:
        """True if the id is a duplicate. Either way it counts as seen at `clock` from now on."""
        younger, older = self._generations.names(tx)
        dated = id_ms(raw)
        bucket = f"ids/{self._name}/day/{dated // self._near}"
        place = bucket if -self._near <= dated - clock <= self._near else younger
        now = clock.to_bytes(_VALUE, "big")
        seen = False
        if not tx.add(place, raw, now):
            seen = int.from_bytes(tx.get(place, raw) or b"", "big") >= clock - self._window
            tx.put(place, raw, now)
        # Not always where it would go now: it may have been dated near the clock, and no more.
        for other in (bucket, younger, older):
            if other != place and tx.exists(other):
                value = tx.get(other, raw)
                if value is not None and int.from_bytes(value, "big") >= clock - self._window:
                    seen = True
        return seen

    def advance(self, tx: Transaction, clock: int) -> None:
        """Drop what no look-up can need at this clock, and rotate the generations."""
        prefix = f"ids/{self._name}/day/"
        for name in tx.names(prefix):
            # stored a day after the bucket's end at the latest, and needed for a window after that
            if (int(name[len(prefix) :]) + 2) * self._near + self._window < clock:
                tx.drop(name)
        self._generations.advance(tx, clock)
