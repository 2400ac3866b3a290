from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailecho.pipeline.identity import Identity, IdentityKeyError, NotAnAddress
from mailecho.pipeline.lookup import client as client_module
from mailecho.pipeline.lookup.client import BadName, Lookup, NotReady, StoreUnusable
from mailecho.pipeline.lookup.store import Store
from tests.lookup.entries import DAY, IDENTITY, NOW, change, entry, removal

READY = {"complete": b"1", "identity": IDENTITY.fingerprint.encode()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    store.apply([], {}, now_ms=NOW, forget_ms=DAY, meta=READY)
    yield store
    store.close()


def put(store: Store, *entries: dict[str, object]) -> None:
    store.apply([change(values) for values in entries], {}, now_ms=NOW, forget_ms=DAY)


def test_scopes_reach_as_far_as_they_say(store: Store) -> None:
    put(
        store,
        entry("everywhere@example.com", scope="global"),
        entry("tenant@example.com", scope="tenant", scope_id="shop"),
        entry("default@example.com", scope="tenant", scope_id=""),
        entry("stream@example.com", scope="stream", scope_id="shop/news"),
        entry("bare@example.com", scope="stream", scope_id="/news"),
    )
    lookup = Lookup.over(store, IDENTITY)
    reach = {
        "everywhere@example.com": {("", ""), ("", "news"), ("shop", ""), ("shop", "news")},
        "tenant@example.com": {("shop", ""), ("shop", "news")},
        "default@example.com": {("", ""), ("", "news")},
        "stream@example.com": {("shop", "news")},
        "bare@example.com": {("", "news")},
    }
    for address, denied in reach.items():
        for tenant in ("", "shop"):
            for stream in ("", "news"):
                answer = lookup.check(address, tenant, stream)
                assert answer["allowed"] is ((tenant, stream) not in denied), (address, tenant, stream)


def test_names_with_slashes_do_not_reach_into_each_other(store: Store) -> None:
    put(store, entry("user@example.com", scope="stream", scope_id="a/b"))
    lookup = Lookup.over(store, IDENTITY)
    assert not lookup.check("user@example.com", "a", "b")["allowed"]
    assert lookup.check("user@example.com", "a/b", "")["allowed"]


def test_a_domain_entry_denies_its_addresses_and_no_others(store: Store) -> None:
    put(store, entry("", domain="xn--bcher-kva.example", scope="global", reason="domain", cause="domain_unknown"))
    lookup = Lookup.over(store, IDENTITY)
    assert lookup.check("a@Bücher.example")["reason"] == "domain"
    assert lookup.check("a@sub.xn--bcher-kva.example")["allowed"]


def test_an_address_is_found_however_it_is_written(store: Store) -> None:
    put(store, entry("first.last+tag@example.com"))
    lookup = Lookup.over(store, IDENTITY)
    for written in ("First.Last+Tag@EXAMPLE.com", "<first.last+tag@example.com.>", '"first.last+tag"@example.com'):
        answer = lookup.check(written)
        assert not answer["allowed"]
        assert answer["address"] == written
    assert lookup.check("firstlast@example.com")["allowed"]


def test_many_gives_each_its_answer_in_order(store: Store) -> None:
    put(store, entry("bad@example.com"), entry("", domain="example.net", scope="global", reason="domain"))
    addresses: list[Any] = [
        "good@example.com",
        "bad@example.com",
        "no address",
        None,
        "x@example.net",
        "y@example.net",
        7,
        {},
    ]
    lookup = Lookup.over(store, IDENTITY)
    results = lookup.check_many(addresses)
    assert [r.get("decision", "error") for r in results] == [
        "allow", "deny", "error", "error", "deny", "deny", "error", "error",
    ]  # fmt: skip
    assert [r["address"] for r in results] == [*addresses[:7], None]
    assert results[2]["error"]["field"] == "address"  # type: ignore[typeddict-item]
    assert lookup.check_many([]) == []


def test_a_removed_entry_allows_again(store: Store) -> None:
    put(store, entry())
    store.apply([removal(entry(), 2)], {}, now_ms=NOW, forget_ms=DAY)
    assert Lookup.over(store, IDENTITY).check("user@example.com")["state"] is None


def test_wrong_input_is_named(store: Store) -> None:
    lookup = Lookup.over(store, IDENTITY)
    with pytest.raises(NotAnAddress, match="needs a local part"):
        lookup.check("example.com")
    with pytest.raises(BadName, match="tenant has 201"):
        lookup.check("user@example.com", "t" * 201)
    with pytest.raises(BadName, match="stream is not Unicode"):
        lookup.check("user@example.com", "", "\ud800")


def test_longest_names_are_found(store: Store) -> None:
    tenant, stream = "é" * 200, "ü" * 200
    put(store, entry(scope="stream", scope_id=f"{tenant}/{stream}"))
    assert not Lookup.over(store, IDENTITY).check("user@example.com", tenant, stream)["allowed"]


def test_a_map_that_is_still_loading_answers_nothing(store: Store) -> None:
    store.clear({})
    with pytest.raises(NotReady):
        Lookup.over(store, IDENTITY).check("user@example.com")


def in_another_process(directory: Path, address: str) -> str:
    """What a second process says, the writer having the map open."""
    program = (
        "import sys; from pathlib import Path; from mailecho.pipeline.lookup.client import Lookup\n"
        "from tests.lookup.entries import IDENTITY\n"
        "with Lookup(Path(sys.argv[1]), IDENTITY) as lookup: print(lookup.check(sys.argv[2])['decision'])"
    )
    command = [sys.executable, "-c", program, str(directory), address]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_reads_beside_the_writer(store: Store) -> None:
    put(store, entry())
    assert in_another_process(store.directory, "user@example.com") == "deny"
    assert in_another_process(store.directory, "other@example.com") == "allow"


def test_a_reader_follows_a_map_that_was_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_LOOK_SECONDS", 0.0)
    writer = (
        "import sys; from pathlib import Path; from mailecho.pipeline.lookup.store import Store\n"
        "from tests.lookup.entries import *\n"
        "s = Store(Path(sys.argv[1])); again = sys.argv[2] == 'again'\n"
        "if again: s.rebuild()\n"
        "meta = {'complete': b'1', 'identity': IDENTITY.fingerprint.encode()}\n"
        "s.apply([change(entry())] if again else [], {}, now_ms=NOW, forget_ms=DAY, meta=meta); s.close()\n"
    )
    subprocess.run([sys.executable, "-c", writer, str(tmp_path), "first"], check=True)
    with Lookup(tmp_path, IDENTITY) as lookup:
        assert lookup.check("user@example.com")["allowed"]
        subprocess.run([sys.executable, "-c", writer, str(tmp_path), "again"], check=True)
        assert not lookup.check("user@example.com")["allowed"]


def test_another_identity_key_is_refused(store: Store) -> None:
    store.close()
    with pytest.raises(IdentityKeyError, match="identity_key"):
        Lookup(store.directory, Identity(b"another key, also 32 bytes long."))


def test_no_map_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match="no lookup map"):
        Lookup(tmp_path, IDENTITY)
