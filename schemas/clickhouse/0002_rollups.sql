-- What plots and alerts read: counts by the time at which things happened, fed by views of events.
--
-- A report of our own MTA about a mail whose log we read (echo) is evidence and not a second bounce,
-- so it is left out; a complaint counts as often as its report says that it was made (incidents).
--
-- received_on is in every key, though nobody groups by it. Content may date an event 400 days back,
-- so partitions by occurred_at could exceed the 100 that one insert may touch, and a TTL on it would
-- delete such rows as they arrive. By the day of receipt an insert touches one or two partitions, a
-- rollup loses its days whole as events does, and `mailecho reconcile` compares them day by day.
-- The price is a second row for what is reported after midnight.
--
-- Summing twice what one insert brought is what the tokens and the window of every table here prevent.

-- The live view: a counter for each kind, so that a minute of a provider is one row.
CREATE TABLE IF NOT EXISTS rollup_minute_provider
(
    received_on Date,
    minute DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
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
PARTITION BY received_on
ORDER BY (tenant, provider, minute, received_on)
TTL received_on + INTERVAL 14 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_minute_provider_view TO rollup_minute_provider AS
SELECT
    toDate(received_at) AS received_on,
    toDateTime(toStartOfMinute(occurred_at), 'UTC') AS minute,
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
GROUP BY received_on, minute, tenant, provider;

-- Which sending IP is refused where, and why: what a blocklist or a throttle shows up in first.
CREATE TABLE IF NOT EXISTS rollup_minute_ip_cause
(
    received_on Date,
    minute DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String),
    sending_ip LowCardinality(String),
    provider LowCardinality(String),
    kind LowCardinality(String),
    cause LowCardinality(String),
    events UInt64 CODEC(ZSTD(1))
)
ENGINE = SummingMergeTree
PARTITION BY received_on
ORDER BY (tenant, sending_ip, minute, provider, kind, cause, received_on)
TTL received_on + INTERVAL 14 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_minute_ip_cause_view TO rollup_minute_ip_cause AS
SELECT
    toDate(received_at) AS received_on,
    toDateTime(toStartOfMinute(occurred_at), 'UTC') AS minute,
    tenant,
    sending_ip,
    provider,
    kind,
    cause,
    sum(if(kind = 'complaint', incidents, 1)) AS events
FROM events
WHERE NOT echo
GROUP BY received_on, minute, tenant, sending_ip, provider, kind, cause;

-- The full key, for questions that the narrow ones cannot answer, as long as events are kept.
CREATE TABLE IF NOT EXISTS rollup_quarter
(
    received_on Date,
    quarter DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String),
    stream LowCardinality(String),
    campaign LowCardinality(String),
    provider LowCardinality(String),
    mail_from_domain LowCardinality(String),
    sending_ip LowCardinality(String),
    kind LowCardinality(String),
    cause LowCardinality(String),
    events UInt64 CODEC(ZSTD(1))
)
ENGINE = SummingMergeTree
PARTITION BY received_on
ORDER BY (tenant, stream, campaign, provider, mail_from_domain, sending_ip, kind, cause, quarter, received_on)
TTL received_on + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_quarter_view TO rollup_quarter AS
SELECT
    toDate(received_at) AS received_on,
    toDateTime(toStartOfFifteenMinutes(occurred_at), 'UTC') AS quarter,
    tenant,
    stream,
    campaign,
    provider,
    mail_from_domain,
    sending_ip,
    kind,
    cause,
    sum(if(kind = 'complaint', incidents, 1)) AS events
FROM events
WHERE NOT echo
GROUP BY received_on, quarter, tenant, stream, campaign, provider, mail_from_domain, sending_ip, kind, cause;

-- Campaigns over a year and a month: the same month of last year stands beside this one's.
CREATE TABLE IF NOT EXISTS rollup_hour_campaign
(
    received_on Date,
    hour DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    tenant LowCardinality(String),
    stream LowCardinality(String),
    campaign LowCardinality(String),
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
ORDER BY (tenant, stream, campaign, hour, received_on)
TTL received_on + INTERVAL 13 MONTH
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_hour_campaign_view TO rollup_hour_campaign AS
SELECT
    toDate(received_at) AS received_on,
    toDateTime(toStartOfHour(occurred_at), 'UTC') AS hour,
    tenant,
    stream,
    campaign,
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
GROUP BY received_on, hour, tenant, stream, campaign;
