"""How long the tables keep their days: the settings, brought to ClickHouse by ALTER … MODIFY TTL."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailecho.pipeline.config import RetentionSettings

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

log = logging.getLogger(__name__)

#: Table: what its age is counted from, the setting, the setting's unit.
_TTLS = {
    "events": ("toDateTime(received_at)", "events_days", "Day"),
    "rollup_quarter": ("received_on", "events_days", "Day"),
    "rollup_minute_provider": ("received_on", "minute_days", "Day"),
    "rollup_minute_ip_cause": ("received_on", "minute_days", "Day"),
    "rollup_hour_campaign": ("received_on", "hour_months", "Month"),
    "rollup_hour_provider": ("received_on", "hour_months", "Month"),
    "rollup_day": ("received_on", "day_years", "Year"),
}
_TTL = re.compile(r" TTL (.+?)(?: SETTINGS |$)")
#: What the migrations and this module write; anything else is an operator's (a move to another disk).
_OURS = re.compile(r"[\w()]+ \+ toInterval(Day|Month|Year)\(\d+\)")


@dataclass(frozen=True, slots=True)
class Change:
    """A table whose TTL is not what the settings say. `old` is "" where it has none."""

    table: str
    setting: str
    old: str
    new: str

    @property
    def foreign(self) -> bool:
        """Whether somebody gave it another kind of TTL, which is left as it is."""
        return bool(self.old) and _OURS.fullmatch(self.old) is None

    def __str__(self) -> str:
        if self.foreign:
            return f"{self.table}: TTL {self.old} is not ours and is left (retention.{self.setting} says {self.new})"
        return f"{self.table}: TTL {self.old or 'none'} -> {self.new} (retention.{self.setting})"


def differing(client: Client, retention: RetentionSettings) -> list[Change]:
    """The tables whose TTL differs from the settings; nothing is changed."""
    rows = client.query("SELECT name, engine_full FROM system.tables WHERE database = currentDatabase()").result_rows
    engines = {str(name): str(engine) for name, engine in rows}
    changes = []
    for table, (since, setting, unit) in _TTLS.items():
        found = _TTL.search(engines.get(table, ""))
        have = found[1] if found else ""
        wanted = f"{since} + toInterval{unit}({getattr(retention, setting)})"
        if table in engines and have != wanted:
            changes.append(Change(table, setting, have, wanted))
    return changes


def apply_retention(client: Client, retention: RetentionSettings) -> list[Change]:
    """Alter what differs, and give and log it; a second call changes nothing.

    Days that are older than a shortened limit are dropped by ClickHouse's merges soon after.
    """
    changes = differing(client, retention)
    for change in changes:
        if not change.foreign:
            client.command(f"ALTER TABLE `{change.table}` MODIFY TTL {change.new}")
        log.warning("retention: %s", change)
    return changes
