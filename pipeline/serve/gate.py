"""In front of the API: who may ask, the headers of every response, and the short way of a single lookup.

A plain ASGI application: a single lookup passes no router, no middleware and no request object,
which would cost more than the lookup.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailecho.pipeline.serve.errors import INTERNAL, ApiError
from mailecho.pipeline.serve.metrics import REQUESTS

log = logging.getLogger(__name__)

#: Probes have no token, and these tell nothing about mail: numbers at most.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

_PORT = re.compile(r":\d*$")

SINGLE_PREFIX = "/v1/suppressions/"
SINGLE_ROUTE = "/v1/suppressions/{address}"

#: Routes that have a name in the metrics; all others are one.
_NAMED = frozenset({"/v1/suppressions/check", "/v1/suppressions/stats", "/v1/suppressions", "/v1/status", "/", "/docs"})

#: Nothing is loaded from elsewhere, nothing inline runs, nobody frames the page.
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: list[tuple[bytes, bytes]] = [
    (b"content-security-policy", _CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_JSON = (b"content-type", b"application/json")
_ASK_TOKEN = [(b"www-authenticate", b'Basic realm="mailecho", charset="UTF-8"'), (b"www-authenticate", b"Bearer")]

#: Answers a single lookup: the address as written and the query string, to the body. Raises ApiError.
Single = Callable[[str, bytes], bytes]


def is_loopback(host: str) -> bool:
    """Whether a server on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """Lets through to `app` what may pass, and answers single lookups itself by `single`.

    With a `token` every request but probes needs it: as `Authorization: Bearer`, or as the password
    of Basic, which browsers ask for. With `local_only` the Host header must name this machine: a web
    page elsewhere could else read the list through a name that it points here (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, single: Single, *, token: str, local_only: bool) -> None:
        self._app = app
        self._single = single
        self._token = token.encode()
        self._local_only = local_only
        self._single_ok = REQUESTS.labels(SINGLE_ROUTE, "2xx")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI request."""
        if scope["type"] != "http":
            return  # no websockets here; the server's own start and stop are those of `app.run`
        path: str = scope["path"]
        try:
            self._admit(path, scope["headers"])
            if path.startswith(SINGLE_PREFIX) and scope["method"] == "GET" and path not in _NAMED:
                body = self._single(path[len(SINGLE_PREFIX) :], scope["query_string"])
                await _answer(send, 200, body)
                self._single_ok.inc()
                return
        except ApiError as error:
            await _answer(send, error.status, error.body, _ASK_TOKEN if error.status == 401 else [])
            _count(path, error.status)
            return
        except Exception:
            log.exception("a single lookup failed")
            await _answer(send, 500, INTERNAL)
            _count(path, 500)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
                _count(path, message["status"])
            await send(message)

        await self._app(scope, receive, with_headers)

    def _admit(self, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        if not self._local_only and (not self._token or path in OPEN_PATHS):
            return
        values = dict(headers)
        if self._local_only and not _names_this_machine(values.get(b"host", b"")):
            raise ApiError(
                421,
                "wrong_host",
                "this server answers to localhost and loopback addresses only: ask under one of these, "
                "or set api.host and api.token to serve others",
                "Host",
            )
        if self._token and path not in OPEN_PATHS and not self._holds_token(values.get(b"authorization", b"")):
            raise ApiError(
                401,
                "unauthorized",
                "send the token of setting api.token: Authorization: Bearer TOKEN, "
                "or as the password of Basic authentication",
                "Authorization",
            )

    def _holds_token(self, header: bytes) -> bool:
        scheme, _, credentials = header.strip().partition(b" ")
        credentials = credentials.strip()
        if scheme.lower() == b"basic":
            try:
                credentials = base64.b64decode(credentials, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != b"bearer":
            return False
        return hmac.compare_digest(credentials, self._token)


def _names_this_machine(host: bytes) -> bool:
    if not host:
        return True  # HTTP/1.0; every browser sends it
    return is_loopback(_PORT.sub("", host.decode("latin-1").lower()).rstrip("."))


def _count(path: str, status: int) -> None:
    of_single = SINGLE_ROUTE if path.startswith(SINGLE_PREFIX) else "other"
    REQUESTS.labels(path if path in _NAMED else of_single, f"{status // 100}xx").inc()


async def _answer(send: Send, status: int, body: bytes, more: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [_JSON, (b"content-length", b"%d" % len(body)), *_HEADERS, *(more or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
