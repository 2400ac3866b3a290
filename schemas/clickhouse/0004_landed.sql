-- One row a range [s, e) of a topic's partition that the lander has brought in: the ledger against
-- which it compares its committed offsets at start, and the place of the counts landed and rejected.
-- Kept for ever: the highest e of every partition is needed, and a range a second is small.
CREATE TABLE IF NOT EXISTS landed
(
    topic LowCardinality(String),
    partition UInt32 CODEC(ZSTD(1)),
    s Int64 CODEC(Delta(8), ZSTD(1)),
    e Int64 CODEC(Delta(8), ZSTD(1)),
    rows UInt64 CODEC(ZSTD(1)),
    changes UInt64 CODEC(ZSTD(1)),
    rejected UInt64 CODEC(ZSTD(1)),
    duplicates_dropped UInt64 CODEC(ZSTD(1)),
    bytes UInt64 CODEC(ZSTD(1)),
    -- emission numbers: the last one landed before the range, and the last one in it
    watermark_before Int64 CODEC(Delta(8), ZSTD(1)),
    watermark_after Int64 CODEC(Delta(8), ZSTD(1)),
    -- of record s; part of the token, so that a recreated topic cannot repeat it
    first_timestamp DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
    token String CODEC(ZSTD(1)),
    landed_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(Delta(8), ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (topic, partition, s)
SETTINGS non_replicated_deduplication_window = 10000;
