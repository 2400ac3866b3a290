from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mailecho.pipeline.config import ClickHouseSettings, Settings
from mailecho.pipeline.serve.status import ClickHouse, NotReachable, Numbers, rates
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.lookup.entries import entry
from tests.serve.parts import Served, counts, unreachable


def test_the_four_rates() -> None:
    got = rates(counts(delivery=80, bounce=15, expiry=5, delay=5, complaint=4, injection=200, rejection=9))
    assert got == {"delivery": 0.8, "bounce": 0.2, "deferral": 0.05, "complaint": 0.05}
    assert set(rates(counts()).values()) == {None}
    assert rates(counts(delay=3)) == {"delivery": None, "bounce": None, "deferral": 1.0, "complaint": None}


def test_a_page_without_clickhouse_still_has_the_lookup(served: Served) -> None:
    served.put(entry())
    status = served.get("/v1/status").json()
    assert status["clickhouse"] == {"reachable": False, "message": "ClickHouse is not reachable: nobody listens"}
    assert (status["last_24_hours"], status["total"], status["providers"]) == (None, None, [])
    assert status["lookup"]["states"]["active"] == 1


def test_clickhouse_is_asked_once_however_many_look() -> None:
    asked: list[str] = []
    now = [100.0]

    async def ask(sql: str) -> list[dict[str, Any]]:
        asked.append(sql)
        await asyncio.sleep(0)
        return [{"provider": "p", **counts(delivery=len(asked))}]

    async def main() -> None:
        numbers = Numbers(ask, clock=lambda: now[0])
        await asyncio.gather(*(numbers.get() for _ in range(50)))
        assert len(asked) == 2
        now[0] += 0.99
        await numbers.get()
        assert len(asked) == 2
        now[0] += 0.02
        await numbers.get()
        assert len(asked) == 4

    asyncio.run(main())


def test_a_slow_clickhouse_is_asked_less_often() -> None:
    now, asked = [0.0], []

    async def ask(sql: str) -> list[dict[str, Any]]:
        asked.append(sql)
        now[0] += 0.25  # twice: half a second in all
        return [{"provider": "p", **counts()}]

    async def main() -> None:
        numbers = Numbers(ask, clock=lambda: now[0])
        await numbers.get()
        now[0] += 4.9
        await numbers.get()
        assert len(asked) == 2
        now[0] += 0.2
        await numbers.get()
        assert len(asked) == 4

    asyncio.run(main())


def test_providers_are_ranked_by_volume() -> None:
    async def ask(sql: str) -> list[dict[str, Any]]:
        if "provider" not in sql:
            return [counts(delivery=1000, bounce=10)]
        rows = [{"provider": f"p{n:02}", **counts(delivery=n, bounce=1)} for n in range(30)]
        return [*rows, {"provider": "<b>", **counts(delivery="500")}]  # type: ignore[arg-type]

    async def main() -> None:
        found = await Numbers(ask).get()
        assert [p["provider"] for p in found["providers"]][:3] == ["<b>", "p29", "p28"]
        assert len(found["providers"]) == 20
        assert found["last_24_hours"]["counts"]["delivery"] == sum(range(30)) + 500
        assert found["total"]["counts"]["delivery"] == 1000

    asyncio.run(main())


def ask_at(url: str, directory: Path) -> str:
    """What is said of a ClickHouse at `url`."""

    async def main() -> str:
        clickhouse = ClickHouse(Settings(data_dir=directory, clickhouse=ClickHouseSettings(url=url)))
        try:
            with pytest.raises(NotReachable) as caught:
                await clickhouse.ask("SELECT 1 FORMAT JSONEachRow")
            return str(caught.value)
        finally:
            await clickhouse.close()

    return asyncio.run(main())


def test_what_keeps_clickhouse_from_answering_is_said_without_its_address(tmp_path: Path) -> None:
    assert "clickhouse.url" in ask_at("", tmp_path)
    assert ask_at("http://user:secret@127.0.0.1:9", tmp_path) == "ClientConnectorError"


@pytest.mark.parametrize(
    ("status", "body", "said"), [(200, b"<html>", "not JSON"), (404, b"Code: 60. No such table\nmore", "Code: 60")]
)
def test_a_wrong_answer_is_named(tmp_path: Path, status: int, body: bytes, said: str) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body)

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        settings = Settings(data_dir=tmp_path, clickhouse=ClickHouseSettings(url=f"http://127.0.0.1:{port}"))
        clickhouse = ClickHouse(settings)
        try:
            with pytest.raises(NotReachable, match=said):
                await clickhouse.ask("SELECT 1 FORMAT JSONEachRow")
        finally:
            await clickhouse.close()
            await runner.cleanup()

    asyncio.run(main())


@pytest.mark.clickhouse
def test_the_numbers_are_those_of_the_rollups(clickhouse: EmbeddedClickHouse) -> None:
    client = clickhouse.write_client()
    columns = "event_id, kind, received_at, occurred_at, provider, incidents, raw_topic, echo"
    rows = [("delivery", 1, "google", 1, 0)] * 8 + [("bounce", 1, "google", 1, 0), ("bounce", 1, "google", 1, 1)]
    rows += [("complaint", 1, "yahoo", 3, 0), ("delivery", 1, "yahoo", 1, 0), ("delivery", 48, "yahoo", 1, 0)]
    for kind, hours, provider, incidents, echo in rows:
        when = f"now64(3) - INTERVAL {hours} HOUR"
        client.command(
            f"INSERT INTO events ({columns}) SELECT generateUUIDv4(), '{kind}', {when}, {when}, '{provider}', "
            f"{incidents}, 'feedback.raw.dsn', {echo}"
        )

    async def main() -> dict[str, Any]:
        source = ClickHouse(clickhouse.settings())
        try:
            return await Numbers(source.ask).get()
        finally:
            await source.close()

    found = asyncio.run(main())
    assert found["clickhouse"] == {"reachable": True, "message": ""}
    day, total = found["last_24_hours"], found["total"]
    assert day["counts"] == counts(delivery=9, bounce=1, complaint=3)
    assert total["counts"] == counts(delivery=10, bounce=1, complaint=3)
    assert day["rates"] == {"delivery": 0.9, "bounce": 0.1, "deferral": 0.0, "complaint": 3 / 9}
    assert [p["provider"] for p in found["providers"]] == ["google", "yahoo"]
    assert found["providers"][0]["rates"]["delivery"] == 8 / 9


def test_unreachable_is_not_asked_for_every_reader() -> None:
    calls = 0

    async def ask(sql: str) -> list[dict[str, Any]]:
        nonlocal calls
        calls += 1
        return await unreachable(sql)

    async def main() -> None:
        numbers = Numbers(ask, clock=lambda: 5.0)
        for _ in range(10):
            await numbers.get()
        assert calls == 1

    asyncio.run(main())
