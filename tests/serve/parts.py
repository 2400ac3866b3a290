"""The API over a map of the test's own, asked without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from mailecho.pipeline.config import ApiSettings, Settings
from mailecho.pipeline.lookup.store import Store
from mailecho.pipeline.serve.app import create_app
from mailecho.pipeline.serve.gate import Gate
from mailecho.pipeline.serve.status import COUNTED, Ask, NotReachable, Numbers
from tests.lookup.entries import DAY, IDENTITY, NOW, change


class Progress:
    """What the API asks of a follower, set by the test."""

    def __init__(self) -> None:
        self.ready, self.reason, self.damage = True, "", ""
        self.lag: int | None = 0

    def rebuild(self, why: str) -> None:
        self.damage = why


async def unreachable(_sql: str) -> list[dict[str, Any]]:
    raise NotReachable("nobody listens")


class Served:
    """One application. `get` and `post` are single requests on a loop of their own."""

    def __init__(self, directory: Path, *, ask: Ask = unreachable, **api: Any) -> None:
        self.settings = Settings(data_dir=directory, api=ApiSettings(**api))
        self.store = Store(directory / "lookup")
        self.progress = Progress()
        self._ask = ask
        meta = {"complete": b"1", "identity": IDENTITY.fingerprint.encode()}
        self.store.apply([], {}, now_ms=NOW, forget_ms=DAY, meta=meta)

    def put(self, *entries: dict[str, Any]) -> None:
        self.store.apply([change(values) for values in entries], {}, now_ms=NOW, forget_ms=DAY)

    def app(self) -> Gate:
        return create_app(self.settings, self.store, IDENTITY, self.progress, Numbers(self._ask))

    def run(self, what: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]) -> httpx.Response:
        async def main() -> httpx.Response:
            transport = httpx.ASGITransport(self.app(), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as client:
                return await what(client)

        return asyncio.run(main())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.run(lambda client: client.get(path, **more))

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.run(lambda client: client.post(path, **more))


def counts(**given: int) -> dict[str, int]:
    """A row of counters, nought where not given."""
    return dict.fromkeys(COUNTED, 0) | given
