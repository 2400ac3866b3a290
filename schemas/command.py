"""Commands: what people and workers ask of the ledger, on `feedback.commands`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mailecho.schemas.suppression import Scope


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=8, max_length=64, description="Made by the client: a repeated send has the same id")
    actor: str = Field("", max_length=200)
    note: str = Field("", max_length=2000)


class Add(_Base):
    """Suppress an address or a domain. Exactly one of the two is given."""

    type: Literal["add"] = "add"
    address: str = Field("", max_length=1000)
    domain: str = Field("", max_length=255)
    scope: Scope = Scope.TENANT
    tenant: str = Field("", max_length=200)
    stream: str = Field("", max_length=200)
    reason: str = Field("manual", max_length=50)
    expires: int = Field(0, ge=0, description="Epoch milliseconds; 0: never")


class Release(_Base):
    """Take an entry off the list. What happened before the release counts no more."""

    type: Literal["release"] = "release"
    address: str = Field("", max_length=1000)
    domain: str = Field("", max_length=255)
    scope: Scope = Scope.TENANT
    tenant: str = Field("", max_length=200)
    stream: str = Field("", max_length=200)


class PolicyChange(_Base):
    """A new policy, sent to every partition by the ledger worker that starts with a changed file."""

    type: Literal["policy"] = "policy"
    policy: dict[str, object]


Command = Annotated[Add | Release | PolicyChange, Field(discriminator="type")]
COMMAND: TypeAdapter[Add | Release | PolicyChange] = TypeAdapter(Command)
