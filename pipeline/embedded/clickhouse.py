"""ClickHouse for one machine: chDB in a process of its own, behind the HTTP interface of a server.

    python -m mailecho.pipeline.embedded.clickhouse --directory D [--host 127.0.0.1] [--port 8123]

`clickhouse_connect.get_client(host=…, port=…)`, curl, Grafana's data source and our lander use it as
they use a server. It answers this subset (https://clickhouse.com/docs/interfaces/http):

* `GET /ping` and `GET /`: `Ok.`
* `GET` and `POST /` with the statement in the URL's `query`, in the body, or in both, joined by a line
  break; bodies may be plain or compressed (`Content-Encoding: gzip, deflate, zstd, lz4`); multipart
  forms with the fields `query` and `param_…`. A GET never writes.
* `database` (or `X-ClickHouse-Database`), `default_format` (or `X-ClickHouse-Format`), FORMAT clauses,
  query parameters (`param_x`), settings as URL parameters, `query_id`.
* Answers with `X-ClickHouse-Summary`, `-Query-Id`, `-Format`, `-Timezone`, and for an error its text,
  `X-ClickHouse-Exception-Code` and the server's status. An error never comes after half a result.
* Users: the password in `clickhouse.token` (by Basic, `X-ClickHouse-Key` or `password`; any user name)
  makes the owner, who may do all that the engine can. Without a password: one statement that reads,
  within limits, see `clickhouse_guard`. A wrong password is error 516.

Left out: sessions and temporary tables (`session_id` is ignored), external data, compressed and
streamed answers (a result is held in memory, within limits), ClickHouse's own block compression
(`compress`, `decompress`), progress headers, roles, quotas, asynchronous inserts (they are done at
once), cancelling what a client no longer waits for (`max_execution_time` ends it), other ports.

It listens on loopback only, refuses any other name in `Host` (DNS rebinding) and any page of another
site in `Origin` (a browser would send a form there without asking).
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import ipaddress
import logging
import os
import re
import secrets
import signal
import sys
import time
import uuid
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
from aiohttp import BodyPartReader, web

from mailecho.pipeline.embedded.clickhouse_engine import MIB, DirectoryInUse, Engine, Result, Statement
from mailecho.pipeline.embedded.clickhouse_errors import QueryFailed, refused
from mailecho.pipeline.embedded.clickhouse_insert import split_insert
from mailecho.pipeline.landing.database import TOKEN_FILE

log = logging.getLogger(__name__)

#: A batch of the lander is 48 MiB by default; it may be set higher.
OWNER_BODY = 512 * MIB
READER_BODY = MIB
#: `up` gives this process five seconds, on a busy machine too: this is for the answers under way and
#: again for the statements that still run. What is cut off was not acknowledged and is repeated.
STOP_SECONDS = 1.0
#: EX_CONFIG of sysexits.h: tells the supervisor that a restart will not help.
REFUSED = 78

#: URL parameters that belong to the interface; all others are settings.
_INTERFACE = frozenset(
    {
        "query",
        "database",
        "default_format",
        "query_id",
        "user",
        "password",
        "quota_key",
        "session_id",
        "session_timeout",
        "session_check",
        "wait_end_of_query",
        "buffer_size",
        "role",
        "client_protocol_version",  # only Native without a revision is spoken; clients probe for it
        # how a server sends, which this one does its own way
        "enable_http_compression",
        "http_zlib_compression_level",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
    }
)
_FORMAT_CLAUSE = re.compile(rb"\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
_CONTENT_TYPES = {"TabSeparated": "text/tab-separated-values", "CSV": "text/csv", "JSON": "application/json"}


@dataclass(frozen=True, slots=True)
class _Query:
    """A request, read: `text` is the statement, `data` what follows it where both were sent."""

    statement: Statement
    text: bytes
    data: bytes
    query_id: str


class Server:
    """The HTTP interface over an engine."""

    def __init__(self, engine: Engine, token: str) -> None:
        self._engine = engine
        self._token = token.encode()

    def application(self) -> web.Application:
        """The aiohttp application: `/ping` and `/`."""
        app = web.Application()
        app.router.add_get("/ping", self._ok)
        app.router.add_route("*", "/", self._handle)
        return app

    async def _ok(self, request: web.Request) -> web.Response:
        return web.Response(text="Ok.\n")

    async def _handle(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id") or str(uuid.uuid4())
        started = time.monotonic_ns()
        try:
            _check_origin(request.headers)
            owner = self._is_owner(request)
            if request.method not in ("GET", "POST"):
                raise refused(48, "NOT_IMPLEMENTED", f"Method {request.method} is not spoken here.")
            if request.method == "GET" and not request.query.get("query"):
                return await self._ok(request)
            query = await _read(request, owner, query_id)
            result = await self._run(query, owner, request.method == "GET")
        except QueryFailed as error:
            return web.Response(
                status=error.status,
                text=f"{error}\n",
                headers={"X-ClickHouse-Exception-Code": str(error.code), "X-ClickHouse-Query-Id": query_id},
            )
        return _answer(query, result, time.monotonic_ns() - started)

    async def _run(self, query: _Query, owner: bool, get: bool) -> Result:
        engine, statement = self._engine, query.statement
        if owner and not get:
            insert = split_insert(query.text)
            if insert is not None:
                return await engine.submit(engine.writer, lambda: engine.insert(statement, insert, query.data))
        try:
            sql = (query.text + query.data).decode()
        except UnicodeDecodeError:
            raise refused(62, "SYNTAX_ERROR", "Syntax error: the statement is not UTF-8.") from None
        statement = replace(statement, sql=sql)
        if not owner:
            return await engine.submit(engine.readers, lambda: engine.read_guarded(statement))
        if await engine.submit(engine.owner_readers, lambda: engine.is_read(statement)):
            return await engine.submit(engine.owner_readers, lambda: engine.read(statement))
        if get:
            raise refused(
                164, "READONLY", "Cannot execute query in readonly mode. For queries over HTTP, method GET implies "
                "readonly. You should use method POST for modifying queries."
            )  # fmt: skip
        return await engine.submit(engine.writer, lambda: engine.write(statement))

    def _is_owner(self, request: web.Request) -> bool:
        password = request.headers.get("X-ClickHouse-Key", "") or request.query.get("password", "")
        authorization = request.headers.get("Authorization", "")
        if authorization:
            scheme, _, value = authorization.partition(" ")
            try:
                pair = b64decode(value, validate=True).decode() if scheme.lower() == "basic" else ""
            except ValueError:
                pair = ""
            if ":" not in pair:
                raise refused(516, "AUTHENTICATION_FAILED", "Authorization is not Basic with user and password.")
            password = password or pair.partition(":")[2]
        if not password:
            return False
        if not hmac.compare_digest(password.encode(), self._token):
            raise refused(516, "AUTHENTICATION_FAILED", f"Wrong password: the right one is in {TOKEN_FILE}.")
        return True


async def _read(request: web.Request, owner: bool, query_id: str) -> _Query:
    parameters = dict(request.query)
    for name in ("compress", "decompress"):
        if parameters.pop(name, "0") not in ("0", "false", ""):
            raise refused(48, "NOT_IMPLEMENTED", f"{name}=1 is not spoken here: use Content-Encoding.")
    text, data = parameters.get("query", "").encode(), b""
    if request.method == "POST":
        if request.content_type == "multipart/form-data":
            parameters |= await _form(request)
            text = parameters.get("query", "").encode()
        else:
            data = await _body(request, OWNER_BODY if owner else READER_BODY, owner)
            if text and data:
                text += b"\n"
            elif not text:
                text, data = data, b""
    if not text.strip():
        raise refused(62, "SYNTAX_ERROR", "Syntax error: Empty query.")
    params = {n.removeprefix("param_"): v for n, v in parameters.items() if n.startswith("param_")}
    settings = {n: v for n, v in parameters.items() if n not in _INTERFACE and not n.startswith("param_")}
    return _Query(
        Statement(
            sql="",
            database=parameters.get("database", "") or request.headers.get("X-ClickHouse-Database", ""),
            format=parameters.get("default_format", "") or request.headers.get("X-ClickHouse-Format", "TabSeparated"),
            settings=settings,
            params=params,
        ),
        text,
        data,
        query_id,
    )


async def _form(request: web.Request) -> dict[str, str]:
    fields: dict[str, str] = {}
    size = 0
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.filename is not None or part.name is None:
            raise refused(48, "NOT_IMPLEMENTED", "External data is not spoken here.")
        value = bytearray()
        while chunk := await part.read_chunk():
            size += len(chunk)
            value += chunk
            if size > READER_BODY:
                raise _too_large(READER_BODY)
        fields[part.name] = value.decode("utf-8", "replace")
    return fields


async def _body(request: web.Request, limit: int, owner: bool) -> bytes:
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    chunks = []
    size = 0
    async for chunk in request.content.iter_any():  # gzip, deflate and zstd are unpacked by aiohttp
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    body = b"".join(chunks)
    if request.headers.get("Content-Encoding", "").lower() == "lz4":
        if not owner:  # unpacked in one step, so a small body could fill the memory
            raise refused(48, "NOT_IMPLEMENTED", "Content-Encoding lz4 is for inserts.")
        from cramjam import lz4

        try:
            body = bytes(lz4.decompress(body))
        except Exception:
            raise refused(354, "INFLATE_FAILED", "The body is no lz4 frame.") from None
    return body


def _too_large(limit: int) -> QueryFailed:
    return refused(36, "BAD_ARGUMENTS", f"The request's body is larger than {limit} bytes.", status=413)


def _answer(query: _Query, result: Result, elapsed_ns: int) -> web.Response:
    summary = {
        "read_rows": result.read_rows,
        "read_bytes": result.read_bytes,
        "written_rows": result.written_rows,
        "written_bytes": result.written_bytes,
        "total_rows_to_read": 0,
        "result_rows": result.rows,
        "result_bytes": len(result.body),
        "elapsed_ns": elapsed_ns,
    }
    headers = {
        "X-ClickHouse-Query-Id": query.query_id,
        "X-ClickHouse-Summary": orjson.dumps({name: str(value) for name, value in summary.items()}).decode(),
        "X-ClickHouse-Timezone": "UTC",
        "X-Content-Type-Options": "nosniff",
    }
    clause = _FORMAT_CLAUSE.search(query.data or query.text)
    name = clause[1].decode() if clause else query.statement.format
    if result.returns_rows:
        headers["X-ClickHouse-Format"] = name
    kind = _CONTENT_TYPES.get(name, "text/plain")
    return web.Response(body=result.body, headers=headers | {"Content-Type": f"{kind}; charset=UTF-8"})


def _check_origin(headers: Mapping[str, str]) -> None:
    host = headers.get("Host", "")
    if not _is_loopback(host):
        raise refused(
            497, "ACCESS_DENIED", f"Host {host!r} is not this machine's loopback: use http://127.0.0.1 or localhost."
        )
    origin = headers.get("Origin")
    if origin is not None and not _is_loopback(origin.partition("://")[2]):
        raise refused(497, "ACCESS_DENIED", f"Origin {origin!r}: pages of other sites are not answered.")
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise refused(497, "ACCESS_DENIED", "Sec-Fetch-Site: pages of other sites are not answered.")


def _is_loopback(host: str) -> bool:
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def load_token(directory: Path) -> str:
    """The owner's password, from `clickhouse.token` (mode 0600); made where there is none."""
    file = directory / TOKEN_FILE
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        temporary = file.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(token + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.rename(temporary, file)
        return token


def run(directory: Path, host: str, port: int, *, write_token: str = "") -> None:
    """Serve the chDB directory on `host:port` until SIGTERM or SIGINT; port 0 takes a free one.

    Writes `clickhouse http://host:port` and a line break to stdout when it answers. Without
    `write_token` the owner's password is that in the directory. Raises ValueError for an address
    that is not loopback, DirectoryInUse, and OSError for a port that is taken.
    """
    if not _is_loopback(f"[{host}]" if ":" in host else host):
        raise ValueError(
            f"host {host}: the embedded engine listens on loopback only. For others run a ClickHouse server"
        )
    engine = Engine(directory)
    finished = False
    try:
        token = write_token or load_token(directory)
        asyncio.run(_serve(Server(engine, token).application(), host, port))
    finally:
        finished = engine.close(STOP_SECONDS)
        if not finished:
            log.warning("a statement was still running: the engine ends without closing, which loses nothing")
    if not finished:
        os._exit(0)


async def _serve(app: web.Application, host: str, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        sys.stdout.write(f"clickhouse http://{shown}:{address[1]}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The process: see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mailecho.pipeline.embedded.clickhouse", allow_abbrev=False)
    parser.add_argument("--directory", type=Path, required=True, help="the chDB directory; made where there is none")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=8123, help="0 takes a free one")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run(options.directory, options.host, options.port)
    except (DirectoryInUse, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
