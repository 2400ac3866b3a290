"""A whole system of its own for a benchmark: `mailecho up` on a directory that is removed afterwards.

What is measured of it is read from /proc: processor time and anonymous memory of each process, the broker and
ClickHouse among them. Settings in the environment hold for it, but for those that would lead it to another system.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson
import psutil

from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import read_endpoints, run_dir
from mailecho.pipeline.supervise import guard

#: A cold machine downloads the broker first.
START_SECONDS = 300.0
STOP_SECONDS = 30.0

#: These name another system's places, or would make every question need a password.
_ELSEWHERE = (
    "MAILECHO_CONFIG",
    "MAILECHO_DATA_DIR",
    "MAILECHO_KAFKA__BOOTSTRAP_SERVERS",
    "MAILECHO_CLICKHOUSE__URL",
    "MAILECHO_API__",
    "MAILECHO_IDENTITY_KEY",
    "MAILECHO_INSTANCE",
    "MAILECHO_SENTRY__",
)


class SystemFailed(RuntimeError):
    """The system of the benchmark did not start, or did not do its work; the message has its last words."""


class System:
    """A running system. `settings` lead any client of ours to it."""

    def __init__(self, directory: Path, up: subprocess.Popen[bytes]) -> None:
        self.directory = directory
        self._up = up
        self.endpoints = read_endpoints(directory)
        self.settings = Settings(data_dir=directory)

    def processes(self) -> dict[str, int]:
        """Process ids by name, those that run; `up` is the supervisor."""
        listed = orjson.loads((run_dir(self.directory) / "processes.json").read_bytes())
        return {"up": self._up.pid} | {process["name"]: process["pid"] for process in listed if process["pid"]}

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each process has used so far, all its threads."""
        return {name: _cpu_seconds(pid) for name, pid in self.processes().items()}

    def memory_mb(self) -> dict[str, float]:
        """Anonymous memory of each process: mapped pages (LMDB's, jars) come and go with the page cache."""
        return {name: _anonymous_mb(pid) for name, pid in self.processes().items()}


@contextmanager
def whole_system(prefix: str = "mailecho-bench-") -> Iterator[System]:
    """A system that is ready; stopped and removed on leaving, and killed with this process. Raises SystemFailed."""
    with tempfile.TemporaryDirectory(prefix=prefix) as base:
        data, said = Path(base, "data"), Path(base, "up.log")
        # a supervisor that is not found by commands of this user, which look for the one that runs
        env = {n: v for n, v in os.environ.items() if not n.startswith(_ELSEWHERE)} | {"XDG_STATE_HOME": base}
        arguments = ["-m", "mailecho.pipeline.cli", "up", "--data-dir", str(data), "--port", "0"]
        with said.open("wb") as out:
            command = guard.command([sys.executable, *arguments])
            up = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        try:
            deadline = time.monotonic() + START_SECONDS
            while "api" not in read_endpoints(data):
                if up.poll() is not None or time.monotonic() > deadline:
                    words = " | ".join(said.read_text(errors="replace").splitlines()[-5:])
                    raise SystemFailed(f"the system of the benchmark did not start: {words}")
                time.sleep(0.1)
            yield System(data, up)
        finally:
            up.send_signal(signal.SIGINT)
            try:
                up.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                up.kill()
                up.wait()


def percent_of_a_core(before: Mapping[str, float], after: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Processor time between two looks, in per cent of one core, by process; of those that lived all the time."""
    return {name: round(100 * (used - before[name]) / seconds, 1) for name, used in after.items() if name in before}


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _anonymous_mb(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass
    return float(psutil.Process(pid).memory_info().rss) / 1024**2
