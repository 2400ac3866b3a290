"""The tally of a fault run: each row of the matrix, how often it was played, and how it ended."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

_PLAYED: dict[str, Counter[str]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Count what is played here, by row; a broken set-up counts as failed."""
    report = yield
    if item.get_closest_marker("faults") and (report.when == "call" or report.failed):
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        named = [str(value) for name, value in parameters.items() if name != "seed"]
        row = " ".join([getattr(item, "originalname", item.name).removeprefix("test_"), *named])
        _PLAYED.setdefault(row, Counter())[report.outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print it at the end."""
    if not _PLAYED:
        return
    terminalreporter.section("fault rows")
    for row, outcomes in _PLAYED.items():
        told = ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))
        terminalreporter.write_line(f"{row:<60} played {outcomes.total():>3}: {told}")
    total = sum(map(Counter.total, _PLAYED.values()))
    failed = sum(outcomes["failed"] for outcomes in _PLAYED.values())
    terminalreporter.write_line(f"{len(_PLAYED)} rows, {total} plays, {failed} failed")
