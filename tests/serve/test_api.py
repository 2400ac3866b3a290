from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import lmdb
import orjson
import pytest
from pydantic import TypeAdapter

from mailecho.pipeline.lookup.client import Lookup
from mailecho.pipeline.lookup.decide import Answer
from mailecho.pipeline.serve import requests
from mailecho.pipeline.serve.api import CHUNK, CheckResponse, ErrorResponse, ListResponse, StatsResponse
from tests.lookup.entries import entry
from tests.serve.parts import Served

SINGLE = "/v1/suppressions/"
CHECK = "/v1/suppressions/check"


def error(response: httpx.Response) -> dict[str, Any]:
    """The error of a response, which must have the one shape that errors have."""
    body: dict[str, Any] = response.json()
    ErrorResponse.model_validate(body)
    assert set(body) == {"error"}
    assert set(body["error"]) <= {"code", "message", "field"}
    return dict(body["error"])


def test_a_single_lookup_is_200_with_all_fields_whether_there_is_an_entry_or_not(served: Served) -> None:
    served.put(entry("bad@example.com", scope="stream", scope_id="shop/news", reason="complaint", cause=""))
    for path, allowed in (("bad@example.com?tenant=shop&stream=news", False), ("good@example.com", True)):
        response = served.get(SINGLE + path)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json"
        TypeAdapter(Answer).validate_python(response.json(), strict=True)
        assert response.json()["allowed"] is allowed
    assert response.json()["evidence"] == {"event_ids": [], "count": 0, "first": None, "last": None}


@pytest.mark.parametrize(
    "address", ["a+b@example.com", "a/b@example.com", "üser@bücher.example", "a?b=c#d@example.com", '"a b"@example.com']
)
def test_any_address_can_be_asked_for(served: Served, address: str) -> None:
    served.put(entry(address))
    response = served.get(SINGLE + quote(address, safe=""))
    assert (response.status_code, response.json()["allowed"]) == (200, False)
    assert response.json()["address"] == address


@pytest.mark.parametrize(
    ("path", "status", "code", "field"),
    [
        ("nonsense", 400, "bad_address", "address"),
        ("", 400, "bad_address", "address"),
        ("a%FFb@example.com", 400, "bad_address", "address"),
        ("a@" + "b" * 1000, 400, "bad_address", "address"),
        ("a@example.com?steam=news", 400, "unknown_parameter", "steam"),
        ("a@example.com?stream=a&stream=b", 400, "repeated_parameter", "stream"),
        ("a@example.com?stream=%FF", 400, "bad_query", None),
        ("a@example.com?tenant=" + "t" * 201, 400, "bad_parameter", "tenant"),
    ],
)
def test_what_is_wrong_with_a_single_lookup_is_named(
    served: Served, path: str, status: int, code: str, field: str | None
) -> None:
    response = served.get(SINGLE + path)
    assert response.status_code == status
    assert (error(response)["code"], error(response).get("field")) == (code, field)


def test_the_short_way_and_the_route_behind_it_give_the_same(served: Served) -> None:
    served.put(entry("bad@example.com"))

    async def both() -> list[tuple[int, bytes]]:
        gate = served.app()
        found = []
        for app in (gate, gate._app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                for path in ("bad@example.com?tenant=", "a%2Fb@example.com", "nonsense", "a@b.example?x=1"):
                    response = await client.get(SINGLE + path)
                    found.append((response.status_code, response.content))
        return found

    found = asyncio.run(both())
    assert found[:4] == found[4:]


def test_markup_in_what_a_client_sends_comes_back_as_json_text_only(served: Served) -> None:
    probe = "<img src=x onerror=alert(1)>\"'&</script>"
    served.put(entry(f"{probe}@example.com", note=probe))
    quoted = quote(probe, safe="")
    paths = [f"{SINGLE}{quoted}@example.com", f"{SINGLE}{quoted}", f"{SINGLE}a@example.com?{quoted}=1"]
    paths += ["/v1/suppressions", f"/v1/suppressions?state={quoted}", f"/{quoted}", f"/docs/{quoted}"]
    for path in paths:
        response = served.get(path)
        assert response.headers["content-type"] == "application/json", path
        assert response.headers["x-content-type-options"] == "nosniff"
        response.json()
    for path in ("/", "/docs"):
        assert served.get(path, params={"q": probe}).content == served.get(path).content


def test_a_bulk_check_answers_in_order_and_in_place(served: Served) -> None:
    served.put(entry("bad@example.com"), entry("", domain="example.net", scope="global", reason="domain"))
    addresses: list[Any] = ["bad@example.com", "no address", "good@example.com", None, "x@example.net", 7, ["x"]]
    response = served.post(CHECK, json={"addresses": addresses})
    assert response.status_code == 200
    results = response.json()["results"]
    CheckResponse.model_validate(response.json())
    assert [r.get("decision", "error") for r in results] == [
        "deny",
        "error",
        "allow",
        "error",
        "deny",
        "error",
        "error",
    ]
    assert [r["address"] for r in results] == [*addresses[:6], None]
    assert results[1]["error"]["code"] == "bad_address"


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 * CHUNK + 3])
def test_a_bulk_check_of_any_size_is_one_json_document(served: Served, count: int) -> None:
    addresses = [f"user{n}@example.com" for n in range(count)]
    served.put(*(entry(address) for address in addresses[::7]))
    body = {"addresses": addresses, "tenant": "", "stream": "news"}
    results = served.post(CHECK, json=body).json()["results"]
    assert [r["address"] for r in results] == addresses
    assert [not r["allowed"] for r in results] == [n % 7 == 0 for n in range(count)]
    assert results == Lookup.over(served.store, _identity()).check_many(addresses, "", "news")


