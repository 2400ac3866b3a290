"""Errors as the API gives them: `{"error": {"code", "message", "field"?}}`, the same everywhere."""

from __future__ import annotations

from typing import Any

import orjson


class ApiError(Exception):
    """An error for the client. The message names what is wrong and what to do; `field` says where."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field

    @property
    def body(self) -> bytes:
        """The response body, JSON."""
        return error_body(self.code, str(self), self.field)


def error_body(code: str, message: str, field: str | None = None) -> bytes:
    """An error response's body, JSON."""
    error: dict[str, Any] = {"code": code, "message": message}
    if field is not None:
        error["field"] = field
    return orjson.dumps({"error": error})


#: The body where the fault is ours.
INTERNAL = error_body("internal", "an error of ours: the log of serve tells more")
