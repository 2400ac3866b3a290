"""Rows for tests, written from their values as the contract says."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson

from mailecho.schemas.event import Event

_DEFAULTS: dict[str, Any] = {
    name: (str(field.default) if isinstance(field.default, UUID) else field.default)
    for name, field in Event.model_fields.items()
    if not field.is_required()
}


def dump_row(values: dict[str, Any]) -> bytes:
    """One event as the JSON line of `feedback.events`: `event_id` first, defaults left out.

    `values` has an Event's fields as plain JSON types, in Event's order, `event_id` first.
    """
    defaults = _DEFAULTS
    return orjson.dumps({k: v for k, v in values.items() if k not in defaults or v != defaults[k]})
