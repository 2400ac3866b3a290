"""The real ClickHouse engine, for tests."""
