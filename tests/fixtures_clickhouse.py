"""The real ClickHouse engine, for tests: the embedded process, started as `mailecho up` starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailecho.pipeline.config import ClickHouseSettings, Settings
from mailecho.pipeline.landing.database import CLICKHOUSE_DIR, TOKEN_FILE, read_client, write_client
from mailecho.pipeline.landing.migrations import migrate

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client


class EmbeddedClickHouse:
    """The embedded engine as a child process, on a directory that survives kill() and restart()."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.directory = data_dir / CLICKHOUSE_DIR
        self.url = ""
        self.process: subprocess.Popen[str] | None = None
        self._clients: list[Client] = []

    def start(self) -> None:
        """Start it, on the port that it had before; returns when it answers."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        port = self.url.rpartition(":")[2] or "0"
        errors = self.data_dir / "clickhouse.err"
        with errors.open("a") as err:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mailecho.pipeline.embedded.clickhouse"),
                    *("--directory", str(self.directory), "--port", port),
                ],
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        assert self.process.stdout is not None
        name, _, url = self.process.stdout.readline().strip().partition(" ")
        if name != "clickhouse":
            self.kill()
            pytest.fail(f"the engine did not start: {errors.read_text()}")
        self.url = url

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self, seconds: float = 10) -> int:
        """SIGTERM; gives the exit status."""
        return self._end(signal.SIGTERM, seconds)

    def restart(self) -> None:
        """kill -9, where it still runs, and start it again."""
        self.kill()
        self.start()

    @property
    def token(self) -> str:
        """The owner's password."""
        return (self.directory / TOKEN_FILE).read_text().strip()

    def settings(self, **overrides: object) -> Settings:
        """Settings that name this engine."""
        return Settings(
            data_dir=self.data_dir,
            clickhouse=ClickHouseSettings(url=self.url),
            **overrides,  # type: ignore[arg-type]
        )

    def write_client(self) -> Client:
        """The owner's client; closed with the fixture."""
        return self._opened(write_client(self.settings()))

    def read_client(self) -> Client:
        """A client without credential; closed with the fixture."""
        return self._opened(read_client(self.settings()))

    def close(self) -> None:
        """Close all clients and end the process."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.kill()

    def _opened(self, client: Client) -> Client:
        self._clients.append(client)
        return client

    def _end(self, number: signal.Signals, seconds: float = 10) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(seconds)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedClickHouse]:
    """A migrated embedded engine for one test module."""
    server = EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    try:
        migrate(server.write_client())
        yield server
    finally:
        server.close()


@pytest.fixture
def fresh_clickhouse(tmp_path: Path) -> Iterator[EmbeddedClickHouse]:
    """An embedded engine of a test's own, started and not migrated."""
    server = EmbeddedClickHouse(tmp_path)
    server.start()
    try:
        yield server
    finally:
        server.close()
