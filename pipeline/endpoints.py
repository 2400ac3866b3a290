"""Where a running `mailecho up` listens: `<data dir>/run/endpoints.json`.

A JSON object with `kafka` (host:port), `clickhouse` and `api` (URLs), as `status --json` shows them.
Written when each part answers; what it names may have stopped since.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings


class NotRunning(RuntimeError):
    """No address is configured and no `mailecho up` runs on the data directory; the message says the way on."""


def run_dir(data_dir: Path) -> Path:
    """Where a running `mailecho up` keeps what others may read of it."""
    return data_dir / "run"


def write_atomically(file: Path, content: bytes) -> None:
    """Replace `file` in one step: a reader sees the old or the new content, never a part."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, file)


def write_endpoints(data_dir: Path, endpoints: dict[str, str]) -> None:
    """Publish the endpoints of this data directory."""
    directory = run_dir(data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "endpoints.json", orjson.dumps(endpoints, option=orjson.OPT_INDENT_2))


def read_endpoints(data_dir: Path) -> dict[str, str]:
    """The published endpoints; empty where none are, or where the file is none of ours."""
    try:
        value = orjson.loads((run_dir(data_dir) / "endpoints.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}


def kafka_bootstrap(settings: Settings) -> str:
    """host:port of the cluster: the setting, else that of `mailecho up`. Raises NotRunning."""
    return settings.kafka.bootstrap_servers or _published(settings, "kafka", "MAILECHO_KAFKA__BOOTSTRAP_SERVERS")


def api_url(settings: Settings) -> str:
    """The API's URL: that of `mailecho up` on the data directory, else host and port where they are set.

    Never a guess: whatever answers on a default port may hold another list. Raises NotRunning.
    """
    published = read_endpoints(settings.data_dir).get("api")
    if published:
        return published
    if not settings.api.model_fields_set & {"host", "port"}:
        return _published(settings, "api", "MAILECHO_API__HOST and MAILECHO_API__PORT")
    return f"http://{url_host(settings.api.host)}:{settings.api.port}"


def url_host(host: str) -> str:
    """The host part of a URL by which this machine reaches a server that binds to `host`."""
    if host in ("0.0.0.0", "::", ""):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _published(settings: Settings, name: str, variable: str) -> str:
    found = read_endpoints(settings.data_dir).get(name)
    if not found:
        raise NotRunning(
            f"no {name} address: nothing runs on {settings.data_dir}. "
            f"Start `mailecho up --data-dir {settings.data_dir}`, or set {variable}"
        )
    return found
