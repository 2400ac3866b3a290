"""Tokens: what goes in comes out, whatever hosts do to the case; nothing else is taken for one."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.trust.places import Place, candidates, placements
from mailecho.pipeline.trust.token import (
    DAY_MS,
    MAX_LOCAL_PART,
    BadToken,
    Expired,
    Forged,
    Keyring,
    Token,
    TokenKeyError,
    TokenTooLong,
    UnknownKey,
    make_token,
    tokens_in,
    verify_token,
)

OLD, NEW = b"o" * 32, b"n" * 32
KEYS = Keyring({1: OLD})
KEY = "b225a218-f681-49e0-4f77-44e8dcc412da"


@given(
    message=st.text(min_size=1, max_size=12),
    tenant=st.text(max_size=12),
    key=st.none() | st.uuids(),
    days=st.none() | st.integers(0, 60_000),
)
def test_what_goes_in_comes_out_and_fits_a_local_part(
    message: str, tenant: str, key: uuid.UUID | None, days: int | None
) -> None:
    expires = None if days is None else days * DAY_MS
    try:
        token = make_token(KEYS, message, tenant=tenant, recipient_key=str(key) if key else "", expires_ms=expires)
    except TokenTooLong:
        return
    assert len(f"b-{token}") <= MAX_LOCAL_PART
    wanted = Token(message, tenant, str(key) if key else "", None if expires is None else expires + DAY_MS, 1)
    assert verify_token(KEYS, token) == verify_token(KEYS, f"B-{token.upper()}") == wanted


@pytest.mark.parametrize("message", ["5f3a09", "00ff", "A1", "abc", "order-17", "0123456789abcdef0123"])
def test_a_message_id_keeps_its_spelling(message: str) -> None:
    assert verify_token(KEYS, make_token(KEYS, message, recipient_key=KEY)).message == message


def test_what_does_not_fit_is_refused_with_the_room_there_is() -> None:
    with pytest.raises(TokenTooLong, match="room for 11"):
        make_token(KEYS, "a-long-message-id", tenant="shop", recipient_key=KEY)
    with pytest.raises(ValueError, match="message"):
        make_token(KEYS, "")


def test_the_newest_key_signs_and_all_verify() -> None:
    old = make_token(KEYS, "m1")
    both = Keyring({1: OLD, 2: NEW})
    assert verify_token(both, old).key_version == 1
    assert verify_token(both, make_token(both, "m1")).key_version == 2
    with pytest.raises(UnknownKey, match="version 1"):
        verify_token(Keyring({2: NEW}), old)


@given(st.integers(0, 200), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_no_changed_character_is_accepted(at: int, letter: str) -> None:
    token = make_token(KEYS, "m1", tenant="shop", recipient_key=KEY)
    at %= len(token)
    changed = token[:at] + letter + token[at + 1 :]
    if changed != token:
        with pytest.raises(BadToken):
            verify_token(KEYS, changed)


def test_another_key_of_the_same_version_is_a_forgery() -> None:
    with pytest.raises(Forged):
        verify_token(KEYS, make_token(Keyring({1: NEW}), "m1"))


def test_expiry_is_the_end_of_its_day_and_needs_a_clock() -> None:
    token = make_token(KEYS, "m1", expires_ms=5 * DAY_MS + 7)
    assert verify_token(KEYS, token, now_ms=6 * DAY_MS - 1).expires_ms == 6 * DAY_MS
    assert verify_token(KEYS, token).message == "m1"
    with pytest.raises(Expired):
        verify_token(KEYS, token, now_ms=6 * DAY_MS)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        (["abcd"], "VERSION:HEX"),
        (["1:xyz"], "not hex"),
        (["1:" + "ab" * 8], "16 are the least"),
        (["1:" + "ab" * 32, "1:" + "cd" * 32], "twice"),
        (["256:" + "ab" * 32], "0 to 255"),
    ],
)
def test_wrong_keys_are_refused_without_being_shown(entries: list[str], says: str) -> None:
    with pytest.raises(TokenKeyError, match=says) as caught:
        Keyring.parse(entries)
    assert "abab" not in str(caught.value)


def test_without_a_key_nothing_is_signed_and_the_message_says_how_to_make_one() -> None:
    with pytest.raises(TokenKeyError, match="openssl rand"):
        make_token(Keyring({}), "m1")


@given(st.text(max_size=80))
def test_any_text_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(BadToken):
        verify_token(KEYS, text)
    tokens_in(text)


TOKEN = make_token(KEYS, "5f3a09", tenant="shop", recipient_key=KEY)


@pytest.mark.parametrize(
    "value",
    [
        f"<b-{TOKEN}@bounces.sender.example>",
        f"rfc822; B-{TOKEN.upper()}@BOUNCES.SENDER.EXAMPLE",
        f"SRS0=x9Kl=C7=bounces.sender.example=b-{TOKEN}@forwarder.example",
        f"prvs=1234567abc=b-{TOKEN}@bounces.sender.example",
    ],
)
def test_a_return_path_is_found_in_what_hosts_wrap_it_into(value: str) -> None:
    assert candidates(Place.VERP, value) == [TOKEN]


def test_every_placement_brings_the_token_back() -> None:
    places = placements(TOKEN, bounce_domain="bounces.sender.example", unsubscribe_url="https://sender.example/u?t=")
    assert len(places.pop("MAIL FROM").partition("@")[0]) - 1 <= MAX_LOCAL_PART
    assert places.pop("List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"
    for name, value in places.items():
        assert tokens_in(value) == [TOKEN], name


def test_looking_for_tokens_is_linear() -> None:
    assert tokens_in("a" * 1_000_000 + "-" + "b" * 13) == []
    assert tokens_in("c2a-" * 250_000) == []