def _identity() -> Any:
    from tests.lookup.entries import IDENTITY

    return IDENTITY


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 400, "bad_json", None),
        (b"{", 400, "bad_json", None),
        (b'{"addresses":["\xff"]}', 400, "bad_json", None),
        (b'{"addresses":["\\ud800@example.com"]}', 400, "bad_json", None),
        (b'["a@example.com"]', 400, "bad_json", None),
        (b"{}", 400, "bad_field", "addresses"),
        (b'{"addresses":"a@example.com"}', 400, "bad_field", "addresses"),
        (b'{"addresses":[],"tenant":1}', 400, "bad_field", "tenant"),
        (b'{"addresses":[],"stream":null}', 400, "bad_field", "stream"),
        (b'{"addresses":[],"steam":""}', 400, "unknown_field", "steam"),
        (orjson.dumps({"addresses": [], "tenant": "t" * 201}), 400, "bad_field", "tenant"),
        (orjson.dumps({"addresses": ["a@b.example"] * 100_001}), 413, "too_many", "addresses"),
        (b'{"addresses":[]}' + b" " * requests.MAX_BODY, 413, "too_large", None),
    ],
)
def test_what_is_wrong_with_a_bulk_check_is_named(
    served: Served, body: bytes, status: int, code: str, field: str | None
) -> None:
    response = served.post(CHECK, content=body)
    assert response.status_code == status
    assert (error(response)["code"], error(response).get("field")) == (code, field)


def test_a_body_that_never_ends_is_refused_at_the_limit(served: Served) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 10 * requests.MAX_BODY:
            sent += 1 << 20
            yield b" " * (1 << 20)

    response = served.post(CHECK, content=endless())
    assert (response.status_code, error(response)["code"]) == (413, "too_large")
    # the transport hands over the whole body; what matters is that no more of it is kept
    assert "content-length" not in response.request.headers


def test_single_lookups_get_their_turn_while_a_bulk_check_runs(served: Served) -> None:
    """Not a matter of time: between the parts of a large answer, others run."""
    order: list[str] = []

    async def main() -> None:
        app = served.app()
        body = orjson.dumps({"addresses": [f"user{n}@example.com" for n in range(50 * CHUNK)]})

        began = asyncio.Event()
        bodies = [body]

        async def receive() -> dict[str, Any]:
            if not bodies:
                await asyncio.Event().wait()  # the client stays
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        async def send_bulk(message: Any) -> None:
            order.append("bulk")
            began.set()

        async def send_single(message: Any) -> None:
            order.append("single")

        def scope(method: str, path: str) -> dict[str, Any]:
            head = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
            return head | {
                "headers": [(b"host", b"localhost")],
                "http_version": "1.1",
                "scheme": "http",
                "root_path": "",
            }

        async def singles() -> None:
            await began.wait()
            for _ in range(20):
                await app(scope("GET", SINGLE + "a@example.com"), receive, send_single)
                await asyncio.sleep(0)

        await asyncio.gather(app(scope("POST", CHECK), receive, send_bulk), singles())

    asyncio.run(main())
    assert order.index("single") < len(order) - 1 - order[::-1].index("bulk")
    assert order[-1] == "bulk", "the last single lookup was answered before the bulk check ended"


