"""chDB behind threads: one writer, readers beside it, a fresh handle for every statement.

One process owns a chDB directory; within it any number of handles may work at once. Each statement
gets a handle of its own (0.2 ms): session settings, the current database and `readonly` cannot leak
from one request into the next, and neither can output (a failed query's rows came out with the next
result of the same handle when this was tried).

Inserts go through `send_insert`, which takes statement and data apart. The plain `query` does not:
it ends an insert's data at an empty line and runs what follows as a statement, so that an empty line
between two rows of mail would be SQL.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import orjson

from mailecho.pipeline.embedded.clickhouse_errors import QueryFailed, access_denied, refused
from mailecho.pipeline.embedded.clickhouse_guard import FUNCTIONS_SQL, TABLE_FUNCTIONS_SQL, Guard
from mailecho.pipeline.embedded.clickhouse_insert import Insert

MIB = 1024 * 1024

#: All of the engine's allocations. A batch of 50,000 events takes about 300 MB with its views, and
#: what two of the owner's statements and four readers may take (below) fits beside it.
SERVER_MEMORY = 3072 * MIB
#: The default mark cache may grow to 5 GiB; Mailecho's marks of 90 days take tens of MB.
MARK_CACHE = 64 * MIB

#: A slow statement holds a thread. The owner's reads have threads of their own, so that no reader
#: can keep the lander from asking what has landed.
READERS = 4
OWNER_READERS = 2
#: Waiting statements hold their text: refuse beyond this, as a server does (max_concurrent_queries).
MAX_WAITING = 100

LOCK_FILE = "mailecho.lock"

_RUNNING_INSERT = "SELECT query_id FROM system.processes WHERE query_kind = 'Insert' LIMIT 1"
_ERRORS_OF = (
    "SELECT code, name, replaceRegexpAll(last_error_message, '\\\\s+', ' ') "
    "FROM system.errors WHERE query_id = '{}' AND query_id != ''"
)


class DirectoryInUse(RuntimeError):
    """Another process owns the chDB directory; the message names it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Most that one statement may take; a request's settings can only lower these."""

    max_execution_time: int  # seconds
    max_result_rows: int  # 0: any number
    max_result_bytes: int  # the result is held in memory before it is sent
    max_memory_usage: int
    max_threads: int

    def settings(self, asked: Mapping[str, str]) -> dict[str, str]:
        """The limits as settings, each lowered to what was asked for."""
        out = {}
        for name in self.__slots__:
            limit = getattr(self, name)
            wanted = asked.get(name, "")
            if wanted.isdigit() and int(wanted) > 0 and (limit == 0 or int(wanted) < limit):
                limit = int(wanted)
            out[name] = str(limit)
        # spill to disk instead of failing, at half of what is allowed
        spill = str(int(out["max_memory_usage"]) // 2)
        return out | {"max_bytes_before_external_group_by": spill, "max_bytes_before_external_sort": spill}


#: A page of a dashboard or an analyst's question; larger extracts are for the owner, or for a server.
READER = Limits(60, 1_000_000, 64 * MIB, 384 * MIB, 2)
#: Verification reads all ids of a day; beyond this, read in slices.
OWNER = Limits(600, 0, 256 * MIB, 1024 * MIB, 0)

#: Settings that a reader may set: how results look. All others are the owner's.
_READER_SETTING = re.compile(
    r"output_format_\w+|date_time_output_format|session_timezone|join_use_nulls|result_overflow_mode"
    r"|max_execution_time|max_result_rows|max_result_bytes|max_memory_usage|max_threads|max_block_size"
    r"|max_rows_to_read|max_bytes_to_read|limit|offset|extremes|group_by_use_nulls"
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_NATIVE = re.compile(r"\bFORMAT\s+Native\s*;?\s*$", re.IGNORECASE)
_EXPLAIN = "EXPLAIN AST "
_POSITION = re.compile(r"(failed at position |\(line 1, col )(\d+)")

#: As on a server, and not as chDB presets them for a local tool.
_SERVER_LIKE = {"implicit_select": "0", "allow_introspection_functions": "0"}


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a request. `params` are values in ClickHouse's escaped form, as in the URL."""

    sql: str
    database: str = ""
    format: str = "TabSeparated"
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What a statement gave. Rows and bytes are those that the engine counted."""

    body: bytes = b""
    rows: int = 0
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    returns_rows: bool = True


T = TypeVar("T")


class Engine:
    """The one owner of a chDB directory. Its methods block: call them through `submit`."""

    def __init__(self, directory: Path) -> None:
        """Open or create the directory. Raises DirectoryInUse and OSError."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if "?" in str(directory):
            raise OSError(f"data directory {str(directory)!r}: chDB reads what follows a '?' as options")
        self._lock = _lock(directory)
        # before the import: the engine's time zone is the process's
        os.environ["TZ"] = "UTC"
        time.tzset()
        # chDB's package wraps this module and leaves out its classifier
        chdb: Any = import_module("chdb._chdb")
        # else the engine takes SIGTERM and SIGINT for itself
        chdb.set_signal_handlers_enabled(0)
        self._connect = chdb.connect
        self._target = f"{directory.resolve()}?max_server_memory_usage={SERVER_MEMORY}&mark_cache_size={MARK_CACHE}"
        self._anchor = self._connect(self._target)  # while it is open, the engine is
        self.version = self._text("SELECT version()").strip()
        self._guard = Guard(self._text(FUNCTIONS_SQL).split(), self._text(TABLE_FUNCTIONS_SQL).split())
        self.writer = ThreadPoolExecutor(1, "clickhouse-writer")
        self.owner_readers = ThreadPoolExecutor(OWNER_READERS, "clickhouse-owner")
        self.readers = ThreadPoolExecutor(READERS, "clickhouse-reader")
        self._running: set[Future[Any]] = set()

    async def submit(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """Run blocking work in a pool. Raises QueryFailed 202 where too much waits already."""
        if len(self._running) >= MAX_WAITING:
            raise refused(202, "TOO_MANY_SIMULTANEOUS_QUERIES", f"Too many statements wait. Maximum: {MAX_WAITING}.")
        future = pool.submit(work)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return await asyncio.wrap_future(future)

    def read_guarded(self, statement: Statement) -> Result:
        """A statement of someone without credential. Raises QueryFailed."""
        for name in statement.settings:
            if not _READER_SETTING.fullmatch(name):
                raise refused(164, "READONLY", f"Cannot modify '{name}' setting in readonly mode.")
        if statement.database.lower() in ("system", "information_schema"):
            raise access_denied(f"database {statement.database} is not for readers: name system.tables in full.")
        with self._handle(statement, READER) as handle:
            handle.query("SET readonly=1", "Null")
            self._guard.check(statement.sql, lambda sql: _classify(handle, sql), lambda sql: _explain(handle, sql))
            return _rows(handle, statement)

    def is_read(self, statement: Statement) -> bool:
        """Whether the owner's statement leaves no trace. Raises QueryFailed unless it is exactly one."""
        with self._handle(statement, OWNER) as handle:
            kind, statements = _classify(handle, statement.sql)
            if statements > 1:
                raise refused(62, "SYNTAX_ERROR", "Syntax error: Multi-statements are not allowed. Send one a request.")
            if kind == "UNKNOWN":
                _explain(handle, statement.sql)
            return kind == "READ_ONLY"

    def read(self, statement: Statement) -> Result:
        """A statement of the owner that `is_read`. Raises QueryFailed."""
        with self._handle(statement, OWNER) as handle:
            return _rows(handle, statement)

    def write(self, statement: Statement) -> Result:
        """DDL and `INSERT … SELECT` of the owner. Raises QueryFailed."""
        with self._handle(statement, OWNER, writes=True) as handle:
            return _result(handle.query(statement.sql, statement.format), returns_rows=False)

    def insert(self, statement: Statement, insert: Insert, data: bytes) -> Result:
        """An insert with its data: all of it or nothing, as one block. Raises QueryFailed."""
        with self._handle(statement, OWNER, writes=True) as handle:
            stream = handle.send_insert(insert.statement, insert.format)
            try:
                for chunk in (insert.head, data):
                    if chunk:
                        handle.insert_append(stream, chunk)
                query_id = self._text(_RUNNING_INSERT).strip()
                done = handle.insert_done(stream)
            except BaseException:
                handle.insert_cancel(stream)
                raise
            self._raise_unsaid(query_id)
            return _result(done, returns_rows=False)

    def _raise_unsaid(self, query_id: str) -> None:
        """Raise what went wrong in an insert that the engine calls done.

        chDB 4.4.0 says nothing of an error while the block is written: a full disk, a view's target that takes
        nothing. The engine's own list of errors knows. Inserts run on one thread, so there is one at a time.
        """
        for row in self._text(_ERRORS_OF.format(query_id)).splitlines():
            code, name, text = row.split("\t", 2)
            raise refused(int(code), name, text)

    def close(self, seconds: float) -> bool:
        """Stop taking work and close the engine. False where a statement still ran after `seconds`:
        the engine is then left open, and ending the process is as safe as kill -9 is."""
        for pool in (self.writer, self.owner_readers, self.readers):
            pool.shutdown(wait=False, cancel_futures=True)
        if wait(list(self._running), seconds).not_done:
            return False
        self._anchor.close()
        os.close(self._lock)
        return True

    def _text(self, sql: str) -> str:
        return bytes(self._anchor.query(sql, "TSVRaw").bytes()).decode()

    @contextmanager
    def _handle(self, statement: Statement, limits: Limits, *, writes: bool = False) -> Iterator[Any]:
        settings = {**_SERVER_LIKE, **statement.settings, **limits.settings(statement.settings)}
        if writes:
            # inserts are done when they are answered: nothing is gathered in memory here
            settings |= {"async_insert": "0"}
        handle = self._connect(self._target)
        try:
            handle.query("SET " + ", ".join(f"{_name(n)} = {_quoted(v)}" for n, v in settings.items()), "Null")
            if statement.params:
                pairs = (f"param_{_name(n)} = {_quoted(v)}" for n, v in statement.params.items())
                handle.query("SET " + ", ".join(pairs), "Null")
            if statement.database:
                handle.query("USE `" + statement.database.replace("\\", "\\\\").replace("`", "\\`") + "`", "Null")
            yield handle
        except RuntimeError as error:
            raise QueryFailed.of_engine(error, self.version) from None
        finally:
            handle.close()


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise DirectoryInUse(
            f"data directory {directory}: process {owner} has it open, and one process owns it. "
            "Stop that one, or give this one another directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _classify(handle: Any, sql: str) -> tuple[str, int]:
    report = handle.classify_query(sql)
    return report["query_class"].name, report["statement_count"]


def _explain(handle: Any, sql: str) -> str:
    try:
        return bytes(handle.query(_EXPLAIN + sql, "TSVRaw").bytes()).decode("utf-8", "replace")
    except RuntimeError as error:
        # positions in the statement as it was sent
        raise RuntimeError(_POSITION.sub(lambda m: f"{m[1]}{int(m[2]) - len(_EXPLAIN)}", str(error))) from None


def _rows(handle: Any, statement: Statement) -> Result:
    result = _result(handle.query(statement.sql, statement.format))
    clause = _NATIVE.search(statement.sql)
    if result.body or (clause is None and statement.format != "Native"):
        return result
    # chDB says nothing where a server sends a block without rows, from which clients take the columns
    sql = statement.sql[: clause.start()] if clause else statement.sql
    columns = orjson.loads(handle.query(sql, "JSONCompact").bytes() or b'{"meta":[]}')["meta"]
    texts = [text.encode() for column in columns for text in (column["name"], column["type"])]
    body = _varint(len(columns)) + _varint(0) + b"".join(_varint(len(text)) + text for text in texts)
    return replace(result, body=body)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _result(result: Any, *, returns_rows: bool = True) -> Result:
    return Result(
        body=result.bytes(),
        rows=result.rows_read(),
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        returns_rows=returns_rows,
    )


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise refused(115, "UNKNOWN_SETTING", f"Setting or parameter {name!r} has no such name.")
    return name


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
