from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from mailecho.pipeline.config import ApiSettings, Settings
from mailecho.pipeline.serve.app import ServeRefused, check_exposure, listen
from mailecho.pipeline.serve.gate import is_loopback
from tests.serve.parts import Served

TOKEN = "a token with ünicode: and colons"
PROTECTED = ["/", "/docs", "/openapi.json", "/static/page.css", "/v1/status", "/v1/suppressions",
             "/v1/suppressions/a@example.com", "/v1/suppressions/stats", "/nothing"]  # fmt: skip


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, bytes]:
    return {"Authorization": b"Bearer " + token.encode()}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path, host="0.0.0.0", token=TOKEN)
    yield served
    served.store.close()


@pytest.mark.parametrize("path", PROTECTED)
def test_with_a_token_every_page_and_answer_needs_it(guarded: Served, path: str) -> None:
    wrong = [
        {},
        bearer("wrong"),
        bearer(""),
        bearer(TOKEN + "x"),
        bearer(TOKEN[:-1]),
        basic("x", "wrong"),
        basic(TOKEN, ""),
    ]
    wrong += [
        {"Authorization": value}
        for value in ("", "Bearer", "Basic", "Basic %%%", "Basic YQ==", "Digest x", TOKEN.encode())
    ]
    for headers in wrong:
        response = guarded.get(path, headers=headers)
        assert response.status_code == 401, headers
        assert response.json()["error"]["code"] == "unauthorized"
        assert TOKEN not in response.text
        assert "Basic" in response.headers["www-authenticate"], "a browser asks for it"
    expected = 404 if path == "/nothing" else 200
    for headers in (bearer(TOKEN), basic("anyone", TOKEN), basic("", TOKEN)):
        assert guarded.get(path, headers=headers).status_code == expected


def test_probes_and_metrics_need_no_token(guarded: Served) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert guarded.get(path).status_code == 200


def test_a_bulk_check_needs_the_token(guarded: Served) -> None:
    body = {"addresses": ["a@example.com"]}
    assert guarded.post("/v1/suppressions/check", json=body).status_code == 401
    assert guarded.post("/v1/suppressions/check", json=body, headers=bearer(TOKEN)).status_code == 200


def test_a_token_on_loopback_counts_as_well(tmp_path: Path) -> None:
    served = Served(tmp_path, token=TOKEN)
    assert served.get("/v1/status").status_code == 401
    assert served.get("/v1/status", headers=bearer(TOKEN) | {"Host": "evil.example"}).status_code == 421
    served.store.close()


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST.:1", "127.0.0.1:80", "127.8.9.1", "[::1]:8080", "[::1]"]
)
def test_on_loopback_names_of_this_machine_are_served(served: Served, host: str) -> None:
    assert served.get("/v1/suppressions/a@example.com", headers={"Host": host}).status_code == 200
    assert served.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1",
     "[::1].evil.example", "[2001:db8::1]", "[", "localhost@evil.example", "0.0.0.0"],
)  # fmt: skip
def test_on_loopback_other_names_are_refused(served: Served, host: str) -> None:
    for path in ("/v1/suppressions/a@example.com", "/", "/metrics", "/healthz"):
        response = served.get(path, headers={"Host": host})
        assert (response.status_code, response.json()["error"]["code"]) == (421, "wrong_host")


def test_beyond_loopback_the_token_is_enough(guarded: Served) -> None:
    assert guarded.get("/v1/status", headers=bearer(TOKEN) | {"Host": "mail.example.com"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    check_exposure(Settings(api=ApiSettings(host=host)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "mail.example.com", "localhost.example.com"])
def test_any_other_address_without_a_token_is_refused_by_name(host: str) -> None:
    with pytest.raises(ServeRefused, match=r"api\.token.*MAILECHO_API__TOKEN"):
        check_exposure(Settings(api=ApiSettings(host=host)))
    check_exposure(Settings(api=ApiSettings(host=host, token=SecretStr("set"))))


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeRefused, match=rf"api\.port = {port}.*MAILECHO_API__PORT"):
            listen("127.0.0.1", port)


def test_every_response_has_the_headers_of_safety(served: Served) -> None:
    for path in (*PROTECTED, "/v1/suppressions/nonsense", "/metrics"):
        headers = served.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers.get_list("content-security-policy", split_commas=False).__len__() == 1


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere_and_nothing_inline(served: Served, path: str) -> None:
    page = served.get(path).text
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert loaded
    for url in loaded:
        assert url.startswith("/"), url
        assert not url.startswith("//")
        assert served.get(url).status_code == 200, url
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page), "the policy would refuse it"
    for url in loaded:
        if url.startswith("/static/"):
            text = served.get(url).text.replace('xmlns="http://www.w3.org/2000/svg"', "")
            assert not re.search(r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text), url
