"""One `mailecho up` a data directory, and the list of those that this user runs.

The directory is claimed by flock on `run/up.lock`, which the kernel gives back however the holder
dies. Running ups are files in the user's state directory, each checked for life when it is read.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import psutil

from mailecho.pipeline.endpoints import run_dir, write_atomically


class Claimed(RuntimeError):
    """Another `mailecho up` runs on the directory."""


class Ambiguous(RuntimeError):
    """Several `mailecho up` run, and none was named."""


def registry_dir() -> Path:
    """Where this user's running ups are listed: XDG_STATE_HOME, else ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "mailecho" / "up"


@contextmanager
def claim(data_dir: Path) -> Iterator[None]:
    """Hold the directory and be listed as running. Raises Claimed where another `up` holds it."""
    directory = run_dir(data_dir)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            raise Claimed(
                f"another `mailecho up`{f' (pid {holder})' if holder else ''} already runs on {data_dir}. "
                "Stop it, or name another directory with --data-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        entry = registry_dir() / f"{os.getpid()}.json"
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, orjson.dumps({"data_dir": str(data_dir), "created": psutil.Process().create_time()}))
        try:
            yield
        finally:
            entry.unlink(missing_ok=True)


def running() -> list[Path]:
    """The data directories of this user's running ups. Entries of dead ones are removed."""
    found: list[Path] = []
    for entry in sorted(registry_dir().glob("[0-9]*.json")):
        with suppress(OSError, ValueError, KeyError, psutil.AccessDenied):
            value = orjson.loads(entry.read_bytes())
            if _lives(int(entry.stem), float(value["created"])):
                found.append(Path(value["data_dir"]))
                continue
            entry.unlink(missing_ok=True)
    return found


def the_running_one() -> Path | None:
    """The data directory of the one running `up`; None where none runs. Raises Ambiguous."""
    found = running()
    if len(found) > 1:
        listed = ", ".join(str(path) for path in found)
        raise Ambiguous(f"several `mailecho up` run: {listed}. Name one with --data-dir")
    return found[0] if found else None


def _lives(pid: int, created: float) -> bool:
    """Whether that very process still runs: a pid may belong to another one by now."""
    try:
        # a second of tolerance: the start time is derived from the boot time, which clocks adjust
        return abs(psutil.Process(pid).create_time() - created) < 1.0
    except psutil.NoSuchProcess:
        return False
