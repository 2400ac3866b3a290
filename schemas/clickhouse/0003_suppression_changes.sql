-- One row a change of the suppression list: why an address is suppressed, and since when it was not.
-- Holds keys and domains, never an address. `version` is the offset in feedback.classified, of
-- `partition`, of the record that caused the change. Never expires: a removal must be provable for
-- as long as the list exists, and changes are few beside events.
CREATE TABLE IF NOT EXISTS suppression_changes
(
    time DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    scope LowCardinality(String),
    scope_id LowCardinality(String),
    subject LowCardinality(String),
    subject_key String CODEC(ZSTD(1)),
    domain LowCardinality(String),
    state LowCardinality(String),
    reason LowCardinality(String),
    cause LowCardinality(String),
    created DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    expires DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    source LowCardinality(String),
    actor LowCardinality(String),
    policy LowCardinality(String),
    version UInt64 CODEC(Delta(8), ZSTD(1)),
    partition UInt32 CODEC(ZSTD(1)),
    evidence_count UInt32 CODEC(ZSTD(1)),
    evidence_ids Array(UUID) CODEC(ZSTD(1)),
    INDEX by_time time TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toStartOfMonth(time)
ORDER BY (subject_key, scope, scope_id, version)
SETTINGS non_replicated_deduplication_window = 10000;
