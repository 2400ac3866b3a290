"""The suppression entry: value of `feedback.suppressions`, row of the lookup.

An entry carries all that policy knows of its subject (`facts`), so that a lost store is rebuilt
from the compacted topic alone (DESIGN 2, point 7).
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Literal
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field


class Scope(StrEnum):
    """How far an entry reaches."""

    GLOBAL = "global"
    TENANT = "tenant"
    STREAM = "stream"


class State(StrEnum):
    """`watch` denies nothing: it keeps counters. `held` denies for a while."""

    WATCH = "watch"
    ACTIVE = "active"
    HELD = "held"
    RELEASED = "released"
    EXPIRED = "expired"


class Evidence(BaseModel):
    """Why: which events, how many, from when to when (epoch milliseconds)."""

    event_ids: list[str] = Field(default_factory=list)
    count: int = 0
    first: int = 0
    last: int = 0


class SuppressionEntry(BaseModel):
    """One (scope, subject) and what policy decided for it. Times are epoch milliseconds UTC."""

    model_config = ConfigDict(extra="allow")  # a later minor version may add fields

    scope: Scope
    scope_id: str = Field("", description="Tenant, or tenant/stream; empty for global and the default tenant")
    subject: Literal["address", "domain"]
    subject_key: str = Field(description="Recipient key, or the domain itself")
    address: str = Field("", description="Clear address, unless setting `addresses` says otherwise")
    domain: str = ""
    state: State
    reason: str = Field("", description="complaint, hard_bounce, soft_bounce, domain, manual, import")
    cause: str = ""
    created: int = Field(0, description="Time of the fact that decided")
    expires: int = Field(0, description="0: never")
    source: str = ""
    actor: str = ""
    note: str = ""
    evidence: Evidence = Field(default_factory=Evidence)
    policy: str = Field("", description="Version of the policy that decided")
    version: int = Field(description="Offset of the classified record that caused the change")
    facts: dict[str, object] = Field(default_factory=dict, description="The fold's state, opaque to readers")


def entry_key(scope: str, scope_id: str, subject: str, subject_key: str) -> bytes:
    """The key of an entry on the topic and in the lookup: `scope/scope id/subject/subject key`."""
    return f"{scope}/{_quoted(scope_id)}/{subject}/{subject_key}".encode()


@lru_cache(maxsize=1024)
def _quoted(scope_id: str) -> str:
    return quote(scope_id, safe="")


def split_entry_key(key: bytes) -> tuple[str, str, str, str]:
    """The inverse of `entry_key`. Raises ValueError for anything else."""
    scope, scope_id, subject, subject_key = key.decode().split("/", 3)
    return scope, unquote(scope_id), subject, subject_key


_POLICY = b"meta/policy/"


def policy_key(partition: int) -> bytes:
    """The key under which a partition's policy in force stands on the topic, beside the entries."""
    return _POLICY + str(partition).encode()


def is_entry_key(key: bytes) -> bool:
    """Whether a key of the topic is an entry's; the other one is the policy's."""
    return not key.startswith(_POLICY)
