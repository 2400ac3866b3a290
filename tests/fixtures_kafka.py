"""The real Apache Kafka broker, for tests."""
