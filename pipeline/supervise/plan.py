"""Which children `mailecho up` runs, with which command and environment."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mailecho.pipeline.endpoints import run_dir, write_atomically
from mailecho.pipeline.supervise.child import Spec

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings


class PortTaken(RuntimeError):
    """Another process listens where the API should."""


def workers_each(partitions: int, cores: int | None = None) -> int:
    """How many classify and how many ledger processes: half of the cores each, no more than partitions."""
    return max(1, min(partitions, (cores or os.cpu_count() or 1) // 2))


def api_port(host: str, port: int) -> int:
    """The port for the API, a free one for 0. Raises PortTaken."""
    try:
        return _bind(host, port)
    except OSError as error:
        raise PortTaken(
            f"api.port: cannot listen on {host}:{port} ({error.strerror}). "
            "Name another with --port or MAILECHO_API__PORT; --port 0 takes a free one"
        ) from None


def stable_port(data_dir: Path, name: str) -> int:
    """A loopback port for an embedded part: the one it had before, if that is free."""
    file = run_dir(data_dir) / f"{name}.port"
    try:
        return _bind("127.0.0.1", int(file.read_text()))
    except (OSError, ValueError, OverflowError):
        port = _bind("127.0.0.1", 0)
        write_atomically(file, str(port).encode())
        return port


def _bind(host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # like the servers themselves: a port in TIME_WAIT is free, one that is listened on is not
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def environment(settings: Settings, kafka: str, clickhouse: str, port: int) -> dict[str, str]:
    """What every role is told: ours, with the addresses of this machine's parts."""
    return {
        **os.environ,
        "MAILECHO_DATA_DIR": str(settings.data_dir),
        "MAILECHO_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "MAILECHO_CLICKHOUSE__URL": clickhouse,
        "MAILECHO_API__PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }


def engine_spec(settings: Settings, port: int) -> Spec:
    """The embedded ClickHouse, on a loopback port."""
    module = "mailecho.pipeline.embedded.clickhouse"
    directory = str(settings.data_dir / "clickhouse")
    return Spec(
        name="clickhouse",
        command=[sys.executable, "-m", module, "--directory", directory, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        last=True,
    )


def role_specs(env: Mapping[str, str], workers: int) -> list[Spec]:
    """The roles of the pipeline, in the order in which they start: serve first, people look at it."""
    roles = [("serve", ["serve"]), ("lander", ["lander"])]
    roles += [(f"{role}-{i}", ["worker", role]) for role in ("ledger", "classify") for i in range(workers)]
    return [role_spec(name, arguments, env) for name, arguments in roles]


def role_spec(name: str, arguments: list[str], env: Mapping[str, str]) -> Spec:
    """One `mailecho …` command as a child; its name is its static group member."""
    command = [sys.executable, "-m", "mailecho.pipeline.cli", *arguments]
    return Spec(name=name, command=command, env={**env, "MAILECHO_INSTANCE": name})
