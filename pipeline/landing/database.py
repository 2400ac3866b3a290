"""Where ClickHouse is, and clients for it: one to write with, one that can only read.

Without `clickhouse.url` it is the embedded engine of `mailecho up`: its address stands in
`run/endpoints.json`, and its owner's password in `clickhouse/clickhouse.token`, both in the data
directory.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from mailecho.pipeline.endpoints import NotRunning, read_endpoints

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from mailecho.pipeline.config import Settings

#: The embedded engine's directory inside the data directory, and the password file inside that.
CLICKHOUSE_DIR = "clickhouse"
TOKEN_FILE = "clickhouse.token"

#: A server that is up answers a connect at once; a person or a back-off loop waits for the rest.
CONNECT_SECONDS = 5
#: Longer than the largest insert takes on a slow machine; the engine's own limit is 600.
ANSWER_SECONDS = 300


class DatabaseUnavailable(RuntimeError):
    """ClickHouse cannot be reached, or refuses us; the message names the setting and the way on."""


def clickhouse_url(settings: Settings) -> str:
    """http(s)://host:port of the database: the setting, else of `mailecho up`. Raises NotRunning."""
    url = settings.clickhouse.url or read_endpoints(settings.data_dir).get("clickhouse", "")
    if not url:
        raise NotRunning(
            f"no ClickHouse address: nothing runs on {settings.data_dir}. "
            f"Start `mailecho up --data-dir {settings.data_dir}`, or set MAILECHO_CLICKHOUSE__URL"
        )
    return url


def write_client(settings: Settings) -> Client:
    """A client that may write, in the configured database, which is made where it is missing.

    May be shared between threads. Close it. Raises NotRunning and DatabaseUnavailable.
    """
    database = settings.clickhouse.database
    client = _client(settings, _password(settings), "")
    try:
        client.command(f"CREATE DATABASE IF NOT EXISTS `{database}`")
    except Exception as error:
        client.close()
        raise _unavailable(settings, error) from error
    client.database = database
    return client


def read_client(settings: Settings) -> Client:
    """A client for questions: the embedded engine lets it read only, within limits.

    On a server it is the configured user, with `readonly` set. Raises NotRunning and DatabaseUnavailable.
    """
    embedded = not settings.clickhouse.password.get_secret_value() and _token(settings) is not None
    server = {} if embedded else {"readonly": "1"}
    password = settings.clickhouse.password.get_secret_value()
    return _client(settings, password, settings.clickhouse.database, server)


def query_text(settings: Settings, sql: str, fmt: str = "PrettyCompact") -> str:
    """One reading statement's result as text in a ClickHouse format, for `mailecho sql`.

    A FORMAT clause in the statement wins. Raises NotRunning and DatabaseUnavailable, with
    ClickHouse's own words where it refuses the statement.
    """
    client = read_client(settings)
    try:
        # the format goes beside the statement, so that a FORMAT clause or a comment at its end is fine
        body = client.raw_query(sql, transport_settings={"X-ClickHouse-Format": fmt})
    except Exception as error:
        raise DatabaseUnavailable(_words(error)) from error
    finally:
        client.close()
    return body.decode("utf-8", "replace")


def _client(settings: Settings, password: str, database: str, server: dict[str, Any] | None = None) -> Client:
    import clickhouse_connect

    url = _split(clickhouse_url(settings))
    try:
        return clickhouse_connect.get_client(
            host=url.hostname or "",
            port=url.port or (8443 if url.scheme == "https" else 8123),
            secure=url.scheme == "https",
            username=settings.clickhouse.user,
            password=password,
            database=database or "default",
            settings=server or {},
            connect_timeout=CONNECT_SECONDS,
            send_receive_timeout=ANSWER_SECONDS,
            # threads may share it, which a session does not allow
            autogenerate_session_id=False,
            # numbers and times as the server has them, and errors without our URL in them
            show_clickhouse_errors="scrub",
        )
    except Exception as error:
        raise _unavailable(settings, error) from error


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DatabaseUnavailable(f"clickhouse.url {url!r} is no http(s)://host:port of ClickHouse's HTTP interface")
    return parts


def _password(settings: Settings) -> str:
    return settings.clickhouse.password.get_secret_value() or _token(settings) or ""


def _token(settings: Settings) -> str | None:
    """The embedded engine's token, where the address is one that the embedded engine can have."""
    host = _split(clickhouse_url(settings)).hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        return None
    try:
        return (settings.data_dir / CLICKHOUSE_DIR / TOKEN_FILE).read_text().strip()
    except OSError:
        return None


def _unavailable(settings: Settings, error: Exception) -> DatabaseUnavailable:
    where = clickhouse_url(settings)
    code = getattr(error, "code", None)
    if code in (192, 193, 194, 516):
        return DatabaseUnavailable(
            f"ClickHouse at {where} refuses user {settings.clickhouse.user!r}: set MAILECHO_CLICKHOUSE__USER and "
            "MAILECHO_CLICKHOUSE__PASSWORD, or run on the data directory of the embedded engine"
        )
    if code is not None:
        return DatabaseUnavailable(f"ClickHouse at {where}: {_words(error)}")
    return DatabaseUnavailable(
        f"ClickHouse at {where} does not answer: is `mailecho up` running, or MAILECHO_CLICKHOUSE__URL right?"
    )


def _words(error: Exception) -> str:
    text = str(error)
    return text.partition("server response: ")[2] or text
