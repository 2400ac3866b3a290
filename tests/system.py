"""`mailecho up` as a user starts it, on a directory of its own, and the command line beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from mailecho.pipeline.endpoints import read_endpoints


class System:
    """`mailecho up` on one directory, and the command line beside it."""

    def __init__(self, base: Path) -> None:
        self.data = base / "data"
        self.out = base / "up.log"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MAILECHO_")}
        cache = {k: v for k, v in os.environ.items() if k == "MAILECHO_CACHE_DIR"}
        self.env = {**clean, **cache, "XDG_STATE_HOME": str(base / "state"), "NO_COLOR": "1"}
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *arguments: str, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "mailecho.pipeline.cli", *arguments]
        return subprocess.run(command, env={**self.env, **env}, input=stdin, capture_output=True, timeout=180)

    def spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that runs beside the test."""
        command = [sys.executable, "-m", "mailecho.pipeline.cli", *arguments]
        return subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ok(self, *arguments: str, stdin: bytes | None = None) -> str:
        ran = self.run(*arguments, stdin=stdin)
        assert ran.returncode == 0, ran.stderr.decode()
        return ran.stdout.decode()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.run("status", "--json").stdout)
        return found

    def processes(self) -> dict[str, dict[str, Any]]:
        listed = orjson.loads((self.data / "run" / "processes.json").read_bytes())
        return {process["name"]: process for process in listed}

    def start(self) -> None:
        command = [sys.executable, "-m", "mailecho.pipeline.cli", "up", "--data-dir", str(self.data), "--port", "0"]
        with self.out.open("ab") as out:
            self.process = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        until(lambda: "api" in read_endpoints(self.data) or self.ended())
        assert not self.ended(), self.out.read_text()

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self, number: int = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def pids(self) -> list[int]:
        return [process["pid"] for process in self.processes().values() if process["pid"]]

    def end(self) -> None:
        """Stop it if it runs."""
        if self.process is not None and not self.ended():
            self.stop()


def until(condition: Callable[[], Any], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)
