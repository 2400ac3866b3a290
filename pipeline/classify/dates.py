"""Times in reports."""

from __future__ import annotations

import re
from datetime import date
from email.utils import mktime_tz, parsedate_tz

_RFC = re.compile(r"(?:[A-Za-z]{3},\s*)?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_NAMES, 1)}
_EPOCH = date(1970, 1, 1).toordinal()


def milliseconds(value: str) -> int | None:
    """Epoch milliseconds UTC of an RFC 5322 date, None where it is none. A missing zone is read as UTC."""
    if not value or len(value) > 200:
        return None
    try:
        found = _RFC.match(value)
        if found:  # as nearly all are written; parsedate_tz takes five times as long
            day, month, year, hour, minute, second, sign, zone_hour, zone_minute = found.groups()
            days = date(int(year), _MONTHS[month.lower()], int(day)).toordinal() - _EPOCH
            offset = (int(zone_hour) * 60 + int(zone_minute)) * (60 if sign == "+" else -60)
            return (days * 86_400 + int(hour) * 3600 + int(minute) * 60 + int(second) - offset) * 1000
        parsed = parsedate_tz(value)
        return mktime_tz(parsed) * 1000 if parsed is not None else None
    except (ValueError, TypeError, OverflowError, IndexError, KeyError):
        return None
