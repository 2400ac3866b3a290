"""Messages from files, directories, mailboxes and standard input; results as JSON lines."""

from __future__ import annotations

import itertools
import mailbox
import multiprocessing
import sys
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
    end), or "-" for standard input. A message of an mbox is named FILE:NUMBER. Raises OSError for a path
    that cannot be read.
    """
    for path in paths:
        if path == STDIN:
            yield STDIN, sys.stdin.buffer.read(MAX_FILE)
        else:
            yield from _walk(Path(path))


def _walk(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if not inner.name.startswith("."):
                yield from _walk(inner)
        return
    with path.open("rb") as file:
        if file.read(5) == b"From " and path.suffix.lower() not in ONE_MESSAGE and _is_mbox(path):
            yield from _mbox(path)
            return
        file.seek(0)
        yield str(path), file.read(MAX_FILE)


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


def _mbox(path: Path) -> Iterator[tuple[str, bytes]]:
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield f"{path}:{int(key) + 1}", box.get_bytes(key)
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


def classify_paths(paths: Iterable[str], processes: int = 1) -> Iterator[list[dict[str, Any]]]:
    """The output lines of each message under some paths, in their order, with so many processes."""
    items = iter_messages(paths)
    if processes <= 1:
        yield from map(classify_one, items)
        return
    context = multiprocessing.get_context("spawn")  # forking a process that has threads may deadlock
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting: deque[Future[list[list[dict[str, Any]]]]] = deque()
        while batch := list(itertools.islice(items, BATCH)):
            waiting.append(pool.submit(_classify_batch, batch))
            if len(waiting) > 2 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _classify_batch(items: list[tuple[str, bytes]]) -> list[list[dict[str, Any]]]:
    return [classify_one(item) for item in items]


def run_classify(paths: list[str], jsonl: bool, processes: int = 1) -> int:
    """Classify to standard output, streaming; 1 where a message could not be read, else 0.

    `jsonl` writes one JSON object a line, otherwise one readable line a finding. Standard error says where
    there was no message, or what looks like a log. A terminal on standard error
    sees how many messages are done. Raises OSError for a path that cannot be read.
    """
    failed = messages = 0
    logs: list[str] = []
    with _progress() as advance:
        for lines in classify_paths(paths, processes):
            messages += 1
            if lines and lines[0]["file"].lower().endswith(_LOGS):
                logs.append(lines[0]["file"])
            for line in lines:
                failed += line["kind"] == "error"
                text = orjson.dumps(line).decode() if jsonl else _readable(line)
                sys.stdout.write(text + "\n")
            advance()
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
def _progress() -> Iterator[Callable[[], None]]:
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} messages"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("classify", total=None)
        yield lambda: progress.advance(task)
