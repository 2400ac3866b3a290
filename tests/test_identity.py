"""Addresses and their keys: what is one mailbox, and a key that lives as long as the data."""

from __future__ import annotations

import hashlib
import hmac
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline import identity
from mailecho.pipeline.config import Settings
from mailecho.pipeline.identity import (
    KEY_FILE,
    Identity,
    IdentityKeyError,
    NotAnAddress,
    load_identity,
    normalise,
    normalise_domain,
)

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("  anna@example.com \n", "anna@example.com"),
        ("<anna@example.com>", "anna@example.com"),
        (" < anna@example.com > ", "anna@example.com"),
        ('"anna"@example.com', "anna@example.com"),
        ('"anna.b+c"@example.com', "anna.b+c@example.com"),
        # quotes that are needed stay
        ('"anna b"@example.com', '"anna b"@example.com'),
        ('"anna..b"@example.com', '"anna..b"@example.com'),
        ('"anna@home"@example.com', '"anna@home"@example.com'),
        # domain: lower case, A-labels, no trailing dot
        ("anna@EXAMPLE.Com.", "anna@example.com"),
        ("anna@Bücher.example", "anna@xn--bcher-kva.example"),
        ("anna@XN--BCHER-KVA.example", "anna@xn--bcher-kva.example"),
        ("anna@faß.example", "anna@xn--fa-hia.example"),  # UTS 46 non-transitional: not fass
        ("anna@mail_1.example.com", "anna@mail_1.example.com"),  # IDNA refuses it, mail goes there
        ("anna@[192.0.2.1]", "anna@[192.0.2.1]"),
        # local part: NFC, lower case; not NFKC
        ("Anna.B@example.com", "anna.b@example.com"),
        ("bu\u0308cher@example.com", "bücher@example.com"),
        ("Ünal@example.com", "ünal@example.com"),
        ("ﬁne@example.com", "ﬁne@example.com"),
        ("２@example.com", "２@example.com"),
        # tags, dots and other domains of one provider are other mailboxes
        ("anna+news@example.com", "anna+news@example.com"),
        ("an.na@gmail.com", "an.na@gmail.com"),
        ("anna@googlemail.com", "anna@googlemail.com"),
    ],
)
def test_normalise(written: str, normal: str) -> None:
    assert normalise(written) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize(
    "text",
    ["", " ", "<>", "anna", "@example.com", "anna@", "<anna@>", "anna@exa mple.com", "an\x00na@example.com",
     "anna@example.com\nBcc: x@example.org", "anna@exam\x7fple.com", "a" * 1000 + "@example.com"],
)  # fmt: skip
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(NotAnAddress, match="address"):
        normalise(text)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_not(text: str) -> None:
    for candidate in (text, f"{text}@example.com", f"anna@{text}"):
        try:
            normal = normalise(candidate)
        except NotAnAddress:
            continue
        assert normal == normalise(f" {candidate} ")
        assert Identity(KEY).recipient_key(candidate) == Identity(KEY).key_of(normal)


@given(st.text(max_size=40))
def test_any_domain_is_kept_somehow(text: str) -> None:
    assert isinstance(normalise_domain(text), str)


def test_key_vectors() -> None:
    """These never change: another result orphans every entry of every installation."""
    identity = Identity(KEY)
    assert identity.recipient_key("anna@example.com") == VECTORS["anna@example.com"]
    assert identity.recipient_key(" <Anna@EXAMPLE.com.> ") == VECTORS["anna@example.com"]
    assert identity.recipient_key("ünal@bücher.example") == VECTORS["ünal@xn--bcher-kva.example"]
    assert identity.domain_key("Example.com.") == VECTORS["@example.com"]
    assert identity.fingerprint == hashlib.sha256(b"mailecho identity key\0" + KEY).hexdigest()[:16]
    for text, key in VECTORS.items():  # as the design has it: HMAC-SHA-256, the first 16 bytes
        assert uuid.UUID(key).bytes == hmac.digest(KEY, text.encode(), "sha256")[:16]


VECTORS = {
    "anna@example.com": "b8fd89ed-3ebe-8c50-94f8-a418341f8431",
    "ünal@xn--bcher-kva.example": "4df8f64a-3ce1-2dbe-c8eb-4710d3e6f33f",
    "@example.com": "4e890286-a702-304c-d678-05e028ea7284",
}


def test_another_key_gives_other_keys() -> None:
    one, other = Identity(KEY), Identity(KEY[::-1])
    assert one.recipient_key("anna@example.com") != other.recipient_key("anna@example.com")
    assert one.fingerprint != other.fingerprint


def test_the_fingerprint_does_not_tell_the_key() -> None:
    assert KEY.hex()[:16] not in Identity(KEY).fingerprint
    assert len(Identity(KEY).fingerprint) == 16


def test_the_setting_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text(KEY[::-1].hex())
    settings = Settings.model_validate({"data_dir": tmp_path, "identity_key": KEY.hex()})
    assert load_identity(settings).fingerprint == Identity(KEY).fingerprint
    assert load_identity(Settings(data_dir=tmp_path)).fingerprint == Identity(KEY[::-1]).fingerprint


@pytest.mark.parametrize(
    ("setting", "says"), [("zzzz", "openssl rand -hex 32"), ("c0ffee", "3 bytes"), ("REPLACE_ME", "not hex")]
)
def test_a_bad_setting_is_refused(tmp_path: Path, setting: str, says: str) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "identity_key": setting})
    with pytest.raises(IdentityKeyError, match=says) as refused:
        load_identity(settings)
    assert "identity_key" in str(refused.value)
    assert setting not in str(refused.value)


def test_no_key_is_refused_with_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(IdentityKeyError, match="MAILECHO_IDENTITY_KEY") as refused:
        load_identity(Settings(data_dir=tmp_path))
    assert str(tmp_path / KEY_FILE) in str(refused.value)
    assert list(tmp_path.iterdir()) == [], "only `create` makes one"


def test_the_first_start_makes_a_key_and_the_second_finds_it(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    first = load_identity(settings, create=True)
    file = tmp_path / "new" / KEY_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(bytes.fromhex(file.read_text().strip())) == 32
    assert load_identity(settings, create=True).fingerprint == first.fingerprint
    assert load_identity(settings).fingerprint == first.fingerprint
    assert [path.name for path in file.parent.iterdir()] == [KEY_FILE]


RACER = """
import sys
from pathlib import Path
from mailecho.pipeline import identity
from mailecho.pipeline.config import Settings
from mailecho.pipeline.identity import load_identity

settings = Settings(data_dir=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print(load_identity(settings, create=True).fingerprint)
"""


def test_two_first_starts_at_once_make_one_key(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    fingerprints = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 4
    assert len(fingerprints) == 1
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


@given(key=st.binary(min_size=16, max_size=100), text=st.text(max_size=60))
def test_the_key_is_hmac_sha256(key: bytes, text: str) -> None:
    expected = hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()[:16]
    assert Identity(key).key_of(text) == str(uuid.UUID(bytes=expected))


@given(address=st.from_regex(identity._PLAIN, fullmatch=True))
def test_the_short_way_to_a_normal_form_is_the_long_one(address: str) -> None:
    # a space in front is stripped, and keeps it from the short way
    assert normalise(address) == normalise(" " + address)
