"""Templates group replies of one kind; masking leaves no local part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.classify.template import MAX_TEMPLATE, mask_addresses, template_hash, template_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("550 5.1.1 <a@example.com>: user unknown", "550 5.1.1 <b.c@example.org>: User unknown"),
        ("421 4.7.0 [TSS04] 192.0.2.1 deferred", "421 4.7.0 [TSS04] 198.51.100.77 deferred"),
        (
            "250 2.0.0 OK 1700000000 d9443c01a7336-1e2fba0si22 - gsmtp",
            "250 2.0.0 OK 1700000001 aa443c01a7339-9e2si1 - gsmtp",
        ),
        (
            "connect to mx1.example.com[2001:db8::1]:25: timed out",
            "connect to mx2.example.net[2001:db8::2]:25: timed out",
        ),
    ],
)
def test_variable_parts_go(one: str, other: str) -> None:
    assert template_of(one) == template_of(other)


def test_codes_stay() -> None:
    assert template_of("550 5.1.1 no") == "550 5.1.1 no"
    assert template_of("550-5.7.1 no") != template_of("550-5.1.1 no")


def test_hashes() -> None:
    assert template_hash("") == ""
    assert len(template_hash("550 5.1.1 no")) == 16


def test_masking_keeps_the_domain() -> None:
    assert mask_addresses("550 <some.one+tag@example.com> no") == "550 <***@example.com> no"
    assert mask_addresses("nothing") == "nothing"


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    assert len(template_of(text)) <= MAX_TEMPLATE
    mask_addresses(text)


@given(st.from_regex(r"[a-z0-9.+_-]{1,30}@[a-z]{1,20}\.example", fullmatch=True))
def test_no_local_part_is_left(address: str) -> None:
    local = address.split("@")[0].strip(".")
    masked = mask_addresses(f"550 user {address} is unknown")
    assert address not in masked
    assert f"***@{address.split('@')[1]}" in masked
    assert f" {local}@" not in masked