def test_the_list_goes_page_by_page(served: Served) -> None:
    states = ["active", "watch", "held"]
    served.put(*(entry(f"user{n}@example.com", state=states[n % 3]) for n in range(30)))
    seen: list[str] = []
    query: dict[str, str] = {"state": "held", "limit": "4"}
    while True:
        page = served.get("/v1/suppressions", params=query).json()
        ListResponse.model_validate(page)
        seen += [e["address"] for e in page["entries"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert len(seen) == len(set(seen)) == 10
    assert "facts" not in page["entries"][0]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=gone", "state"), ("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"),
        ("limit=%D9%A3", "limit"), ("cursor=!", "cursor"), ("cursor=" + "A" * 2000, "cursor"), ("page=2", "page"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_listing_is_named(served: Served, query: str, field: str) -> None:
    response = served.get(f"/v1/suppressions?{query}")
    assert (response.status_code, error(response)["field"]) == (400, field)


def test_stats_count_by_state_and_reason(served: Served) -> None:
    served.put(entry("a@example.com"), entry("b@example.com", state="held", reason="complaint"))
    served.put(entry("c@example.com", state="watch", reason="soft_bounce"), entry("a@example.com", version=2))
    stats = served.get("/v1/suppressions/stats").json()
    StatsResponse.model_validate(stats)
    assert stats == {
        "entries": 3,
        "states": {"watch": 1, "active": 1, "held": 1, "released": 0, "expired": 0},
        "reasons": {"hard_bounce": 1, "complaint": 1},
    }


def test_a_map_that_is_still_loading_says_so_everywhere(served: Served) -> None:
    served.store.clear({})
    served.progress.ready, served.progress.reason = False, "catching up with the suppression list"
    requests_ = [served.get(SINGLE + "a@example.com"), served.get("/v1/suppressions"), served.get("/readyz")]
    requests_.append(served.post(CHECK, json={"addresses": ["a@example.com"]}))
    for response in requests_:
        assert (response.status_code, error(response)["code"]) == (503, "not_ready")
        assert error(response)["message"] == "catching up with the suppression list"
    assert served.get("/healthz").status_code == 200


def test_a_map_that_was_complete_answers_while_it_catches_up(served: Served) -> None:
    served.progress.ready, served.progress.reason = False, "catching up"
    assert served.get("/readyz").status_code == 503
    assert served.get(SINGLE + "a@example.com").status_code == 200


def test_a_damaged_map_is_reported_to_whoever_makes_it(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any) -> None:
        raise lmdb.CorruptedError("page 7")

    monkeypatch.setattr(Lookup, "check", damaged)
    monkeypatch.setattr(Lookup, "check_many", damaged)
    responses = [served.get(SINGLE + "a@example.com"), served.post(CHECK, json={"addresses": ["a@example.com"]})]
    assert [(r.status_code, error(r)["code"]) for r in responses] == [(503, "not_ready")] * 2
    assert "page 7" in served.progress.damage


def test_errors_of_ours_have_the_same_shape(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(Lookup, "check", fails)
    monkeypatch.setattr("mailecho.pipeline.serve.api.Service.stats", fails)
    for path in (SINGLE + "a@example.com", "/v1/suppressions/stats"):
        response = served.get(path)
        assert (response.status_code, error(response)["code"]) == (500, "internal")
        assert "secret" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/static/../app.py", 404),
        ("PUT", CHECK, 405),
        ("DELETE", SINGLE + "a@b.c", 405),
    ],
)
def test_unknown_paths_and_methods_have_the_same_shape(served: Served, method: str, path: str, status: int) -> None:
    response = served.run(lambda client: client.request(method, path))
    assert response.status_code == status
    error(response)


def test_openapi_describes_every_route_and_the_answers_fit_it(served: Served) -> None:
    document = served.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/suppressions/{address}", "/v1/suppressions/check", "/v1/suppressions", "/v1/suppressions/stats",
        "/v1/status", "/healthz", "/readyz",
    }  # fmt: skip
    answer = document["components"]["schemas"]["Answer"]
    assert set(answer["properties"]) == set(served.get(SINGLE + "a@example.com").json())
    body = document["paths"][CHECK]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["addresses"]


def test_metrics_count_decisions(served: Served) -> None:
    def value(name: str) -> float:
        lines = served.get("/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    served.put(entry("bad@example.com"))
    deny, allow = (
        'mailecho_lookup_decisions_total{decision="deny"}',
        'mailecho_lookup_decisions_total{decision="allow"}',
    )
    before = value(deny), value(allow)
    served.get(SINGLE + "bad@example.com")
    served.post(CHECK, json={"addresses": ["bad@example.com", "good@example.com"]})
    assert (value(deny), value(allow)) == (before[0] + 2, before[1] + 1)
    assert value('mailecho_lookup_entries{state="active"}') == 1
