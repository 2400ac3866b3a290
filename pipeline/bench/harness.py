"""What all benchmarks share: turns, the machine, the result as JSON and for people."""

from __future__ import annotations

import gc
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

#: Called with a word on what is being measured.
Progress = Callable[[str], None]


def silent(_what: str) -> None:
    """No progress."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a benchmark found. `unit` is one of which more is better; `runs` and `baseline_runs` are in it.

    `more` holds what else it measured, under the names of its own that end in their units (`p99_ms`).
    """

    name: str
    unit: str
    runs: list[float]
    baseline: str
    baseline_runs: list[float]
    more: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        median, base = statistics.median(self.runs), statistics.median(self.baseline_runs)
        return {
            "name": self.name,
            "unit": self.unit,
            "runs": [round(run, 1) for run in self.runs],
            "median": round(median, 1),
            "baseline": {
                "name": self.baseline,
                "runs": [round(run, 1) for run in self.baseline_runs],
                "median": round(base, 1),
            },
            "ratio": round(median / base, 2) if base else None,
            "machine": machine(),
            **self.more,
        }


def take_turns(runs: int, measures: Mapping[str, Callable[[], float]], progress: Progress) -> dict[str, list[float]]:
    """Each measure so many times, in turns that begin with another one each time.

    So a slow minute of the machine, or what one leaves behind for the next, meets all of them alike.
    """
    names = list(measures)
    found: dict[str, list[float]] = {name: [] for name in names}
    for run in range(runs):
        shift = run % len(names)
        for name in names[shift:] + names[:shift]:
            progress(f"run {run + 1} of {runs}: {name}")
            gc.collect()
            found[name].append(measures[name]())
    return found


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which a share (0 to 1) of sorted values lies; 0 where there are none."""
    return sorted_values[min(int(len(sorted_values) * share), len(sorted_values) - 1)] if sorted_values else 0.0


def machine() -> dict[str, Any]:
    """What it ran on, without names of hosts or people."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def readable(result: dict[str, Any]) -> list[tuple[str, str]]:
    """A result as lines of label and value."""
    base, unit = result["baseline"], result["unit"]
    lines = [
        (result["name"], f"{result['median']:,.0f} {unit} (median of {len(result['runs'])})"),
        (base["name"], f"{base['median']:,.0f} {unit}"),
        ("ratio", f"{result['ratio']}x"),
    ]
    known = {"name", "unit", "runs", "median", "baseline", "ratio", "machine"}
    for label, value in result.items():
        if label not in known:
            lines.append((label, _value(value)))
    host = result["machine"]
    lines.append(
        ("machine", f"{host['processor']}, {host['cores']} cores, load {host['load']}, Python {host['python']}")
    )
    return lines


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items() if not isinstance(inner, list))
    return f"{value:,}" if isinstance(value, int | float) else str(value)
