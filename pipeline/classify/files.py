"""Messages from files, directories, mailboxes and standard input; results as JSON lines."""

from __future__ import annotations

import itertools
import mailbox
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from mailecho.pipeline.classify.report import classify_message
from mailecho.pipeline.finding import Finding, Unreadable

#: Larger files are read up to this; what is read of a message is less (message/scan.py).
MAX_FILE = 64 * 1024 * 1024

#: From so many bytes on, reading in several processes wins more than starting them costs.
MANY_BYTES = 16 * 1024 * 1024

#: Messages that one process is given at a time: enough to hide the hand-over, few enough to stream.
BATCH = 64

#: Files of these names hold one message, whatever lines of it begin with "From ".
ONE_MESSAGE = (".eml", ".msg")

STDIN = "-"

#: Names that `mailecho intake` takes for logs and webhooks.
_LOGS = (".log", ".jsonl", ".ndjson", ".json")


def iter_messages(paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each message under some paths, sorted.

    A path is a file with one message, an mbox (it begins with "From "), a maildir, a directory (searched to its
    end), or "-" for standard input, a message or an mbox. A message of an mbox is named FILE:NUMBER. Raises OSError
    for a path that cannot be read.
    """
    for path in paths:
        if path == STDIN:
            with tempfile.NamedTemporaryFile(prefix="mailecho-") as copy:  # an mbox is read by seeking in it
                shutil.copyfileobj(sys.stdin.buffer, copy)
                copy.flush()
                yield from _read(Path(copy.name), STDIN)
        else:
            for file in _files(Path(path)):
                yield from _read(file, str(file))


def bytes_of(paths: Iterable[str]) -> int | None:
    """The size of what iter_messages would read, None where standard input is among it. Raises OSError."""
    paths = list(paths)
    if STDIN in paths:
        return None
    return sum(file.stat().st_size for path in paths for file in _files(Path(path)))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for inner in sorted(path.iterdir()):
        if not inner.name.startswith("."):
            yield from _files(inner)


def _read(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        if file.read(5) == b"From " and path.suffix.lower() not in ONE_MESSAGE and _is_mbox(path):
            yield from _mbox(path, name)
            return
        file.seek(0)
        yield name, file.read(MAX_FILE)


def _is_mbox(path: Path) -> bool:
    """More than one message: a single one with an mbox separator is a message like any other."""
    separators, blank = 0, True
    with path.open("rb") as file:
        for line in file:
            if blank and line.startswith(b"From "):
                separators += 1
                if separators > 1:
                    return True
            blank = not line.strip()
    return False


def _mbox(path: Path, name: str) -> Iterator[tuple[str, bytes]]:
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield f"{name}:{int(key) + 1}", box.get_bytes(key)
    finally:
        box.close()


def jsonl_lines(file: str, findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """The output lines of one message: one object a finding, the fields of `mailecho classify --jsonl`."""
    return [
        {
            "file": file,
            "kind": f.kind.value,
            "recipient": f.recipient or None,
            "status": f.status or None,
            "smtp_code": f.smtp_code or None,
            "action": f.action or None,
            "permanence": f.permanence.value,
            "cause": f.cause.value if f.cause else None,
            "cause_detail": f.cause_detail or None,
            "confidence": f.confidence,
            "rule_id": f.rule_id or None,
            "feedback_type": f.feedback_type or None,
            "message_id": f.message_id or None,
            "reporting_mta": f.source_host or None,
            "remote_mta": f.remote_host or None,
            "diagnostic": f.diagnostic or None,
        }
        for f in findings
    ]


def classify_one(item: tuple[str, bytes]) -> list[dict[str, Any]]:
    """The output lines of one message; one line of kind `error` with its `reason` where it cannot be read."""
    name, raw = item
    try:
        return jsonl_lines(name, classify_message(raw))
    except Unreadable as error:
        return [{"file": name, "kind": "error", "reason": error.reason, "detail": str(error)}]


def processes_for(size: int | None) -> int:
    """How many processes an input of so many bytes is worth: one (also of unknown size), or one a core we may use."""
    return 1 if size is None or size < MANY_BYTES else len(os.sched_getaffinity(0))


def classify_paths(paths: Iterable[str], processes: int = 1) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """For each message under some paths its output lines and its size in bytes, in order, by so many processes."""
    items = iter_messages(paths)
    if processes <= 1:
        yield from ((classify_one(item), len(item[1])) for item in items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads may deadlock
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting: deque[Future[list[tuple[list[dict[str, Any]], int]]]] = deque()
        while batch := list(itertools.islice(items, BATCH)):
            waiting.append(pool.submit(_classify_batch, batch))
            if len(waiting) > 2 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _classify_batch(items: list[tuple[str, bytes]]) -> list[tuple[list[dict[str, Any]], int]]:
    return [(classify_one(item), len(item[1])) for item in items]


def run_classify(paths: list[str], jsonl: bool, processes: int | None = None) -> int:
    """Classify to standard output, streaming; 1 where a message could not be read, else 0.

    `jsonl` writes one JSON object a line, otherwise one readable line a finding. Without `processes` a large input
    is read by as many as there are cores. Standard error says where there was no message, or what looks like a log. A
    terminal on standard error sees how much is done. Raises OSError for a path that cannot be read.
    """
    failed = messages = 0
    logs: list[str] = []
    size = bytes_of(paths)
    with _progress(size) as advance:
        for lines, read in classify_paths(paths, processes or processes_for(size)):
            messages += 1
            if lines and lines[0]["file"].lower().endswith(_LOGS):
                logs.append(lines[0]["file"])
            for line in lines:
                failed += line["kind"] == "error"
                text = orjson.dumps(line).decode() if jsonl else _readable(line)
                sys.stdout.write(text + "\n")
            advance(read)
    sys.stdout.flush()
    if not messages:
        sys.stderr.write("no message found\n")
    if logs:
        others = f" and {len(logs) - 1:,} more" if len(logs) > 1 else ""
        sys.stderr.write(f"{logs[0]}{others}: read as mail; logs are read by `mailecho intake files`\n")
    return 1 if failed else 0


def _readable(line: dict[str, Any]) -> str:
    if line["kind"] == "error":
        return f"{line['file']}: error: {line['detail']}"
    words = (f"{name}={line[name]}" for name in ("recipient", "status", "cause", "cause_detail", "permanence"))
    return " ".join((f"{line['file']}: {line['kind']}", *(word for word in words if not word.endswith("=None"))))


@contextmanager
def _progress(size: int | None) -> Iterator[Callable[[int], None]]:
    """Takes the bytes of each message that is done; the bar needs the size of all of them."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    count = TextColumn("{task.fields[messages]:,} messages")
    known = (BarColumn(), count, TimeRemainingColumn()) if size else (SpinnerColumn(), count, TimeElapsedColumn())
    with Progress(*known, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("classify", total=size or None, messages=0)
        done = itertools.count(1)
        yield lambda read: progress.update(task, advance=read, messages=next(done))
