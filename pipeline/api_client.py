"""The lookup API, asked from the command line: a GET and its errors, on the standard library."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import orjson

from mailecho.pipeline.endpoints import api_url

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings


def get(settings: Settings, path: str, *, timeout: float = 5.0) -> Any:
    """The API's JSON answer for a path. Raises ApiDown where nobody answers, ApiRefused for an error answer."""
    return _ask(settings, urllib.request.Request(api_url(settings) + path), timeout)


def post(settings: Settings, path: str, body: Any, *, timeout: float = 30.0) -> Any:
    """The API's answer to a JSON body. Raises like `get`."""
    headers = {"Content-Type": "application/json"}
    return _ask(settings, urllib.request.Request(api_url(settings) + path, orjson.dumps(body), headers), timeout)


def _ask(settings: Settings, request: urllib.request.Request, timeout: float) -> Any:
    token = settings.api.token.get_secret_value()
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    # never through a proxy: the API is this machine or this cluster
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise ApiRefused(error.code, error.read()) from None
    except (OSError, orjson.JSONDecodeError) as error:
        reason = getattr(error, "reason", error)
        raise ApiDown(f"the API at {api_url(settings)} does not answer ({reason})") from None


class ApiDown(RuntimeError):
    """Nobody answers at the API's address."""


class ApiRefused(RuntimeError):
    """The API answered with an error: `status` is the HTTP status, the message is the API's."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        try:
            error = orjson.loads(body)["error"]
            text = f"{error['field']}: {error['message']}" if error.get("field") else str(error["message"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            text = f"HTTP {status}"
        if status == 401:
            text += " (set MAILECHO_API__TOKEN to the API's token)"
        super().__init__(text)
