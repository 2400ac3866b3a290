"""Two generations of a map, so that what is old goes by dropping a map, not by looking at each key.

What is written goes into the younger one; the clock rotates them. So a key is found for at least
one span after it was written, and for less than two.
"""

from __future__ import annotations

from mailecho.pipeline.ledger.store import Transaction

_META = "meta"


class Generations:
    """The generations named `<prefix>/<number>`; which is the younger stands in the store."""

    def __init__(self, prefix: str, meta_key: bytes, span_ms: int) -> None:
        self._prefix = prefix
        self._meta_key = meta_key
        self._span = span_ms
        self._tx: Transaction | None = None  # whose names are known
        self._names = ("", "")

    def names(self, tx: Transaction) -> tuple[str, str]:
        """The younger and the older map; either may not exist. Asked of the store once a transaction."""
        if tx is not self._tx:
            number = self._state(tx)[0]
            self._names = self._name(number), self._name(number - 1)
            self._tx = tx
        return self._names

    def advance(self, tx: Transaction, clock: int) -> None:
        """Rotate where the younger one has served for a span (both are old after two)."""
        number, started = self._state(tx)
        if not started:
            self._begin(tx, number, clock)
        elif clock >= started + self._span:
            if clock >= started + 2 * self._span:
                tx.drop(self._name(number))
            tx.drop(self._name(number - 1))
            self._begin(tx, number + 1, clock)

    def _name(self, number: int) -> str:
        return f"{self._prefix}/{number}"

    def _state(self, tx: Transaction) -> tuple[int, int]:
        """(number of the younger one, the clock at which it began; 0 before the first)."""
        value = tx.get(_META, self._meta_key)
        return (int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")) if value else (1, 0)

    def _begin(self, tx: Transaction, number: int, clock: int) -> None:
        self._tx = None
        tx.put(_META, self._meta_key, number.to_bytes(8, "big") + clock.to_bytes(8, "big"))
