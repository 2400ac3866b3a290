-- The longer tiers: what a year and five years are compared by, once the minutes are gone.
--
-- Fed from events and not from the minutes, so that each rollup is compared with what it counts and a repeated
-- insert is dropped by the same token. Views count what is inserted after they were made: `mailecho migrate` says
-- so on a database that holds events, and `mailecho reconcile --repair` counts those.

-- The live view by the hour, for as long as campaigns are kept.
CREATE TABLE IF NOT EXISTS rollup_hour_provider
(
    received_on Date,
    hour DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String),
    provider LowCardinality(String),
    bounce UInt64 CODEC(ZSTD(1)),
    delay UInt64 CODEC(ZSTD(1)),
    delivery UInt64 CODEC(ZSTD(1)),
    injection UInt64 CODEC(ZSTD(1)),
    expiry UInt64 CODEC(ZSTD(1)),
    rejection UInt64 CODEC(ZSTD(1)),
    complaint UInt64 CODEC(ZSTD(1)),
    not_spam UInt64 CODEC(ZSTD(1)),
    unsubscribe UInt64 CODEC(ZSTD(1)),
    open UInt64 CODEC(ZSTD(1)),
    click UInt64 CODEC(ZSTD(1)),
    auth_report UInt64 CODEC(ZSTD(1)),
    auto_reply UInt64 CODEC(ZSTD(1)),
    challenge UInt64 CODEC(ZSTD(1)),
    read_receipt UInt64 CODEC(ZSTD(1)),
    quarantine_notice UInt64 CODEC(ZSTD(1)),
    backscatter UInt64 CODEC(ZSTD(1)),
    not_feedback UInt64 CODEC(ZSTD(1))
)
ENGINE = SummingMergeTree
PARTITION BY toStartOfMonth(received_on)
ORDER BY (tenant, provider, hour, received_on)
TTL received_on + INTERVAL 13 MONTH
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_hour_provider_view TO rollup_hour_provider AS
SELECT
    toDate(received_at) AS received_on,
    toDateTime(toStartOfHour(occurred_at), 'UTC') AS hour,
    tenant,
    provider,
    countIf(kind = 'bounce') AS bounce,
    countIf(kind = 'delay') AS delay,
    countIf(kind = 'delivery') AS delivery,
    countIf(kind = 'injection') AS injection,
    countIf(kind = 'expiry') AS expiry,
    countIf(kind = 'rejection') AS rejection,
    sumIf(incidents, kind = 'complaint') AS complaint,
    countIf(kind = 'not_spam') AS not_spam,
    countIf(kind = 'unsubscribe') AS unsubscribe,
    countIf(kind = 'open') AS open,
    countIf(kind = 'click') AS click,
    countIf(kind = 'auth_report') AS auth_report,
    countIf(kind = 'auto_reply') AS auto_reply,
    countIf(kind = 'challenge') AS challenge,
    countIf(kind = 'read_receipt') AS read_receipt,
    countIf(kind = 'quarantine_notice') AS quarantine_notice,
    countIf(kind = 'backscatter') AS backscatter,
    countIf(kind = 'not_feedback') AS not_feedback
FROM events
WHERE NOT echo
GROUP BY received_on, hour, tenant, provider;

-- Trends over years: who refuses which stream's mail, and why.
CREATE TABLE IF NOT EXISTS rollup_day
(
    received_on Date,
    day Date CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String),
    stream LowCardinality(String),
    provider LowCardinality(String),
    kind LowCardinality(String),
    cause LowCardinality(String),
    events UInt64 CODEC(ZSTD(1))
)
ENGINE = SummingMergeTree
PARTITION BY toStartOfMonth(received_on)
ORDER BY (tenant, stream, provider, kind, cause, day, received_on)
TTL received_on + INTERVAL 5 YEAR
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_day_view TO rollup_day AS
SELECT
    toDate(received_at) AS received_on,
    toDate(occurred_at) AS day,
    tenant,
    stream,
    provider,
    kind,
    cause,
    sum(if(kind = 'complaint', incidents, 1)) AS events
FROM events
WHERE NOT echo
GROUP BY received_on, day, tenant, stream, provider, kind, cause;
