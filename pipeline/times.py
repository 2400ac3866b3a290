"""Times: epoch milliseconds inside, `YYYY-MM-DD hh:mm:ss.mmm` UTC in rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - row times carry no offset: they are UTC
_MS = timedelta(milliseconds=1)

DAY_MS = 86_400_000

#: Content older than this, or more than a day ahead of its arrival, tells no time (DESIGN 2, point 5).
OLDEST_MS = 400 * DAY_MS
AHEAD_MS = DAY_MS


def row_time(ms: int) -> str:
    """Epoch milliseconds as a row's time. Raises OverflowError outside the years 1 to 9999."""
    return f"{_second(ms // 1000)}{ms % 1000:03d}"


def row_ms(text: str) -> int:
    """A row's time as epoch milliseconds. Raises ValueError for text that is none."""
    if len(text) == 23 and text[19] == ".":
        fraction = text[20:]
        if fraction.isdecimal() and fraction.isascii():
            return _second_ms(text[:19]) + int(fraction)
    return (datetime.fromisoformat(text) - _NAIVE_EPOCH) // _MS


@lru_cache(maxsize=16_384)
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat(" ")[:19] + "."


@lru_cache(maxsize=16_384)
def _second_ms(text: str) -> int:
    return (datetime.fromisoformat(text) - _NAIVE_EPOCH) // _MS


def plausible(occurred_ms: int | None, received_ms: int) -> bool:
    """Whether a time from the content can be believed, given when the record was appended."""
    return occurred_ms is not None and received_ms - OLDEST_MS <= occurred_ms <= received_ms + AHEAD_MS
