"""The numbers of the status page: counts and rates from ClickHouse's rollups, cached.

Rates are in arrival form: of what was reported in a span of time, by the time at which it happened.
A message that was delivered and bounced later is in both counts (domain-reference 6).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import orjson

from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import NotRunning
from mailecho.pipeline.landing.database import clickhouse_url

#: What the page counts; columns of the rollups.
COUNTED = ("injection", "delivery", "bounce", "expiry", "delay", "complaint", "unsubscribe", "rejection")

#: However many pages are open, ClickHouse is asked once a second, and slow questions take no more
#: than a tenth of the time. After a time-out the page still looks again soon.
_FRESH_SECONDS = 1.0
_REST_FACTOR = 10
_LONGEST_REST_SECONDS = 15.0

#: A page that waits longer than this says that ClickHouse does not answer.
_TIMEOUT_SECONDS = 5.0

_PROVIDERS = 20

_SUMS = ", ".join(f"toUInt64(sum({kind})) AS {kind}" for kind in COUNTED)
_BY_PROVIDER = (
    f"SELECT provider, {_SUMS} FROM rollup_minute_provider "
    "WHERE minute > now('UTC') - INTERVAL 1 DAY GROUP BY provider FORMAT JSONEachRow"
)
# The minutes are kept for two weeks, the hours for 13 months.
_TOTAL = f"SELECT {_SUMS} FROM rollup_hour_campaign FORMAT JSONEachRow"

#: One query's rows. Raises NotReachable.
Ask = Callable[[str], Awaitable[list[dict[str, Any]]]]


class NotReachable(RuntimeError):
    """ClickHouse gave no answer; the message says how, without addresses or credentials."""


def rates(counts: Mapping[str, int]) -> dict[str, float | None]:
    """The four rates of a span, each between 0 and 1 for honest input; None where nothing was counted.

    delivery and bounce: of final outcomes; deferral: of attempts; complaint: of deliveries.
    """
    delivered, failed = counts["delivery"], counts["bounce"] + counts["expiry"]
    attempts = delivered + counts["bounce"] + counts["delay"]
    return {
        "delivery": _ratio(delivered, delivered + failed),
        "bounce": _ratio(failed, delivered + failed),
        "deferral": _ratio(counts["delay"], attempts),
        "complaint": _ratio(counts["complaint"], delivered),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


class Numbers:
    """Counts and rates, asked of ClickHouse at most once a second."""

    def __init__(self, ask: Ask, clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = asyncio.Lock()
        self._good_until = float("-inf")
        self._last: dict[str, Any] = {}

    async def get(self) -> dict[str, Any]:
        """`clickhouse` (reachable, message), `last_24_hours`, `total` and `providers`; the latter three
        are None and empty where ClickHouse does not answer. Never raises for that."""
        async with self._lock:
            began = self._clock()
            if began >= self._good_until:
                self._last = await self._fetch()
                took = self._clock() - began
                rest = min(max(_FRESH_SECONDS, _REST_FACTOR * took), _LONGEST_REST_SECONDS)
                self._good_until = began + took + rest
            return self._last

    async def _fetch(self) -> dict[str, Any]:
        try:
            # one after the other: the total, asked last, is never below a day's count
            by_provider = await self._ask(_BY_PROVIDER)
            total = await self._ask(_TOTAL)
        except NotReachable as error:
            state = {"reachable": False, "message": f"ClickHouse is not reachable: {error}"}
            return {"clickhouse": state, "last_24_hours": None, "total": None, "providers": []}
        providers = [{"provider": str(row["provider"]), **_span(row)} for row in by_provider]
        providers.sort(key=lambda row: (-row["counts"]["delivery"], row["provider"]))
        day = {kind: sum(row["counts"][kind] for row in providers) for kind in COUNTED}
        return {
            "clickhouse": {"reachable": True, "message": ""},
            "last_24_hours": _span(day),
            "total": _span(total[0] if total else dict.fromkeys(COUNTED, 0)),
            "providers": providers[:_PROVIDERS],
        }


def _span(row: Mapping[str, Any]) -> dict[str, Any]:
    counts = {kind: int(row[kind]) for kind in COUNTED}  # UInt64 comes quoted, unless a setting says otherwise
    return {"counts": counts, "rates": rates(counts)}


class ClickHouse:
    """Asks ClickHouse over HTTP by GET, which a server takes as read-only. `close` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, sql: str) -> list[dict[str, Any]]:
        """The rows of a query that ends with FORMAT JSONEachRow. Raises NotReachable."""
        configured = self._settings.clickhouse
        try:
            url = clickhouse_url(self._settings)
        except NotRunning:  # its text names directories of this machine
            raise NotReachable("it has no address; set clickhouse.url, or start `mailecho up`") from None
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS))
        headers = {"X-ClickHouse-User": configured.user, "X-ClickHouse-Key": configured.password.get_secret_value()}
        params = {"database": configured.database, "query": sql}
        try:
            async with self._session.get(url, params=params, headers=headers) as response:
                body = await response.read()
                if response.status != 200:
                    raise NotReachable(f"it answers with HTTP {response.status}: {_first_line(body)}")
            return [orjson.loads(line) for line in body.splitlines() if line]
        except TimeoutError:
            raise NotReachable(f"no answer within {_TIMEOUT_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NotReachable(type(error).__name__) from None
        except orjson.JSONDecodeError:
            raise NotReachable("its answer is not JSON; does clickhouse.url name its HTTP port?") from None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


def _first_line(body: bytes) -> str:
    return body.decode("utf-8", "replace").strip().partition("\n")[0][:200]
