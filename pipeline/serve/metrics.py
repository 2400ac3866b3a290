"""The metrics of the serve role. No label holds an address, tenant or domain."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

# A single lookup takes tens of microseconds; whatever nears a millisecond waited for something.
_SINGLE_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05)
_BULK_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# Addresses asked for, by what was answered: allow, deny, deny_until, or bad_address.
DECISIONS = Counter("mailecho_lookup_decisions", "Addresses looked up", ["decision"])

# Requests by what was asked for and the class of the status (2xx, 4xx, 5xx).
REQUESTS = Counter("mailecho_api_requests", "HTTP requests answered", ["route", "status"])

# From the parsed request to the answer, inside the process: queueing in front of it is not in it.
SINGLE_SECONDS = Histogram("mailecho_lookup_seconds", "Time for a single lookup", buckets=_SINGLE_SECONDS)

# From the parsed body of a bulk check to its last byte: a slow reader is in it.
BULK_SECONDS = Histogram("mailecho_lookup_bulk_seconds", "Time for a bulk check", buckets=_BULK_SECONDS)

# 1 when the lookup has caught up since the start. 0 for longer than a minute needs a look at /readyz.
READY = Gauge("mailecho_lookup_ready", "Whether the lookup has caught up")

# Records of feedback.suppressions that are not in the map yet, as the last fetch saw it.
LAG = Gauge("mailecho_lookup_lag_records", "Records the lookup is behind")

# Grows while Kafka is out of reach: how old the answers may be.
AGE = Gauge("mailecho_lookup_age_seconds", "Seconds since the lookup was known to be up to date")

# What the follower did: applied, outdated (a lower version than the map had), rejected (no entry: a bug).
RECORDS = Gauge("mailecho_lookup_records", "Records of feedback.suppressions read since the start", ["result"])

# Entries in the map by state; watch, released and expired deny nothing.
ENTRIES = Gauge("mailecho_lookup_entries", "Entries of the suppression list", ["state"])
