"""The HTTP API and the status page: answers from the lookup, never from Kafka or ClickHouse."""
