"""What clients send, read and checked: every error names the field and the way on."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import orjson
from starlette.requests import Request

from mailecho.pipeline.serve.errors import ApiError
from mailecho.schemas.suppression import State

#: Of one bulk check. A longer list is sent in parts.
MAX_ADDRESSES = 100_000

#: 100,000 addresses of 160 bytes; they have about 25. It is parsed in one go, in about 50 ms at most.
MAX_BODY = 16 * 1024 * 1024

MAX_PAGE = 1_000


@lru_cache(maxsize=256)  # senders ask for few streams, and parsing costs as much as looking up
def names(query: bytes) -> tuple[str, str]:
    """`tenant` and `stream` of a single lookup's query string. Raises ApiError."""
    if not query:
        return "", ""
    values = parameters(query, ("tenant", "stream"))
    return values.get("tenant", ""), values.get("stream", "")


def parameters(query: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """A query string's parameters. One that is unknown, or given twice, is an error: a misspelt
    `stream` must not be answered as if there was none. Raises ApiError."""
    values: dict[str, str] = {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:  # UnicodeDecodeError is one
        raise ApiError(400, "bad_query", "the query string is not percent-encoded UTF-8") from None
    for name, value in pairs:
        if name not in known:
            raise ApiError(400, "unknown_parameter", f"there is no such parameter; there are {', '.join(known)}", name)
        if name in values:
            raise ApiError(400, "repeated_parameter", "give it once", name)
        values[name] = value
    return values


@dataclass(frozen=True, slots=True)
class Bulk:
    """A bulk check. The addresses are whatever stood in the list."""

    addresses: list[Any]
    tenant: str
    stream: str


async def bulk(request: Request) -> Bulk:
    """Read and check the body of a bulk check. Raises ApiError."""
    try:
        value = orjson.loads(await _body(request))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, "bad_json", f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ApiError(400, "bad_json", 'the body is no object: send {"addresses": ["user@example.com"]}')
    for name in value:
        if name not in ("addresses", "tenant", "stream"):
            raise ApiError(400, "unknown_field", "there is no such field; there are addresses, tenant, stream", name)
    addresses = value.get("addresses")
    if not isinstance(addresses, list):
        raise ApiError(400, "bad_field", "send a list of addresses", "addresses")
    if len(addresses) > MAX_ADDRESSES:
        message = f"{len(addresses)} addresses: send at most {MAX_ADDRESSES} a request"
        raise ApiError(413, "too_many", message, "addresses")
    for name in ("tenant", "stream"):
        if not isinstance(value.get(name, ""), str):
            raise ApiError(400, "bad_field", "send a string", name)
    return Bulk(addresses, value.get("tenant", ""), value.get("stream", ""))


async def _body(request: Request) -> bytes:
    too_large = ApiError(413, "too_large", f"the body is larger than {MAX_BODY} bytes: send the list in parts")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise too_large
        parts.append(part)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Listing:
    """Which part of the list is wanted."""

    state: State | None
    limit: int
    after: bytes


def listing(query: bytes) -> Listing:
    """Read and check a listing's query string. Raises ApiError."""
    values = parameters(query, ("state", "limit", "cursor"))
    state, limit = values.get("state", ""), values.get("limit") or "100"
    if state and state not in tuple(State):
        raise ApiError(400, "bad_parameter", f"there is no such state; there are {', '.join(State)}", "state")
    if not limit.isascii() or not limit.isdigit() or len(limit) > 6 or not 1 <= int(limit) <= MAX_PAGE:
        raise ApiError(400, "bad_parameter", f"give a number from 1 to {MAX_PAGE}", "limit")
    try:
        after = base64.b64decode(values.get("cursor", ""), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        after = b"\0" * 512
    if len(after) >= 511:  # LMDB's longest key
        raise ApiError(400, "bad_parameter", "it is the `next` of the page before, unchanged", "cursor")
    return Listing(State(state) if state else None, int(limit), after)


def cursor_text(key: bytes | None) -> str | None:
    """Where the next page starts, as clients see it."""
    return None if key is None else base64.urlsafe_b64encode(key).decode()
