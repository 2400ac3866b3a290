"""Fixtures for all tests: a real broker, a real engine, and what makes a skip in CI a failure."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# how long an example takes is no test: the machine may be busy
settings.register_profile("mailecho", deadline=None)
settings.load_profile("mailecho")

# helpers whose assertions say what differed
pytest.register_assert_rewrite("tests.agents.harness", "tests.faults.rig", "tests.faults.truth")

pytest_plugins = ["tests.fixtures_kafka", "tests.fixtures_clickhouse"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-full", action="store_true", help="the whole fault run, not the seeded selection")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long fault runs to `make faults`: they are deselected, not skipped."""
    if config.getoption("--faults-full"):
        return
    long = [item for item in items if any(mark.kwargs.get("full") for mark in item.iter_markers("faults"))]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """In CI, a test that needs Kafka or ClickHouse and was skipped has failed."""
    report = yield
    needs = [name for name in ("kafka", "clickhouse") if item.get_closest_marker(name)]
    if report.skipped and needs and os.environ.get("CI"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, but it needs {' and '.join(needs)}: {report.longrepr}"
    return report
