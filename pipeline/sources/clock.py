"""Times as logs and webhooks write them -> epoch milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - for times without an offset, which is added after
_MS = timedelta(milliseconds=1)
_MINUTE_MS = 60_000
_DAY_MS = 86_400_000

#: A number below it is seconds (it is the year 5138), one above it milliseconds (it is March 1973).
SECONDS_BELOW = 100_000_000_000

#: Years 1 to 9999, what a row can show.
_MIN_MS, _MAX_MS = -62_135_596_800_000, 253_402_300_799_999

_LEAP_SECOND = re.compile(r"(\d\d:\d\d):60(?!\d)")
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}


def instant_ms(value: str | int | float, utc_offset_minutes: int = 0) -> int:
    """Epoch milliseconds of RFC 3339, `YYYY-MM-DD hh:mm:ss[.mmm]`, epoch seconds or milliseconds.

    A text without an offset is in the zone `utc_offset_minutes`. A leap second counts as the second
    before it (RFC 3339 5.6 allows it). Raises ValueError.
    """
    if isinstance(value, str):
        if not 19 <= len(value) <= 40 or value[10] not in "T t":
            raise ValueError("not a time: use RFC 3339, as 2026-01-31T12:00:00.000Z, or epoch seconds")
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            when = datetime.fromisoformat(_LEAP_SECOND.sub(r"\1:59", value))
        if when.tzinfo is None:
            return (when - _NAIVE_EPOCH) // _MS - utc_offset_minutes * _MINUTE_MS
        return (when - _EPOCH) // _MS
    ms = int(value * 1000) if abs(value) < SECONDS_BELOW else int(value)
    if not _MIN_MS <= ms <= _MAX_MS:
        raise ValueError("not a time: the number is outside the years 1 to 9999")
    return ms


@lru_cache(maxsize=4096)
def _in_year(stamp: str, year: int) -> int | None:
    month, day, clock = stamp[:3], stamp[3:-8].strip(), stamp[-8:]
    hour, minute, second = clock.split(":")
    try:
        # a leap second counts as the second before it
        when = datetime(year, _MONTHS[month], int(day), int(hour), int(minute), min(int(second), 59))  # noqa: DTZ001
    except KeyError:
        raise ValueError(f"not a month: {month!r}") from None
    except ValueError:
        return None
    return (when - _NAIVE_EPOCH) // _MS


def syslog_ms(stamp: str, received_at_ms: int, utc_offset_minutes: int = 0) -> int:
    """Epoch milliseconds of a traditional syslog stamp, `Jan  2 03:04:05` (RFC 3164), which names no year.

    The year is the latest in which the time is not more than a day after `received_at_ms`. Raises
    ValueError.
    """
    year = (_EPOCH + timedelta(milliseconds=received_at_ms)).year
    # eight years back: 29 February may be that far (1896 to 1904, 2096 to 2104)
    for candidate in range(year + 1, year - 9, -1):
        if not 1 <= candidate <= 9999:
            continue
        ms = _in_year(stamp, candidate)
        if ms is not None and ms - utc_offset_minutes * _MINUTE_MS <= received_at_ms + _DAY_MS:
            return ms - utc_offset_minutes * _MINUTE_MS
    raise ValueError(f"not a time: {stamp!r}")
