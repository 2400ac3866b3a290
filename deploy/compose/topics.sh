#!/usr/bin/env bash
# Made by `python -m mailecho.pipeline.topics` from the topic registry; do not edit.
# Creates what is missing. `mailecho topics apply` does the same and also repairs settings that differ.
set -euo pipefail
: "${BOOTSTRAP:=127.0.0.1:9092}" "${PARTITIONS:=4}" "${REPLICATION_FACTOR:=1}"
PATH="$PATH:/opt/kafka/bin" # where the official image has them

topic() {
  kafka-topics.sh --bootstrap-server "$BOOTSTRAP" --create --if-not-exists \
    --replication-factor "$REPLICATION_FACTOR" --topic "$@"
}

# Bounces, delays and whatever else the bounce mailbox received
topic feedback.raw.dsn --partitions "$PARTITIONS" \
  --config cleanup.policy=delete \
  --config retention.ms=1036800000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=1114112 \
  --config message.timestamp.type=LogAppendTime

# Complaints (ARF) and whatever else the feedback-loop mailbox received
topic feedback.raw.arf --partitions "$PARTITIONS" \
  --config cleanup.policy=delete \
  --config retention.ms=1036800000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=1114112 \
  --config message.timestamp.type=LogAppendTime

# Delivery logs and webhooks
topic feedback.raw.delivery --partitions "$PARTITIONS" \
  --config cleanup.policy=delete \
  --config retention.ms=172800000 \
  --config segment.ms=43200000 \
  --config max.message.bytes=1114112 \
  --config message.timestamp.type=LogAppendTime

# Manual adds and releases, imports, markers
topic feedback.commands --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=1036800000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=1114112 \
  --config message.timestamp.type=LogAppendTime

# Classified events and commands, by recipient key
topic feedback.classified --partitions "$PARTITIONS" \
  --config cleanup.policy=delete \
  --config retention.ms=1900800000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=2097152 \
  --config message.timestamp.type=CreateTime

# Deduplicated events, one record for each record of classified
topic feedback.events --partitions "$PARTITIONS" \
  --config cleanup.policy=delete \
  --config retention.ms=604800000 \
  --config segment.ms=21600000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime

# The suppression list: the last record of a key is its entry
topic feedback.suppressions --partitions "$PARTITIONS" \
  --config cleanup.policy=compact \
  --config retention.ms=-1 \
  --config segment.ms=86400000 \
  --config max.message.bytes=1048576 \
  --config message.timestamp.type=CreateTime \
  --config min.compaction.lag.ms=3600000 \
  --config delete.retention.ms=2592000000

# What could not be read from feedback.raw.dsn
topic feedback.raw.dsn.dlq --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=2592000000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime

# What could not be read from feedback.raw.arf
topic feedback.raw.arf.dlq --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=2592000000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime

# What could not be read from feedback.raw.delivery
topic feedback.raw.delivery.dlq --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=2592000000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime

# What could not be read from feedback.commands
topic feedback.commands.dlq --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=2592000000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime

# What could not be read from feedback.classified
topic feedback.classified.dlq --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=2592000000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime

# Rows that ClickHouse refused
topic feedback.events.dlq --partitions 1 \
  --config cleanup.policy=delete \
  --config retention.ms=2592000000 \
  --config segment.ms=86400000 \
  --config max.message.bytes=8388608 \
  --config message.timestamp.type=CreateTime
