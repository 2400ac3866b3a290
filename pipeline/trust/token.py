"""Signed tokens: the ids of a message and its recipient in a form that a report brings back and nobody can forge.

`<payload>-<mac>` in lower-case base32 (RFC 4648), since some hosts fold the case of local parts. The payload is

    1 byte   format (high four bits) and flags
    1 byte   version of the key that signed it
    16       recipient key, where the flag RECIPIENT is set
    2        last day on which it is valid, in days since 1970-01-01, where EXPIRES is set
    1 + n    tenant, UTF-8, with its length in front
    rest     message id, UTF-8; packed two digits a byte where HEX is set

and the mac is the first 8 bytes of HMAC-SHA-256 (RFC 2104) over it. With `b-` in front a token is the local part of
a VERP address, so all of it stays within the 64 octets of RFC 5321 4.5.3.1.1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

DAY_MS = 86_400_000
VERP_PREFIX = "b-"
MAX_LOCAL_PART = 64

_FORMAT = 0x10
_RECIPIENT, _EXPIRES, _HEX = 1, 2, 4
_MAC_BYTES = 8  # 64 bits: whoever guesses must send us 2^63 mails
_MAC_CHARS = 13
_MAX_PAYLOAD = (MAX_LOCAL_PART - len(VERP_PREFIX) - 1 - _MAC_CHARS) * 5 // 8
_DOMAIN = b"mailecho token\0"  # another use of the same key would not give the same mac
_PACKABLE = re.compile(r"(?:[0-9a-f]{2})+")
_SHAPE = re.compile(rf"([a-z2-7]{{5,48}})-([a-z2-7]{{{_MAC_CHARS}}})", re.IGNORECASE)
#: As in running text: not inside a longer word, so that each word is tried once. The format makes the first letter a c.
_IN_TEXT = re.compile(rf"(?<![a-z2-7])c[a-z2-7]{{4,47}}-[a-z2-7]{{{_MAC_CHARS}}}(?![a-z2-7])")


class TokenKeyError(ValueError):
    """A setting of token keys that cannot be used; the message names it and the fix."""


class TokenTooLong(ValueError):
    """Tenant and message id do not fit; the message says how much room there is."""


class BadToken(ValueError):
    """Text that is no valid token of ours: malformed. The subclasses say what else."""


class Forged(BadToken):
    """It names a key of ours, and this key did not sign it."""


class UnknownKey(BadToken):
    """Signed, it says, by a key version that we do not have (any more): nothing is proved either way."""


class Expired(BadToken):
    """Signed by us, and its last day has passed."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. `recipient_key` is UUID text, "" where the token names only the message;
    `expires_ms` is the end of its last day, epoch milliseconds UTC, None where it never expires.
    """

    message: str
    tenant: str = ""
    recipient_key: str = ""
    expires_ms: int | None = None
    key_version: int = 0


class Keyring:
    """The token keys by version (0 to 255): the highest signs, all verify."""

    def __init__(self, keys: Mapping[int, bytes]) -> None:
        """Raises TokenKeyError for a version out of range and for a key of less than 16 bytes."""
        for version, key in keys.items():
            if not 0 <= version <= 255:
                raise TokenKeyError(f"tokens.keys: version {version} is not within 0 to 255")
            if len(key) < 16:
                raise TokenKeyError(
                    f"tokens.keys: the key of version {version} has {len(key)} bytes, 16 are the least: "
                    "make one with `openssl rand -hex 32`"
                )
        self._keys = dict(keys)

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Keyring:
        """From settings: each entry is `VERSION:HEX`. Raises TokenKeyError, which never shows a key."""
        keys: dict[int, bytes] = {}
        for number, entry in enumerate(entries):
            version, colon, text = entry.partition(":")
            if not colon or not version.strip().isdecimal():
                raise TokenKeyError(f'tokens.keys: entry {number} is not "VERSION:HEX", for example "1:9f86d081…"')
            try:
                key = bytes.fromhex(text.strip())
            except ValueError:
                raise TokenKeyError(
                    f"tokens.keys: the key of version {version} is not hex: make one with `openssl rand -hex 32`"
                ) from None
            if int(version) in keys:
                raise TokenKeyError(f"tokens.keys: version {version} stands twice: give the new key the next number")
            keys[int(version)] = key
        return cls(keys)

    def __bool__(self) -> bool:
        """Whether there is any key."""
        return bool(self._keys)

    @property
    def fingerprint(self) -> str:
        """What tells sets of keys apart, and may be stored: 16 hex digits."""
        h = hashlib.sha256(b"mailecho token keys\0")
        for version, key in sorted(self._keys.items()):
            h.update(bytes((version,)) + hashlib.sha256(key).digest())
        return h.hexdigest()[:16]

    @property
    def newest(self) -> int:
        """The version that signs. Raises TokenKeyError where there is none."""
        if not self._keys:
            raise TokenKeyError(
                "no token key: set MAILECHO_TOKENS__KEYS, a JSON list of VERSION:HEX, "
                "for example MAILECHO_TOKENS__KEYS='[\"1:'$(openssl rand -hex 32)'\"]'"
            )
        return max(self._keys)

    def mac(self, version: int, payload: bytes) -> bytes | None:
        """The mac of a payload under a key, None where there is no such version."""
        key = self._keys.get(version)
        return None if key is None else hmac.new(key, _DOMAIN + payload, hashlib.sha256).digest()[:_MAC_BYTES]


def make_token(
    keys: Keyring, message: str, *, tenant: str = "", recipient_key: str = "", expires_ms: int | None = None
) -> str:
    """A token for one message and, with `recipient_key` (UUID text), one recipient, signed by the newest key.

    `message` is the sender's own id of the message; hex in lower case takes half the room. `expires_ms` (epoch
    milliseconds UTC) is rounded up to the end of its day. Raises TokenTooLong, TokenKeyError, and ValueError for
    an empty message id or a key that is no UUID.
    """
    if not message:
        raise ValueError("message: a token needs the id of a message")
    version = keys.newest
    flags = _FORMAT
    body = b""
    if recipient_key:
        flags |= _RECIPIENT
        body += UUID(recipient_key).bytes
    if expires_ms is not None:
        flags |= _EXPIRES
        day = expires_ms // DAY_MS
        if not 0 <= day <= 0xFFFF:
            raise ValueError(f"expires: day {day} since 1970 is not within 0 to 65535")
        body += day.to_bytes(2, "big")
    owner = tenant.encode()
    text = message.encode()
    if _PACKABLE.fullmatch(message):
        flags |= _HEX
        text = bytes.fromhex(message)
    room = _MAX_PAYLOAD - 3 - len(body)
    if len(owner) + len(text) > room:
        raise TokenTooLong(
            f"tenant {tenant!r} and message {message!r} take {len(owner) + len(text)} bytes, and this token has room "
            f"for {room}: use shorter ids (of hex digits, in lower case and an even number, two fit into a byte)"
        )
    payload = bytes((flags, version)) + body + bytes((len(owner),)) + owner + text
    mac = keys.mac(version, payload)
    assert mac is not None, "the newest version has a key"
    return f"{_encoded(payload)}-{_encoded(mac)}"


def verify_token(keys: Keyring, text: str, *, now_ms: int | None = None) -> Token:
    """What a token says, in whatever case it comes back, with or without `b-`.

    `now_ms` (epoch milliseconds UTC) is what expiry is judged by; without it a token never expires. Raises BadToken
    for what is no token, and its subclasses Forged, UnknownKey and Expired.
    """
    text = text.strip()
    if text[:2].lower() == VERP_PREFIX:
        text = text[2:]
    found = _SHAPE.fullmatch(text)
    if found is None:
        raise BadToken("not a token: it is base32, a hyphen and 13 more characters of base32")
    payload, mac = _decoded(found[1]), _decoded(found[2])
    token = _parsed(payload)
    expected = keys.mac(token.key_version, payload)
    if expected is None:
        raise UnknownKey(f"signed by key version {token.key_version}, which tokens.keys does not have")
    if not hmac.compare_digest(mac, expected):
        raise Forged(f"key version {token.key_version} did not sign it: forged, or damaged on its way")
    if now_ms is not None and token.expires_ms is not None and now_ms >= token.expires_ms:
        raise Expired("its last day has passed")
    return token


def altered(text: str) -> bool:
    """Whether a text without `tokens_in` it holds what has the shape of one, but begins as none of ours does."""
    return _SHAPE.search(text) is not None


def tokens_in(text: str) -> list[str]:
    """What has the shape of a token in a text, in lower case, in order; at most 20."""
    if "-" not in text:
        return []
    found: dict[str, None] = {}
    for match in _IN_TEXT.finditer(text.lower()):
        found.setdefault(match[0])
        if len(found) >= 20:
            break
    return list(found)


def _parsed(payload: bytes) -> Token:
    if len(payload) < 4 or payload[0] & 0xF0 != _FORMAT or payload[0] & 0x08:
        raise BadToken("not a token of ours, or one of a newer version")
    flags, version, at = payload[0], payload[1], 2
    recipient_key, expires_ms = "", None
    try:
        if flags & _RECIPIENT:
            recipient_key = str(UUID(bytes=payload[at : at + 16]))
            at += 16
        if flags & _EXPIRES:
            expires_ms = (int.from_bytes(payload[at : at + 2], "big") + 1) * DAY_MS
            at += 2
        end = at + 1 + payload[at]
        tenant = payload[at + 1 : end].decode()
        text = payload[end:]
        message = text.hex() if flags & _HEX else text.decode()
    except (ValueError, IndexError):
        raise BadToken("not a token of ours: its payload does not read") from None
    if not message:
        raise BadToken("not a token of ours: it names no message")
    return Token(message, tenant, recipient_key, expires_ms, version)


def _encoded(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _decoded(text: str) -> bytes:
    text = text.upper()
    try:
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        raise BadToken("not a token: its base32 does not read") from None
    if _encoded(data).upper() != text:  # unused bits must be zero, so that a token has one spelling
        raise BadToken("not a token: its base32 has bits left over")
    return data
