"""The numbered migrations of ClickHouse; `pipeline.landing.migrations` applies them."""
