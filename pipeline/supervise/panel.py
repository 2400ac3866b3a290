"""What `mailecho up` shows: lines while it starts, then a panel on a terminal, or a line now and then."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

#: A person who watches wants to see it move; without a terminal one line now and then keeps a log readable.
PANEL_SECONDS = 2.0
LINE_SECONDS = 10.0


class View(Protocol):
    """Where `up` tells what happens. `seconds`: how often it shows counts, which all parts are asked for."""

    seconds: float

    def note(self, text: str) -> None:
        """Something happened."""

    def ready(self, endpoints: dict[str, str], hints: list[str]) -> None:
        """All parts run."""

    def show(self, status: dict[str, Any]) -> None:
        """The counts and processes now."""

    def close(self) -> None:
        """Nothing more is shown."""


class Lines:
    """For logs and pipes: a line for each thing that happens, and counts every LINE_SECONDS."""

    seconds = LINE_SECONDS

    def __init__(self, console: Console) -> None:
        self._console = console

    def note(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def ready(self, endpoints: dict[str, str], hints: list[str]) -> None:
        self.note("\n".join(_ready_lines(endpoints, hints)))

    def show(self, status: dict[str, Any]) -> None:
        self.note(counts_line(status))

    def close(self) -> None:
        """Nothing to undo."""


class Panel:
    """For people: a table of processes and counts that stays in place, messages above it."""

    seconds = PANEL_SECONDS

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._below: list[str] = []

    def note(self, text: str) -> None:
        self._console.print(Text(text))

    def ready(self, endpoints: dict[str, str], hints: list[str]) -> None:
        self._below = _ready_lines(endpoints, hints)
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def show(self, status: dict[str, Any]) -> None:
        if self._live is not None:
            below = Text("\n".join(self._below))
            shown = Group(process_table(status["processes"]), Text(counts_line(status)), below)
            self._live.update(shown, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def counts_line(status: dict[str, Any]) -> str:
    """The counts in one line; `?` for what cannot be had now."""
    parts = [f"{name} {_number(status[name])}" for name in ("raw", "classified", "events", "landed", "dead_letters")]
    suppressions = status["suppressions"]
    denied = None if suppressions is None else sum(suppressions.get(state, 0) for state in ("active", "held"))
    return "  ".join([*parts, f"suppressed {_number(denied)}", f"lag {_number(_sum(status['lag']))}"])


def process_table(processes: list[dict[str, Any]]) -> Table:
    """Name, state, pid and restarts of every process, and why the last one ended."""
    table = Table(box=None, pad_edge=False)
    for column in ("process", "state", "pid", "restarts", "last exit"):
        table.add_column(column, justify="right" if column in ("pid", "restarts") else "left")
    for process in processes:
        style = {"running": "green", "stopped": "dim", "starting": "dim"}.get(process["state"], "red")
        table.add_row(
            process["name"],
            Text(process["state"], style),
            str(process["pid"] or ""),
            str(process["restarts"]),
            Text(process.get("reason") or process.get("last_exit", "")),
        )
    return table


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _sum(lag: dict[str, int] | None) -> int | None:
    return None if lag is None else sum(lag.values())


def _ready_lines(endpoints: dict[str, str], hints: list[str]) -> list[str]:
    lines = ["", f"Mailecho runs: {endpoints['api']}/  (Ctrl-C stops it)"]
    lines += [f"  Kafka {endpoints['kafka']}   ClickHouse {endpoints['clickhouse']}"]
    return lines + (["", "Try:", *(f"  {hint}" for hint in hints)] if hints else [])
