"""Brings the tables to this release and to the settings: what `mailecho migrate` and the start of `mailecho up` do."""

from __future__ import annotations

from dataclasses import dataclass

from mailecho.pipeline.config import Settings
from mailecho.pipeline.landing.database import write_client
from mailecho.pipeline.landing.migrations import migrate
from mailecho.pipeline.landing.retention import apply_retention


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What was done: migrations by name, changes of retention, and how many events there were before a migration."""

    migrations: list[str]
    retention: list[str]
    events_before: int


def upgrade(settings: Settings) -> Upgraded:
    """Apply what is missing. Safe to run again. Raises DatabaseUnavailable, NotRunning, MigrationRefused."""
    client = write_client(settings)
    try:
        applied = migrate(client)
        changes = [str(change) for change in apply_retention(client, settings.retention)]
        held = int(client.query("SELECT count() FROM events").result_rows[0][0]) if applied else 0
    finally:
        client.close()
    return Upgraded(applied, changes, held)
