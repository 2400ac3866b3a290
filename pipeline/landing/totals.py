"""The cheap check that the rollups count every event: sums against sums, beside running inserts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from clickhouse_connect.driver.exceptions import ClickHouseError

from mailecho.pipeline import metrics
from mailecho.pipeline.endpoints import NotRunning
from mailecho.pipeline.landing.database import DatabaseUnavailable, write_client
from mailecho.pipeline.landing.reconcile import SETTLE_SECONDS, SETTLE_TURNS, Difference, counters_of, views

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from mailecho.pipeline.config import Settings

log = logging.getLogger(__name__)

#: What a difference calls the sum of all counters.
TOTAL = "total"


def compare_totals(client: Client, days: Iterable[str]) -> list[Difference]:
    """The rollups whose sum over a day of receipt (YYYY-MM-DD) is not the number of its events.

    Reads one narrow column of the day, so it costs little where `reconcile` counts everything again. Exact for a
    day into which nothing is inserted. While inserts run, sums only grow, so a rollup must lie between what it says
    before and after the events are counted: it hides a loss that is smaller than what came in meanwhile, until the
    day is over. Raises clickhouse_connect's errors.
    """
    found = []
    for rollup, _select in views(client):
        sums = " + ".join(f"sum(`{name}`)" for name in counters_of(client, rollup))
        for day in sorted(days):
            ours = f"SELECT toInt64({sums}) FROM `{rollup}` WHERE received_on = toDate('{day}')"
            theirs = (
                "SELECT toInt64(sum(if(kind = 'complaint', incidents, 1))) FROM events "
                f"WHERE toDate(received_at) = toDate('{day}') AND NOT echo"
            )
            before = _number(client, ours)
            events = _number(client, theirs)
            after = _number(client, ours)
            for _ in range(SETTLE_TURNS):
                if before <= events <= after:
                    break
                time.sleep(SETTLE_SECONDS)  # the view of an insert is written a moment after its table
                events = events if before <= events else _number(client, theirs)
                after = _number(client, ours)
            if not before <= events <= after:
                found.append(Difference(rollup, day, TOTAL, before if before > events else after, events))
    return found


class Watch(threading.Thread):
    """Compares the totals of today and yesterday every so often, shows the result as a metric, and logs a difference.

    A daemon: a check that ClickHouse does not answer holds up no stop. `ours` says whether this process is the one
    to look: one of the group is enough.
    """

    def __init__(self, settings: Settings, ours: Callable[[], bool]) -> None:
        super().__init__(name="rollup-check", daemon=True)
        self._settings = settings
        self._ours = ours
        self._ended = threading.Event()

    def stop(self) -> None:
        """Begin no further check."""
        self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(self._settings.lander.check_minutes * 60):
            if self._ours():
                try:
                    self._check()
                except (ClickHouseError, DatabaseUnavailable, NotRunning) as error:
                    log.warning("the rollups could not be compared with the events: %s", " ".join(str(error).split()))

    def _check(self) -> None:
        today = datetime.now(UTC).date()
        days = [f"{today - timedelta(days=1)}", f"{today}"]
        client = write_client(self._settings)
        try:
            differences = compare_totals(client, days)
            rollups = [rollup for rollup, _select in views(client)]
        finally:
            client.close()
        for rollup in rollups:
            off = sum(abs(d.rollup_says - d.events_say) for d in differences if d.rollup == rollup)
            metrics.ROLLUP_DIFFERENCE.labels(rollup).set(off)
        metrics.ROLLUPS_CHECKED.set_to_current_time()
        for d in differences:
            log.error(
                "%s counts %d of the events received on %s, and there are %d: `mailecho reconcile` shows which, "
                "`mailecho reconcile --repair` mends it",
                d.rollup,
                d.rollup_says,
                d.day,
                d.events_say,
            )


def _number(client: Client, sql: str) -> int:
    return int(client.query(sql).result_rows[0][0])
