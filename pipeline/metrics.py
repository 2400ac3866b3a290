"""Every Prometheus metric of the workers and the lander; those of the API are in `serve.metrics`.

No label holds an address, and none grows with the data.

A worker binds its children once (`RECORDS.labels(topic)`), outside its loop: `labels` costs more
than `inc`.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram, start_http_server

#: From one fast fetch to a batch that nears the session timeout.
_SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Records that a role has read and finished, by topic.
RECORDS = Counter("mailecho_records", "Records read and finished", ["topic"])

# Events that classify made of raw records; over RECORDS of the raw topics it is events a record.
CLASSIFIED = Counter("mailecho_classified", "Events classified", ["kind"])

# Events that the ledger let through to feedback.events.
EVENTS = Counter("mailecho_events", "Events after deduplication")

# Events that the ledger had seen before. Its rate rises in a replay; a steady high rate is a producer that repeats.
DUPLICATES = Counter("mailecho_duplicates", "Events dropped as duplicates")

# Events received more than a window behind the fold's clock: anything but 0 needs a look.
LATE = Counter("mailecho_late", "Events too late to be deduplicated, dead-lettered")

# Commands that the ledger folded.
COMMANDS = Counter("mailecho_commands", "Commands applied", ["type"])

# Records or entries that could not be used, by the topic they were on and schemas.deadletter.Reason.
DEAD_LETTERS = Counter("mailecho_dead_letters", "Records sent to a dead-letter topic", ["topic", "reason"])

# Changes of the suppression list, by the state they lead to.
SUPPRESSION_CHANGES = Counter("mailecho_suppression_changes", "Changes sent to the suppression list", ["state"])

# From a fetched batch to its acknowledged outputs: near the session timeout, batches are too large.
BATCH_SECONDS = Histogram("mailecho_batch_seconds", "Time for one fetched batch", ["role"], buckets=_SECONDS)

# End of the partition minus what is done: the one number that says whether a role keeps up.
LAG = Gauge("mailecho_lag_records", "Records not yet done", ["topic", "partition"])

# 1 from the assignment until the ledger's store stands at the last emission.
CATCHING_UP = Gauge("mailecho_catching_up", "Partitions whose store is being brought up to date")

# Inserts of the lander; `repeated` are those of an intent found at start.
INSERTS = Counter("mailecho_inserts", "Inserts acknowledged by ClickHouse", ["table", "repeated"])

# Rows in them; over INSERTS it is the batch size, over time the landing rate.
ROWS = Counter("mailecho_rows", "Rows inserted", ["table"])

# Rows that ClickHouse refused: each is a dead letter of feedback.events.
ROWS_REJECTED = Counter("mailecho_rows_rejected", "Rows refused by ClickHouse")

# Seconds for one insert: above flush_seconds the backlog grows.
INSERT_SECONDS = Histogram("mailecho_insert_seconds", "Time for one insert", ["table"], buckets=_SECONDS)

# How far a rollup's sum over today and yesterday is from the number of events: anything but 0 needs a person.
ROLLUP_DIFFERENCE = Gauge("mailecho_rollup_difference", "Events that a rollup lacks or has too many", ["rollup"])

# When that was last looked at; it stands still where nobody looks.
ROLLUPS_CHECKED = Gauge("mailecho_rollups_checked_timestamp_seconds", "Last comparison of rollups with events")

# Tries that failed, ClickHouse being down or slow; the lander goes on trying.
INSERT_FAILURES = Counter("mailecho_insert_failures", "Inserts that failed and are tried again")


def serve_metrics(address: str | int | None) -> Callable[[], None] | None:
    """Serve /metrics on `address`: a port (then on loopback) or host:port; None, "" or 0 is off.

    Roles give it the environment's MAILECHO_METRICS_PORT. Metrics hold no addresses, so another
    host than loopback needs no token. Returns what stops it, or None. Raises ValueError for text
    that is no port, OSError where the port is taken.
    """
    host, _, port = str(address or 0).rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"MAILECHO_METRICS_PORT={address!r}: give a port like 9100, or host:port like 0.0.0.0:9100")
    if int(port) == 0:
        return None
    server, thread = start_http_server(int(port), host or "127.0.0.1")

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
